"""Files from somebody else: nothing in them is imported or called, and none takes all memory.

A test for each line of docs/security.md.
"""

import csv
import gzip
import io
import json
import pathlib
import pickle
import runpy
import tarfile
import zipfile

import numpy as np
import pytest
from conftest import REPO
from payload import Payload
from PIL import Image

from probegen_jax import build_zoo
from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.factory.images import sources
from probegen_jax.method import dead_leaves_files
from probegen_jax.method.readouts.base import Sizes
from probegen_jax.method.tasks import TASKS
from probegen_jax.networks.cnn.published import CIFAR10, small_cnn_zoo
from probegen_jax.networks.mixed_cnn.mixed import MixedCnnSpec
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.runs import exported
from probegen_jax.runs.experiment import load_run
from probegen_jax.runs.predictor import Predictions
from probegen_jax.zoo.bad_networks import Skipped
from probegen_jax.zoo.files import archives, small_cnn_files
from probegen_jax.zoo.own.networks import read


def model(folder: pathlib.Path) -> pathlib.Path:
    """What `export` writes, with the smallest of heads."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    shapes = {"probes": (1, 3, 2), "head.layers.0.kernel": (1, 3, 2), "head.layers.0.bias": (1, 2)}
    folder.mkdir()
    save_file(
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()},
        folder / "model.safetensors",
    )
    settings = {"num_probes": 3, "head_width": 5, "head_depth": 1, "batch_size": 4}
    content = {
        "format": "probegen_jax 1", "network": {"kind": "siren", "hidden": [4]}, "seeds": [0],
        "task": "classification", "num_outputs": 2, "settings": settings, "result": {},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    return folder


HOSTILE_MODEL = [
    ("settings", "head_depth", 10**9), ("settings", "head_depth", 2), ("settings", "head_depth", 0),
    ("settings", "num_probes", 10**9), ("settings", "num_probes", -3),
    ("settings", "batch_size", "many"), ("settings", "layer_key", "{0.__class__}"),
    ("settings", "layer_key", ["seq"]), ("settings", "fidelity", "payload"),
    ("network", "hidden", [10**9]), ("network", "hidden", "__import__('os')"),
    ("network", "kind", "zoos.payload"), ("network", "kind", ["cnn"]), ("network", "in_dim", 3),
    ("network", "sine", "payload"), ("network", "w0", None), ("network", "__class__", "payload"),
    (None, "num_outputs", 2**40), (None, "task", {}), (None, "seeds", [0] * 1000),
    (None, "result", "payload"), (None, "class_names", ["a", 1]), (None, "class_names", ["a"]),
    (None, "seeds", "0"), (None, "settings", []), (None, "network", None), (None, "format", {}),
    ("network", None, {"kind": "cnn", "image_shape": [8, 8, 1], "activations": [], "layers": [
        {"in_channels": 1, "out_channels": 60_000, "kernel": 1, "stride": 1, "padding": 60_000,
         "activation": "relu"}]}),
    ("network", None, {"kind": "cnn", "image_shape": [60_000, 60_000, 1], "layers": []}),
    ("network", None, {"kind": "mixed_cnn", "image_shape": [60_000, 60_000, 3], "num_classes": 1}),
]  # fmt: skip


def test_hostile_values_in_a_models_config_are_told_in_one_line(shared_zoo):
    folder = model(shared_zoo / "model")
    path = folder / "config.json"
    original = path.read_text()
    for part, key, value in HOSTILE_MODEL:
        content = json.loads(original)
        if key is None:
            content[part] = value
        else:
            (content if part is None else content[part])[key] = value
        path.write_text(json.dumps(content))
        with pytest.raises(UserError):
            exported.load_model(folder)
    for text in ("[" * 100_000, "null", '{"format": "probegen_jax 1"}', "\0"):
        path.write_text(text)
        with pytest.raises(UserError):
            exported.load_model(folder)
    path.write_text(original)
    assert exported.load_model(folder).head_sizes == Sizes(3, 5, 1, 2)
    header = json.dumps({"probes": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}})
    lying = len(header).to_bytes(8, "little") + header.encode() + bytes(8)
    (folder / "model.safetensors").write_bytes(lying)
    with pytest.raises(UserError, match="not a whole model"):
        exported.load_model(folder)


SPECS = [
    SirenSpec(hidden=(4,)),
    MixedCnnSpec.from_json({"image_shape": [8, 8, 1], "num_classes": 10}),
    small_cnn_zoo(),
]


@pytest.mark.parametrize("spec", SPECS)
def test_network_files_run_nothing_and_announce_nothing(shared_zoo, spec):
    torch = pytest.importorskip("torch")
    nothing = torch.zeros(1).expand(2**20, 2**20)
    config = {"n_classes": 10, "channels": [1, 2**16], "kernel_size": [1], "stride": [1],
              "padding": [2**15], "activation": ["relu"], "n_layers": 1}  # fmt: skip
    states = {"seq.0.weight": nothing, "layers.0.weight": nothing, "fc.bias": nothing}
    for content in (
        Payload(),
        {"seq.0.weight": Payload(), "model": {"x": Payload()}},
        states | {"model": states, "config": config},
        {"model": {"x": torch.zeros(1)}, "config": {"channels": [1] * 9, "activation": Payload()}},
    ):
        torch.save(content, shared_zoo / "net.pth")
        with pytest.raises(BadNetworkError):
            read(spec, shared_zoo / "net.pth", "net.pth", ReadOptions())
    (shared_zoo / "net.pth").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(BadNetworkError, match="refused without running"):
        read(spec, shared_zoo / "net.pth", "net.pth", ReadOptions())
    with zipfile.ZipFile(shared_zoo / "net.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**27))
    with pytest.raises(BadNetworkError, match="unpacks to"):
        read(spec, shared_zoo / "net.pth", "net.pth", ReadOptions())


@pytest.mark.parametrize("spec", SPECS)
def test_safetensors_that_lie_or_nest_are_told(shared_zoo, spec):
    path = shared_zoo / "net.safetensors"

    def write(header: str, data: bytes = bytes(8)) -> None:
        path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + data)

    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for header in (
        json.dumps({"x": tensor | {"shape": [2**40]}}),
        json.dumps({"x": tensor | {"data_offsets": [0, 2**50]}}),
        json.dumps({"x": tensor | {"dtype": "BF16", "shape": [4]}}),
        json.dumps({"x": tensor | {"shape": [-2]}}),
        json.dumps({"x": tensor, "__metadata__": {"config": "[" * 100_000}}),
        json.dumps({"x": tensor, "__metadata__": {"config": '{"channels": [1, 1e400]}'}}),
        "[" * 100_000,
    ):
        write(header)
        with pytest.raises(BadNetworkError):
            read(spec, path, "net.safetensors", ReadOptions())
    path.write_bytes((2**63).to_bytes(8, "little"))
    with pytest.raises(BadNetworkError):
        read(spec, path, "net.safetensors", ReadOptions())


def test_archives_leave_their_folder_alone(tmp_path):
    with zipfile.ZipFile(tmp_path / "zoo.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../zoo/evil.pth", b"out")
        archive.writestr("/zoo/root.pth", b"root")
        archive.writestr("zoo/bomb.pth", bytes(100))
    found = archives.Zip(tmp_path / "zoo.zip", "zoo")
    assert found.read("zoo/evil.pth") == b"out"  # read in place: nothing is written anywhere
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.zip"]
    found._archive.getinfo("zoo/bomb.pth").file_size = 2**40
    with pytest.raises(BadNetworkError, match="unpacks to 1,099,511,627,776 bytes"):
        found.read("zoo/bomb.pth")
    with tarfile.open(tmp_path / "zoo.tar", "w:") as archive:
        for name, kind in {
            "../../zoo/evil.pth": tarfile.REGTYPE,
            "zoo/link.pth": tarfile.SYMTYPE,
            "zoo/hard.pth": tarfile.LNKTYPE,
            "zoo/device.pth": tarfile.CHRTYPE,
        }.items():
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, 3 * (kind == tarfile.REGTYPE)
            member.linkname = "/etc/hostname"
            archive.addfile(member, io.BytesIO(b"out"))
    found = archives.opened(tmp_path / "zoo.tar", "zoo")
    assert found.names == {"zoo/evil.pth"}
    assert found.read("zoo/evil.pth") == b"out"
    (tmp_path / "zoo" / "a").mkdir(parents=True)
    (tmp_path / "zoo" / "a" / "n.pth").write_bytes(b"")
    for name in "bcd":
        (tmp_path / "zoo" / "a" / name).symlink_to(tmp_path / "zoo")
    assert archives.Folder(tmp_path, "zoo").names == {"zoo/a/n.pth"}


def test_packed_tables_and_links_of_the_small_cnn_zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(small_cnn_files, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="unpacks to more than 1,000 bytes"):
        small_cnn_files.parse_metrics(gzip.compress(bytes(10**6)), "metrics.csv.gz")
    for shape in ("__import__('os').system('touch PWNED')", "(" * 10_000, "9**9**9"):
        layout = f'varname,start_idx,end_idx,size,shape\nx,0,16,16,"{shape}"\n'
        with pytest.raises(UserError, match=r"line 2 is not readable"):
            small_cnn_files.parse_layout(layout.encode(), "layout.csv")
    with tarfile.open(tmp_path / "zoo.tar.xz", "w:xz") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"../{small_cnn_files.LAYOUT}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo(small_cnn_files.METRICS)
        member.size = 2000
        archive.addfile(member, io.BytesIO(bytes(2000)))
    found = small_cnn_files.TarFiles(tmp_path / "zoo.tar.xz")
    with pytest.raises(UserError, match=r"holds no layout\.csv"):
        found.small(small_cnn_files.LAYOUT)
    with pytest.raises(UserError, match="unpacks to more than 1,000 bytes"):
        found.small(small_cnn_files.METRICS)


def test_images_that_unpack_to_too_much_are_told(tmp_path, monkeypatch):
    large = io.BytesIO()
    Image.new("1", (9000, 9000)).save(large, "png")
    for name, content in (("large.png", large.getvalue()), ("torn.png", large.getvalue()[:60])):
        with zipfile.ZipFile(tmp_path / "leaves.zip", "w") as archive:
            archive.writestr(f"train/../../{name}", content)
        with pytest.raises(UserError, match="is not a readable image"):
            dead_leaves_files.read(tmp_path / "leaves.zip", 1, (8, 8, 3), 0, CIFAR10)
    monkeypatch.setattr(dead_leaves_files, "_MOST_BYTES", 10)
    with pytest.raises(UserError, match="unpacks to more than 10 bytes"):
        dead_leaves_files.read(tmp_path / "leaves.zip", 1, (8, 8, 3), 0, CIFAR10)
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    (tmp_path / "pictures" / "a" / "large.png").write_bytes(large.getvalue())
    with pytest.raises(UserError, match=r"large\.png: has 81,000,000 pixels"):
        sources.load(str(tmp_path / "pictures"))


def test_arrays_of_objects_and_headers_that_lie_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", images=np.array([Payload()], object), labels=np.zeros(1, int))
    with pytest.raises(UserError, match=r"is not a readable \.npz"):
        sources.load("x.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (2**50, 8, 8)}
    )
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", header.getvalue())
    with pytest.raises(UserError, match=r"is not a readable \.npz"):
        sources.load("x.npz")
    np.save("x.npz.npy", np.zeros(3))
    pathlib.Path("x.npz.npy").rename("x.npz")
    with pytest.raises(UserError, match=r"is not a readable \.npz"):
        sources.load("x.npz")
    assert not (tmp_path / "PWNED").exists()


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    names = ["=cmd|'/c calc'!A1", "+1.pth", "-1.pth", "@x", "\tx", "\r=x", "a=b\r=1.pth"]
    values = np.full((1, 7, 1), -0.5, np.float32)
    predictions = Predictions(names, ["=1+1", *[None] * 6], values, TASKS["regression"])
    rows = list(csv.reader(io.StringIO(predictions.to_csv(), newline="")))
    assert [row[0] for row in rows[1:]] == [
        "'=cmd|'/c calc'!A1", "'+1.pth", "'-1.pth", "'@x", "' x", "' =x", "a=b =1.pth"
    ]  # fmt: skip
    assert rows[1][-1] == "'=1+1"
    assert {row[1] for row in rows[2:]} == {"-0.5"}  # a number below 0 stays one
    skipped = Skipped(True, {"=A1": "@SUM(1)"})
    skipped.write(tmp_path / "skipped.tsv")
    assert (tmp_path / "skipped.tsv").read_text() == "'=A1\t'@SUM(1)\n"


@pytest.mark.parametrize(
    "settings",
    [
        {"dataset": "zoos.payload"},
        {"dataset": "__import__('os').system('touch PWNED')"},
        {"method": "zoos.payload.X"},
        {"sine": "zoos.payload"},
        {"zoo_dir": "zoos/payload.py"},
        {"dataset": "mnist_inr", "manual_dir": "zoos", "split": "zoos.payload"},
    ],
)
def test_the_settings_of_a_run_name_no_code(shared_zoo, settings, monkeypatch):
    monkeypatch.syspath_prepend(str(REPO))
    config = runpy.run_path(str(REPO / "configs" / "digits.py"))["get_config"]()
    (shared_zoo / "run" / "checkpoints" / "1").mkdir(parents=True)
    (shared_zoo / "run" / "checkpoints" / "1" / "arrays.pkl").write_bytes(pickle.dumps(Payload()))
    given = config.to_dict() | {"data_dir": str(shared_zoo / "data")} | settings
    (shared_zoo / "run" / "config.json").write_text(json.dumps(given))
    with pytest.raises(UserError):
        load_run(shared_zoo / "run")


def test_no_reader_can_run_code():
    """Nothing in the package unpickles, evaluates, or lets TFDS look for a data set's own code."""
    package = pathlib.Path(build_zoo.__file__).parent
    sources_of = {path: path.read_text() for path in package.rglob("*.py")}
    for call in ("pickle.load", "builder_from_director", "allow_pickle=True", "weights_only=False",
                 " eval(", " exec(", "extractall", "from_config(place", "yaml.load"):  # fmt: skip
        assert [str(path) for path, text in sources_of.items() if call in text] == []
