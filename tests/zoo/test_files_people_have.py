"""Networks in the files that trainings leave: each is read, or told by its name with a remedy."""

import argparse
import collections
import functools
import os
import warnings

import numpy as np
import pytest
from conftest import REPO

torch = pytest.importorskip("torch")

from siren_files import KEYS, RIGHT, SPEC, STATE, flat, state

from probegen_jax.errors import BadNetworkError
from probegen_jax.networks.options import ReadOptions
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.files import inr_files, state_dicts
from probegen_jax.zoo.files.arrays import Notes
from probegen_jax.zoo.own.networks import find_files, read


def of(change):
    return {name: change(tensor) for name, tensor in STATE.items()}


def prefixed(prefix):
    return {f"{prefix}{name}": tensor for name, tensor in STATE.items()}


OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(8, 2)}}, "x": (1, 2)}
ADAMW = {"state": {"seq.0.weight": {"exp_avg": torch.ones(8, 2)}}, "param_groups": [{"lr": 0.1}]}
UNDER = "networks are read from under the key {!r}"
WITHOUT = "names of arrays are read without {!r}"
INT = "weights in {} are converted to float32"


def negative(tensor):
    turned = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert turned.is_neg()
    return turned


def strided(tensor):
    return tensor.repeat_interleave(2, -1)[..., ::2]


# What is saved, and what is said of it; their weights are those of STATE.
READ = {
    "a state dict": (STATE, []),
    "in order": (collections.OrderedDict(STATE), []),
    "parameters": (of(torch.nn.Parameter), []),
    "Lightning": (
        {"epoch": 1, "state_dict": prefixed("model."), "optimizer_states": [OPTIMIZER],
         "loops": {"fit_loop": {}}, "hyper_parameters": {"hidden": (8,)}},
        [UNDER.format("state_dict"), WITHOUT.format("model.")],
    ),
    "a training loop": (
        {"epoch": 3, "loss": torch.tensor(0.1), "model_state_dict": STATE,
         "optimizer_state_dict": ADAMW},
        [UNDER.format("model_state_dict")],
    ),
    "a dict in a dict": (
        {"network": {"state_dict": STATE, "epoch": 1}, "seed": 0},
        [UNDER.format("network.state_dict")],
    ),
    "a tuple": ((STATE, {"epoch": 1}), [UNDER.format("0")]),
    "DataParallel": (prefixed("module."), [WITHOUT.format("module.")]),
    "torch.compile": (prefixed("_orig_mod."), [WITHOUT.format("_orig_mod.")]),
    "compiled, in parallel": (
        {"model": prefixed("module._orig_mod.")},
        [UNDER.format("model"), WITHOUT.format("module._orig_mod.")],
    ),
    "an average": (
        prefixed("module.") | {"n_averaged": torch.tensor(7)}, [WITHOUT.format("module.")],
    ),
    "layers with sines between them": (
        {name.replace("seq.1", "seq.2"): tensor for name, tensor in STATE.items()},
        ["the layers seq.0, seq.2 are read as seq.0, seq.1"],
    ),
    "the same, in a model": (
        {f"net.{name}".replace("seq.1", "seq.12"): tensor for name, tensor in STATE.items()},
        ["the layers seq.0, seq.12 are read as seq.0, seq.1", WITHOUT.format("net.")],
    ),
    "figures beside": (STATE | {"psnr": np.float64(41.2), "epoch": 3, "by": "me"}, []),
    "tables of NumPy beside": (
        {"net": STATE, "losses": np.arange(5.0), "names": np.array(["a"]), "at": np.float32(1)},
        [UNDER.format("net")],
    ),
    "arrays of NumPy": (of(lambda x: x.numpy()), []),
    "arrays by column": (of(lambda x: np.asfortranarray(x.numpy())), []),
    "arguments beside": (
        {"model": STATE, "args": argparse.Namespace(lr=0.1, out="x")}, [UNDER.format("model")],
    ),
    "float64": (of(torch.Tensor.double), [INT.format("float64")]),
    "arrays of float64": (of(lambda x: x.double().numpy()), [INT.format("float64")]),
    "negative views": (of(negative), []),
    "strided": (of(strided), []),
    "without contiguity": (of(lambda x: x.t().contiguous().t() if x.dim() > 1 else x), []),
    "coordinates beside": (
        prefixed("net.") | {"grid": torch.ones(9, 2)},
        ["the array grid holds coordinates, and is left out", WITHOUT.format("net.")],
    ),
    "two, one at the top": (STATE | {"ema": state(1)}, ["networks under ema are left out"]),
}  # fmt: skip


