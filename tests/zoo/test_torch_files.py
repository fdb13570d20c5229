import collections
import io
import os
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
omegaconf = pytest.importorskip("omegaconf")

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.files import torch_files

KEYS = ReadOptions()


def state_dict(seed: int = 0) -> "collections.OrderedDict":
    generator = torch.Generator().manual_seed(seed)
    shapes = {"seq.0": (32, 2), "seq.1": (32, 32), "seq.2": (1, 32)}
    state = collections.OrderedDict()
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator)
        state[f"{name}.bias"] = torch.randn(shape[:1], generator=generator)
    return state


def saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Malicious:
    """Would create a file if its pickle were run."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return (os.symlink, (__file__, str(self.path)))


@pytest.mark.parametrize("label", [None, 7, torch.tensor(7)])
def test_an_inr_is_read_bit_for_bit_with_and_without_a_label(label):
    state = state_dict()
    content = state.copy()
    if label is not None:
        content["label"] = label
    file = torch_files.load_inr(saved(content), "model_0.pth")
    assert file.label == (None if label is None else 7)
    assert list(file.state) == list(state)
    for key, tensor in state.items():
        np.testing.assert_array_equal(file.state[key], tensor.numpy())


def test_what_is_written_torch_reads(tmp_path):
    state = {key: tensor.numpy() for key, tensor in state_dict().items()}
    torch_files.save_inr(tmp_path / "model.pth", state, label=3)
    loaded = torch.load(tmp_path / "model.pth", weights_only=True)
    assert isinstance(loaded, collections.OrderedDict)
    assert loaded.pop("label") == 3
    for key, array in state.items():
        np.testing.assert_array_equal(loaded[key].numpy(), array)
    again = torch_files.load_inr(tmp_path / "model.pth", "model.pth")
    assert again.label == 3


def test_a_cnn_is_written_and_read_again(tmp_path):
    network = torch_files.CnnFile(
        {"layers.0.weight": np.ones((4, 3, 3, 3), np.float32)}, {"channels": [3, 4]}, 0.5, 10
    )
    torch_files.save_cnn(tmp_path / "checkpoint.pt", network)
    again = torch_files.load_cnn(tmp_path / "checkpoint.pt", "checkpoint.pt")
    np.testing.assert_array_equal(*(n.state["layers.0.weight"] for n in (network, again)))
    assert (again.config, again.score, again.iteration) == ({"channels": [3, 4]}, 0.5, 10)


BAD = {
    "empty": (lambda good: b"", "is an empty file"),
    "truncated": (lambda good: good[: len(good) // 2], "is truncated or damaged"),
    "garbage": (lambda good: b"hello world, this is no torch file", "is not a readable torch file"),
    "no dict": (lambda good: saved(torch.ones(3)), "holds a Tensor, not a state dict"),
    "no tensor": (lambda good: saved({"seq.0.weight": "x"}), "seq.0.weight is a str"),
    "whole": (lambda good: saved({"a": torch.ones(2).int()}), "a is int32, not float32"),
    "sparse": (lambda good: saved({"a": torch.eye(3).to_sparse()}), "a is sparse"),
    "label": (lambda good: saved({"label": "seven"}), "'seven' is not an integer label"),
    "half a label": (lambda good: saved({"label": 7.5}), "7.5 is not an integer label"),
    "no number": (lambda good: saved({"label": float("inf")}), "inf is not an integer label"),
    "labels": (
        lambda good: saved({"label": torch.zeros(2, 2)}),
        "tensor([[0., 0.], [0., 0.]]) is not an integer label",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_with_its_fault_and_a_remedy(case):
    make, fault = BAD[case]
    with pytest.raises(BadNetworkError) as error:
        torch_files.load_inr(make(saved(state_dict())), "zoo/model_5.pth")
    message = str(error.value)
    assert message.startswith("zoo/model_5.pth: ")
    assert fault in message
    assert "skip_bad" in message or ".float()" in message
    assert "\n" not in message


@pytest.mark.parametrize("load", [torch_files.load_inr, torch_files.load_cnn])
@pytest.mark.parametrize("where", ["torch", "pickle", "model"])
def test_a_malicious_pickle_creates_no_file(load, where, tmp_path):
    target = tmp_path / "created"
    evil = Malicious(target)
    content = {
        "torch": saved({"seq.0.weight": evil}),
        "pickle": pickle.dumps(evil, protocol=2),
        "model": saved({"model": evil, "config": {}}),
    }[where]
    with pytest.raises(BadNetworkError, match="refused without running"):
        load(content, "evil.pth")
    assert not target.exists()
    # The same bytes do create it where pickles are trusted, so the test tests something.
    if where == "pickle":
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert target.exists()


def test_a_refused_pickle_is_told_by_the_name_it_asks_for(tmp_path):
    with pytest.raises(BadNetworkError, match=r"its pickle asks for posix\.symlink"):
        torch_files.load_inr(saved({"a": Malicious(tmp_path / "x")}), "evil.pth")


def test_an_interpolation_in_a_config_is_not_resolved(monkeypatch):
    monkeypatch.setenv("SECRET", "told")
    config = omegaconf.OmegaConf.create({"channels": "${oc.env:SECRET}"})
    file = torch_files.load_cnn(saved({"model": {}, "config": config}), "checkpoint.pt")
    assert file.config == {"channels": "${oc.env:SECRET}"}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadNetworkError, match=r"model\.pth: cannot be read \(No such file"):
        torch_files.load_inr(tmp_path / "model.pth", "model.pth")


def test_without_torch_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(UserError, match=r"^torch is not installed; .*requirements-torch\.txt$"):
        torch_files.load_inr(b"x", "model.pth")


def test_genuine_inrs_compute_the_same_function(shared):
    folder = shared / "data" / "mnist_inr_real"
    files = sorted(folder.glob("*/checkpoints/model_final.pth"))
    spec = SirenSpec()
    flat = [
        flat_weights.flatten(
            spec.read(torch_files.load_inr(file, file.name).state, None, file.name, KEYS)
        )
        for file in files
    ]
    assert len(flat) == 32
    weights = flat_weights.unflatten(np.stack(flat), spec.abstract())
    coordinates = jnp.asarray(spec.pixel_coordinates(28, 28))
    images = np.asarray(jax.vmap(lambda w: spec.apply(w, coordinates))(weights))
    assert np.abs(images - images[:1]).max() < 1e-5
    assert images.std() > 0.1


def test_wild_park_checkpoints_load_without_their_class(shared):
    files = sorted((shared / "data" / "wild_park_format").glob("run_*/*/checkpoint.pt"))
    assert len(files) == 6
    for file in files:
        network = torch_files.load_cnn(file, file.parent.parent.name)
        plain = torch.load(file, map_location="cpu", weights_only=False, pickle_module=_Lenient)
        assert network.config["channels"][0] == 3
        assert network.score == plain["last_result"]["test/acc"]
        assert network.iteration == plain["iteration"]
        for key, tensor in plain["model"].items():
            np.testing.assert_array_equal(network.state[key], tensor.numpy())


@pytest.mark.parametrize("case", ["cifar10_gs_vanilla", "cifar10_wild_park_deep_linear_5"])
def test_golden_cnns_load(shared, case):
    for file in (shared / "golden" / case / "networks").glob("*.pth"):
        network = torch_files.load_cnn(file, file.name)
        assert network.config["activation"]
        assert "fc.bias" in network.state


class _Lenient:
    """A pickle module that, as the oracle, trusts the file but for the class nobody has."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if module == "create_random_cnns":
                return dict
            return super().find_class(module, name)

    load = staticmethod(pickle.load)
