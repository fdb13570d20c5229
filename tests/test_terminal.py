"""What commands print where the terminal, the locale or the output is not what they would like."""

import os
import pathlib
import subprocess
import sys

import pytest

from probegen_jax import command, errors, terminal
from probegen_jax.errors import UserError

REPO = pathlib.Path(__file__).resolve().parent.parent

# A command in miniature: it says something, saves its result, and says more.
SCRIPT = '''"""Does nothing for long.

  ±  how it is used
"""
import os, pathlib, sys, warnings
from probegen_jax import errors

def main(argv):
    if "--help" in argv:
        print(__doc__.strip())
        sys.exit(0)
    print("training… 0.9 ± 0.1, τ × 3 → █ – é 漢", flush=True)
    for _ in range(20_000):
        print("a line")
    print("warning: ± in the other output", file=sys.stderr)
    pathlib.Path("result.json").write_text("saved")
    print("cwd", os.getcwd())
    if "mistake" in argv:
        raise errors.UserError("no ± here…")
    if "forbidden" in argv:
        open(os.path.join(os.path.dirname(__file__), "script.py", "x"))
    if "library" in argv:
        import matplotlib.pyplot
        warnings.warn_explicit("a library's own", UserWarning, "their.py", 1, module="theirs")
        warnings.warn_explicit("and ours", UserWarning, "ours.py", 1, module="probegen_jax.x")

errors.run(main)
'''


@pytest.fixture
def ran(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "é").mkdir()

    def run(*arguments, python=(), output=subprocess.PIPE, **env):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LC_", "LANG"))}
        return subprocess.run(
            [sys.executable, *python, str(tmp_path / "script.py"), *arguments],
            cwd=tmp_path / "é",
            env=kept | {"PYTHONPATH": str(REPO)} | env,
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )

    run.result = tmp_path / "é" / "result.json"
    return run


@pytest.mark.parametrize(
    ("env", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "training... 0.9 +/- 0.1, tau x 3 -> # - ? ?"),
        ({"PYTHONIOENCODING": "latin-1"}, "training... 0.9 ± 0.1, tau × 3 -> # - é ?"),
        ({"LC_ALL": "C"}, "training… 0.9 ± 0.1, τ × 3 → █ – é 漢"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
         "training... 0.9 +/- 0.1, tau x 3 -> # - ? ?"),
    ],
)  # fmt: skip
def test_an_output_of_another_charset_shows_what_it_can(ran, env, shown):
    done = ran("mistake", **env)
    assert (done.returncode, ran.result.read_text()) == (2, "saved")
    charset = env.get("PYTHONIOENCODING", "utf-8")
    assert done.stdout.decode(charset).splitlines()[0] == shown
    last = done.stderr.decode(charset).splitlines()[-1]
    assert last.startswith("error: no ") and "Traceback" not in done.stderr.decode(charset)


def test_file_names_are_in_utf8_whatever_the_locale(ran):
    done = ran(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.stdout.decode("ascii").rstrip().endswith("/?")  # é, and no half of it
    assert done.returncode == 0 and ran.result.read_text() == "saved"


def test_a_reader_that_leaves_does_not_stop_the_work(ran):
    read, write = os.pipe()
    os.close(read)
    done = ran(output=write)
    os.close(write)
    assert (done.returncode, ran.result.read_text()) == (0, "saved")
    assert done.stderr.decode() == "warning: ± in the other output\n"


def test_a_full_output_is_told_when_the_work_is_saved(ran):
    with open("/dev/full", "w") as full:
        done = ran(output=full)
        usage = ran("--help", output=full)
    assert (done.returncode, ran.result.read_text()) == (2, "saved")
    for each in (done, usage):
        last = each.stderr.decode().splitlines()[-1]
        assert last == "error: the output cannot be written (No space left on device)"


def test_an_output_that_was_closed_beforehand_is_no_matter(ran):
    closed = f"exec {sys.executable} {ran.result.parent.parent / 'script.py'} >&- 2>&-"
    done = subprocess.run(
        ["bash", "-c", closed],
        cwd=ran.result.parent,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        check=False,
    )
    assert (done.returncode, ran.result.read_text()) == (0, "saved")


def test_usage_is_there_without_docstrings(ran):
    done = ran("--help", python=["-OO"])
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [
        "Does nothing for long.",
        "",
        "  ±  how it is used",
    ]


def test_what_the_system_refuses_is_one_line(ran, capsys):
    done = ran("forbidden")
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1] == (
        f"error: cannot read or write {ran.result.parent.parent / 'script.py' / 'x'} (Not a "
        "directory); look at its permissions, and at the space that is left"
    )
    assert "Traceback" not in done.stderr.decode()

    def main(argv):
        raise PermissionError(13, "Permission denied", "/root/run/config.json")

    with pytest.raises(SystemExit) as stop:
        errors.run(main)
    assert stop.value.code == 2
    assert "cannot read or write /root/run/config.json (Permission denied)" in (
        capsys.readouterr().err
    )


def test_warnings_of_libraries_stay_off_the_screen_and_ours_do_not(ran, tmp_path):
    nowhere = str(tmp_path / "script.py" / "no")
    done = ran("library", MPLCONFIGDIR=nowhere, XDG_CACHE_HOME=str(tmp_path), HOME=nowhere)
    told = done.stderr.decode()
    assert done.returncode == 0
    assert "and ours" in told
    assert "library" not in told and "atplotlib" not in told


def test_a_bug_keeps_its_stack_trace():
    def main(argv):
        raise OSError("not of a file")

    with pytest.raises(OSError, match="not of a file"):
        errors.run(main)


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("--out=~/zoos/a", "{home}/zoos/a"),
        ("--config.zoo_dir=~", "{home}"),
        ("--config=~/c.py:vanilla,64", "{home}/c.py:vanilla,64"),
        ("~/runs/a", "{home}/runs/a"),
        ("--config.layer_key=seq.{{}}", None),
        ("--out=a~b", None),
        ("a=~/b", None),
    ],
)
def test_a_tilde_is_the_home_folder_in_every_flag(argument, meant, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    argument = argument.format()
    expected = argument
    if meant is not None:
        start = argument.partition("=")[0] + "=" if "=" in argument else ""
        expected = start + meant.format(home="/home/someone")
    assert terminal.expanded(argument) == expected
    seen = []
    monkeypatch.setattr(sys, "argv", ["command", argument])
    errors.run(seen.extend)
    assert seen == ["command", expected]


def test_a_table_that_could_not_be_written_is_told_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*compare\.json .*--out=FILE"):
        command.check_writable(tmp_path / "file" / "compare.json", "compare.json")
    with pytest.raises(UserError, match=r"is a folder; give a file, as in --out=compare\.json"):
        command.check_writable(tmp_path, "compare.json")
    command.check_writable(tmp_path / "new" / "compare.json", "compare.json")
    assert (tmp_path / "new").is_dir()
