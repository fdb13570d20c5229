import itertools

import numpy as np
import pytest

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.files import inr_files

NFN = ReadOptions("net.{}.linear", "net.{}")


def state_of(spec: SirenSpec, keys: ReadOptions, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    depth = len(spec.sizes) - 1
    state = {}
    for index, (m, n) in enumerate(itertools.pairwise(spec.sizes)):
        name = keys.layer_name(index, depth)
        state[f"{name}.weight"] = rng.standard_normal((n, m)).astype(np.float32)
        state[f"{name}.bias"] = rng.standard_normal(n).astype(np.float32)
    return state


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        (SirenSpec(), ReadOptions()),
        (SirenSpec(hidden=(32, 32), out_dim=3, output_shift=0.0, grid="ij"), NFN),
        (SirenSpec(hidden=(64, 48, 16)), ReadOptions("layers.{}.fc")),
    ],
)
def test_vectors_and_states_are_the_same_numbers(spec, keys):
    state = state_of(spec, keys)
    vector = flat_weights.flatten(spec.read(state, None, "a", keys))
    assert vector.shape == (spec.num_weights,)
    stacked = flat_weights.unflatten(np.stack([vector, 2 * vector]), spec.abstract())
    assert np.shares_memory(stacked[0]["bias"], stacked[1]["kernel"].base)
    name = keys.layer_name(1, len(spec.sizes) - 1)
    np.testing.assert_array_equal(stacked[1]["kernel"][0], state[f"{name}.weight"].T)
    first = tuple({key: leaf[0] for key, leaf in layer.items()} for layer in stacked)
    again = inr_files.to_state(first, keys)
    assert again.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(again[key], array)


@pytest.mark.parametrize("length", [128, 640, 0x4B50], ids=["pickle", "pickle 2", "zip"])
def test_a_header_as_long_as_a_zip_or_a_pickle_begins_is_still_one_of_safetensors(length, tmp_path):
    values = np.arange(3, dtype=np.float32)
    header = b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'.ljust(length)
    data = length.to_bytes(8, "little") + header + values.tobytes()
    (tmp_path / "a.bin").write_bytes(data)
    read = inr_files.read(tmp_path / "a.bin", "a.bin").state
    np.testing.assert_array_equal(read["a"], values)


def broken(change) -> dict[str, np.ndarray]:
    state = state_of(SirenSpec(), ReadOptions())
    change(state)
    return state


BAD = {
    "missing": (lambda s: s.pop("seq.1.bias"), "has no seq.1.bias"),
    "shape": (
        lambda s: s.update({"seq.1.weight": np.zeros((32, 31), np.float32)}),
        r"seq.1.weight has shape \(32, 31\), expected \(32, 32\)",
    ),
    "deeper": (
        lambda s: s.update({"seq.3.weight": np.zeros((1, 1), np.float32)}),
        "has seq.3.weight, which a network of 3 layers has not",
    ),
    "nan": (lambda s: s["seq.0.bias"].__setitem__(3, np.nan), "seq.0.bias holds NaN or infinite"),
    "inf": (lambda s: s["seq.2.bias"].__setitem__(0, -np.inf), "seq.2.bias holds NaN or infinite"),
    "double": (
        lambda s: s.update({"seq.0.bias": np.zeros(32)}),
        "seq.0.bias is float64, not float32",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_network_is_named_with_its_fault(case):
    change, fault = BAD[case]
    with pytest.raises(BadNetworkError, match=f"^zoo/m.pth: {fault}.*; .*skip_bad=True$"):
        SirenSpec().read(broken(change), None, "zoo/m.pth", ReadOptions())


@pytest.mark.parametrize("pattern", ["seq", "seq.{}.{}", "seq.{0}", "{name}.{}"])
def test_key_patterns_need_one_number(pattern):
    with pytest.raises(UserError, match=r"must hold one \{\}"):
        ReadOptions(pattern)


def test_safetensors_are_read(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    state = state_of(SirenSpec(), ReadOptions())
    path = tmp_path / "m.safetensors"
    numpy.save_file({**state, "label": np.asarray([4])}, path)
    file = inr_files.read(path, "m.safetensors")
    assert file.label == 4
    for key, array in state.items():
        np.testing.assert_array_equal(file.state[key], array)


@pytest.mark.parametrize("label", [[np.nan], [7.5], [1, 2], []])
def test_a_bad_label_in_safetensors_is_named(label):
    numpy = pytest.importorskip("safetensors.numpy")
    content = numpy.save({"label": np.asarray(label, np.float32)})
    with pytest.raises(BadNetworkError, match=r"m\.safetensors: array.* is not an integer label"):
        inr_files.read(content, "m.safetensors")


@pytest.mark.parametrize("content", [b"", b"garbage" * 9, b"\x08\0\0\0\0\0\0\0{}"[:9]])
def test_bad_safetensors_are_named(content):
    pytest.importorskip("safetensors")
    with pytest.raises(
        BadNetworkError, match=r"m\.safetensors: is not a readable safetensors file"
    ):
        inr_files.read(content, "m.safetensors")


def test_vectors_of_another_size_are_refused():
    with pytest.raises(UserError, match="networks hold 10 weights, the settings describe 1185"):
        flat_weights.unflatten(np.zeros((2, 10), np.float32), SirenSpec().abstract())
