"""Official checkpoints as files: there and back, what they are, and what does not fit."""

import collections
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_golden_cnn import CASES

from probegen_jax.errors import UserError
from probegen_jax.official import parameters
from probegen_jax.zoo.files import torch_files

ALL = ("inr_deep_linear", "inr_vanilla", *CASES)


@pytest.mark.parametrize("case", ALL)
@pytest.mark.parametrize("which", ("initial", "final"))
def test_golden_files_survive_the_round_trip_bit_for_bit(case, which, shared, tmp_path):
    path = shared / "golden" / case / f"{which}.pth"
    state = torch_files.load_state_dict(path)
    torch_files.save_state_dict(
        tmp_path / "out.pth", parameters.to_official(parameters.from_official(state))
    )
    theirs = torch.load(path, weights_only=True)
    ours = torch.load(tmp_path / "out.pth", weights_only=True)
    assert type(ours) is collections.OrderedDict
    assert list(ours) == list(theirs)  # in order
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name
    assert [p.name for p in tmp_path.iterdir()] == ["out.pth"]


@pytest.mark.parametrize("case", ALL)
def test_shapes_tell_the_generator_and_all_sizes(case, shared):
    meta = json.loads((shared / "golden" / case / "meta.json").read_text())
    found = parameters.sizes(torch_files.load_state_dict(shared / "golden" / case / "final.pth"))
    assert found.generator == meta["generator"]
    assert found.method == ("vanilla" if "_0" in meta["generator"] else "probegen")
    assert (found.num_probes, found.head_width) == (meta["n_probes"], meta["d_hidden"])
    assert found.head_depth == meta["head_layers"]
    assert found.probe_dims == {"inr": 2, "cifar10_gs": 1, "cifar10_wild_park": 3}[meta["family"]]
    assert found.num_outputs == (10 if meta["family"] == "inr" else 1)
    if found.method == "probegen":
        assert found.latent_dim == 32
        assert found.generator_depth == int("".join(filter(str.isdigit, meta["generator"])))
        assert found.generator_width == (None if meta["family"] == "inr" else 16)


def head(width=8, inputs=12, outputs=10):
    shapes = {"0": (width, inputs), "2": (width, width), "4": (outputs, width)}
    state = {}
    for index, shape in shapes.items():
        state[f"points_mixer.{index}.weight"] = np.ones(shape, np.float32)
        state[f"points_mixer.{index}.bias"] = np.ones(shape[0], np.float32)
    return state


def test_a_head_alone():
    """What the official script for synthetic probes writes."""
    params = parameters.from_official(head())
    assert list(params) == ["head"]
    found = parameters.sizes(head())
    assert (found.method, found.num_probes) == (None, None)
    assert (found.num_responses, found.head_width, found.head_depth) == (12, 8, 3)
    assert str(found) == "no trained probes and a head 12 → 8 → 10 of 3 layers"
    back = parameters.to_official(params)
    assert list(back) == list(head())
    assert parameters.to_official({**params, "generator": {}}).keys() == head().keys()


@pytest.mark.parametrize(
    ("state", "message"),
    (
        ({"classifier.weight": np.ones(2)}, "no part of ProbeGen is called 'classifier.weight'"),
        ({}, "no tensor named 'points_mixer.0.weight'"),
        (head() | {"points_mixer.0.weight": np.ones((2, 3, 4))}, r"is \(2, 3, 4\); it should have"),
        (head() | {"input": np.ones(3)}, r"input is \(3,\); it should have 2 or 4 axes"),
        (head() | {"points_mixer.6.bias": np.ones(3)}, "layer points_mixer.6 has no weight"),
        (
            head() | {"tokens_generator.0.weight": np.ones((2, 2)), "tokens_generator.0.bias": 1},
            "a generator, but no tensor named 'input'",
        ),
    ),
)
def test_what_is_no_checkpoint_is_told(state, message):
    with pytest.raises(UserError, match=message):
        parameters.sizes(state)


def test_differences_name_both_shapes():
    expected = {name: array.shape for name, array in head().items()}
    other = head(width=4)
    del other["points_mixer.4.bias"]
    other["input"] = np.ones((12, 2), np.float32)
    assert parameters.differences(head(), expected) == []
    assert parameters.differences(other, expected) == [
        "points_mixer.0.weight is (4, 12), expected (8, 12)",
        "points_mixer.0.bias is (4,), expected (8,)",
        "points_mixer.2.weight is (4, 4), expected (8, 8)",
        "points_mixer.2.bias is (4,), expected (8,)",
        "points_mixer.4.weight is (10, 4), expected (10, 8)",
        "points_mixer.4.bias is missing, expected (10,)",
        "input (12, 2) is not expected",
    ]


def test_files_that_are_no_state_dict_are_told(tmp_path):
    path = tmp_path / "model.pth"
    with pytest.raises(UserError, match=r"no file at .*model.pth"):
        torch_files.load_state_dict(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"model.pth: is an empty file; give the state dict"):
        torch_files.load_state_dict(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds a list, not a state dict"):
        torch_files.load_state_dict(path)
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(UserError, match="refused without running"):
        torch_files.load_state_dict(path)
    torch.save({"input": torch.ones(2, dtype=torch.float16)}, path)
    with pytest.raises(UserError, match="input is float16, not float32"):
        torch_files.load_state_dict(path)