@pytest.fixture
def of_file(tmp_path):
    def reading(content, name="net.pt", spec=SPEC, options=KEYS):
        torch.save(content, tmp_path / name)
        notes = Notes()
        network = read(spec, tmp_path / name, name, options, notes)
        return network, [line.removesuffix(f" ({name})") for line in notes.lines]

    return reading


@pytest.mark.parametrize("case", READ)
def test_it_is_read_and_what_is_not_as_usual_is_said(case, of_file):
    content, said = READ[case]
    network, notes = of_file(content)
    np.testing.assert_array_equal(flat_weights.flatten(network), RIGHT)
    assert notes == said
    if isinstance(content, dict):  # and alike from memory
        np.testing.assert_array_equal(flat_weights.flatten(read(SPEC, content, "0", KEYS)), RIGHT)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_narrow_floats_are_widened(kind, library, of_file, tmp_path):
    from safetensors.torch import save_file

    narrow = of(lambda x: x.to(getattr(torch, kind)))
    if library == "torch":
        network, notes = of_file(narrow)
    else:
        save_file(narrow, tmp_path / "net.safetensors", metadata={"format": "pt"})
        noted = Notes()
        network, notes = read(SPEC, tmp_path / "net.safetensors", "x", KEYS, noted), noted.lines
    np.testing.assert_array_equal(flat_weights.flatten(network), flat(narrow))
    assert len(notes) == 1 and INT.format(kind) in notes[0]


NAMES = ("net.ckpt", "net.pth.tar", "NET.PTH", "net.Pt", "pytorch_model.bin", "net.tar", "a.CKPT")


@pytest.mark.parametrize("name", [*NAMES, "net.safetensors"])
def test_by_any_name_that_such_files_have(name, of_file, tmp_path):
    network, _ = of_file(STATE, name)  # what it is, its first bytes say
    np.testing.assert_array_equal(flat_weights.flatten(network), RIGHT)
    (tmp_path / "optimizer.bin").touch()
    (tmp_path / "rng_state_0.pth").touch()
    assert find_files([tmp_path]) == [tmp_path / name]


