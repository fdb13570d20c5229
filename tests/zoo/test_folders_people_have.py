"""Folders and tables as people have them; see `test_files_people_have.py`."""

import os
import pathlib

import pytest

torch = pytest.importorskip("torch")

from siren_files import KEYS, SPEC, state

from probegen_jax.errors import UserError
from probegen_jax.zoo import own
from probegen_jax.zoo.files import archives, torch_files
from probegen_jax.zoo.own.targets import read_csv

UNDER = "networks are read from under the key {!r}"


def folder_of(path: pathlib.Path, names):
    (path / "zoo").mkdir()
    for n, name in enumerate(names):
        torch_files.save_inr(path / "zoo" / name, {k: v.numpy() for k, v in state(n).items()})
    return path / "zoo"


def zoo(folder, text, **options):
    file = folder.parent / "targets.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    options = {"task": "classification", "data_dir": folder.parent / "data"} | options
    return own.from_folder(folder, file, SPEC, KEYS, **options)


FILES = [f"{n}.pth" for n in range(12)]
LINES = ["path,target", *(f"{name},{n % 2}" for n, name in enumerate(FILES))]


@pytest.mark.parametrize(
    ("twin", "make"),
    [
        ("./0.pth", None),
        ("sub/../0.pth", lambda folder: (folder / "sub").mkdir()),
        ("link.pth", lambda folder: (folder / "link.pth").symlink_to("0.pth")),
        ("hard.pth", lambda folder: os.link(folder / "0.pth", folder / "hard.pth")),
        ("there/0.pth", lambda folder: (folder / "there").symlink_to(folder)),
        ("ABSOLUTE", None),
    ],
)
def test_one_file_under_two_names_is_refused_naming_both(twin, make, tmp_path):
    folder = folder_of(tmp_path, FILES)
    if make is not None:
        make(folder)
    twin = str(folder / "0.pth") if twin == "ABSOLUTE" else twin
    with pytest.raises(UserError) as error:
        zoo(folder, "\n".join([*LINES, f"{twin},1"]), skip_bad=True)
    assert f"targets.csv: 0.pth and {twin} are the same file; list it once" in str(error.value)
    assert len(zoo(folder, "\n".join(LINES))) == 12


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_so_it_is_in_the_folders_of_published_zoos(link, tmp_path):
    (tmp_path / "top" / "a").mkdir(parents=True)
    (tmp_path / "top" / "a" / "1.pth").write_bytes(b"x")
    link(tmp_path / "top" / "a" / "1.pth", tmp_path / "top" / "2.pth")
    found = archives.Folder(tmp_path, "top")
    assert found.names == {"top/a/1.pth", "top/2.pth"}
    assert found.read("top/a/1.pth") == found.read("top/a/1.pth") == b"x"
    with pytest.raises(UserError, match=r"top/a/1\.pth and top/2\.pth are the same file"):
        found.read("top/2.pth")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_csvs_as_spreadsheets_write_them(separator, encoding, quote, tmp_path):
    rows = [["Path", "target ", "split"], ["a b,c;d.pth", "0,5", "train"], ["", "", ""]]
    rows += [["ä.pth", "1.5", "val"]]
    quoted = quote or '"' * (separator in ",;")
    text = "\r\n".join(separator.join(f"{quoted}{x}{quoted}" for x in row) for row in rows)
    if separator == ",":
        text = text.replace("0,5", "0.5")
    hint = f"sep={separator}\r\n" * (encoding == "utf-16")
    (tmp_path / "x.csv").write_bytes((hint + text + "\r\n\r\n").encode(encoding))
    found = read_csv(tmp_path / "x.csv", "regression")
    assert found.paths == ["a b,c;d.pth", "ä.pth"]
    assert found.targets.tolist() == [0.5, 1.5] and found.splits == ["train", "val"]
    (tmp_path / "x.csv").write_bytes((hint + text.replace("1.5", "?")).encode(encoding))
    with pytest.raises(UserError, match=f"line {4 + bool(hint)}: target '\\?'"):
        read_csv(tmp_path / "x.csv", "regression")


def test_if_nothing_is_left_the_first_reason_is_told(tmp_path):
    folder = folder_of(tmp_path, ["0.pth", "1.pth"])
    for name in ("0.pth", "1.pth"):
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 2 networks .* first, .*0\.pth: is an empty file"):
        zoo(folder, "path,target\n0.pth,0\n1.pth,1\n", skip_bad=True)


def test_what_was_converted_is_said_once_and_again_from_the_cache(tmp_path, capsys):
    folder = folder_of(tmp_path, FILES)
    for n in (3, 4, 5):
        torch.save({"net": {k: v.double() for k, v in state(n).items()}}, folder / f"{n}.pth")
    for _ in range(2):
        zoo(folder, "\n".join(LINES))
        shown = capsys.readouterr().out
        assert shown.count("float64 are converted to float32") == 1
        assert f"zoo: {UNDER.format('net')} ({folder}/3.pth and 2 more)" in shown