class Siren(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.seq = torch.nn.ModuleList([torch.nn.Linear(2, 8), torch.nn.Linear(8, 1)])

    def forward(self, x):
        return self.seq[1](torch.sin(30 * self.seq[0](x)))


NORM = {"seq.0.running_mean": torch.ones(8), "seq.0.num_batches_tracked": torch.tensor(3)}
TOLD = {
    "two": ({"model": STATE, "ema": state(1)}, "holds several networks, under ema, model"),
    "two prefixes": (
        {"state_dict": state(prefix="net.") | state(1, "net_ema.")},
        "holds several networks, under state_dict.net, state_dict.net_ema",
    ),
    "BatchNorm": (STATE | NORM, "has seq.0.running_mean, of a BatchNorm, which such networks"),
    "weight norm": (
        {"seq.0.weight_g": torch.ones(8, 1), "seq.0.weight_v": torch.ones(8, 2)},
        "has seq.0.weight_g, of weight normalisation",
    ),
    "another layer": (
        prefixed("net.") | {"head.weight": torch.ones(3, 3)}, "has head.weight, which a network",
    ),
    "one bias": (
        {k: v for k, v in STATE.items() if k != "seq.1.bias"}, "has no seq.1.bias (it has seq.0",
    ),
    "complex": (of(lambda x: torch.complex(x, x).conj()), "seq.0.weight is complex64, not float32"),
    "whole numbers": (of(torch.Tensor.int), "seq.0.weight is int32, not float32"),
    "beyond float32": (of(lambda x: x.double() * 1e300), "holds values that float32 has not"),
    "nothing": ({"epoch": 3, "args": {"lr": 1.0}}, "holds no state dict (it has epoch, args)"),
    "other names": ({"state_dict": {"a.weight": torch.ones(2)}}, "has no seq.0.weight (it has a."),
    "a list": ([1, 2], "holds a list, not a state dict"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOLD)
def test_what_cannot_be_read_is_told(case, of_file):
    content, fault = TOLD[case]
    with pytest.raises(BadNetworkError) as error:
        of_file(content)
    assert fault in error.value.fault


@pytest.mark.parametrize(
    ("content", "key", "seed"),
    [
        ({"model": state(1), "ema": STATE}, "ema", 0),
        ({"model": state(1), "ema": {"model": STATE}}, "ema.model", 0),
        (prefixed("online.") | state(1, "average."), "online", 0),
        ({"state_dict": prefixed("net.") | state(1, "net_ema.")}, "state_dict.net", 0),
    ],
)
def test_the_key_says_which_of_several(content, key, seed, of_file):
    network, _ = of_file(content, options=ReadOptions(state_key=key))
    np.testing.assert_array_equal(flat_weights.flatten(network), RIGHT)
    with pytest.raises(BadNetworkError, match="holds no networks under 'none'"):
        of_file(content, options=ReadOptions(state_key="none"))


def test_programs_and_modules_have_their_true_names(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), tmp_path / "script.pt")
    with pytest.raises(BadNetworkError, match=r"is a TorchScript program.* by torch\.save"):
        read(SPEC, tmp_path / "script.pt", "x", KEYS)
    torch.save(Siren(), tmp_path / "module.pt")
    with pytest.raises(BadNetworkError, match=r"asks for .*Siren, .*refused.*state_dict\(\) alone"):
        read(SPEC, tmp_path / "module.pt", "x", KEYS)
    with pytest.raises(BadNetworkError, match="is one of the parts of a network"):
        read(SPEC, tmp_path / "script.pt", "model-00001-of-00002.safetensors", KEYS)


def test_siren_pytorch_with_its_wrapper(of_file):
    options = ReadOptions("net.{}", "last_layer")
    content = {
        name.replace("seq.0", "net.net.0").replace("seq.1", "net.last_layer"): tensor
        for name, tensor in STATE.items()
    }
    network, notes = of_file(content | {"grid": torch.ones(4, 2)}, options=options)
    np.testing.assert_array_equal(flat_weights.flatten(network), RIGHT)
    assert WITHOUT.format("net.") in notes


def test_inrs_without_biases_have_zeros(of_file):
    content = {name: tensor for name, tensor in STATE.items() if name.endswith("weight")}
    network, notes = of_file(content)
    np.testing.assert_array_equal(network[0]["kernel"].T, STATE["seq.0.weight"])
    assert not network[0]["bias"].any() and not network[1]["bias"].any()
    assert all("have no bias: it is 0" in note for note in notes)


def test_hostile_content_neither_hangs_nor_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    many = {"x": 1}
    for _ in range(60):  # 2^60 ways through it
        many = {"a": many, "b": many, "c": (many, many)}
    inside: dict = {}
    inside["self"] = [inside, (inside,)]
    for content in (many, inside, {("a",) * 9: STATE, 7: {}}, {"k" * 10**6: {"x": {}}}):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(BadNetworkError):
            read(SPEC, tmp_path / "x.pt", "x", KEYS)

    class Call:
        def __init__(self, function, *arguments):
            self.reduced = function, arguments

        def __reduce__(self):
            return self.reduced

    objects = Call(np.dtype, "O8", False, True)
    scalar = np.float64(0).__reduce__()[0]
    for beside in (
        Call(scalar, objects, b"12345678"),
        Call(scalar, np.dtype("f8"), b"123"),
        Call(np.dtype, [("a", "f8")]),
        Call(np.zeros, 9),
        Call(functools.partial, os.system, "touch PWNED"),
        Call(np.memmap, "PWNED"),
    ):
        torch.save({"model": STATE, "x": beside}, tmp_path / "x.pt")
        try:
            network = read(SPEC, tmp_path / "x.pt", "x", KEYS)
            np.testing.assert_array_equal(flat_weights.flatten(network), RIGHT)
        except BadNetworkError as error:
            assert "refused" in error.fault or "damaged" in error.fault
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_the_page_names_all_that_is_read():
    page = (REPO / "docs" / "files.md").read_text()
    for name in (*inr_files.SUFFIXES, *state_dicts._COORDINATES, "state_key", "w0_first"):
        assert f"{name}" in page
    for layer in set(state_dicts._FOREIGN.values()):
        assert layer.removeprefix("a ").split()[0] in page


def test_the_name_of_an_earlier_version():
    from probegen_jax import zoo
    from probegen_jax.zoo import inr_files

    assert inr_files.InrKeys("net.{}") == ReadOptions("net.{}")
    with pytest.raises(AttributeError, match="no attribute 'outr_files'"):
        _ = zoo.outr_files
