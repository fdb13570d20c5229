"""CNNs in the files that trainings leave; see `test_files_people_have.py`."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from siren_files import KEYS, RIGHT, SPEC, STATE

from probegen_jax.errors import BadNetworkError
from probegen_jax.networks.cnn.published import small_cnn_zoo
from probegen_jax.networks.mixed_cnn.mixed import MixedCnnSpec
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.files import torch_files
from probegen_jax.zoo.files.arrays import Notes
from probegen_jax.zoo.own.networks import read


@pytest.fixture
def of_file(tmp_path):
    def reading(content, name="net.pt", spec=SPEC, options=KEYS):
        torch.save(content, tmp_path / name)
        notes = Notes()
        network = read(spec, tmp_path / name, name, options, notes)
        return network, [line.removesuffix(f" ({name})") for line in notes.lines]

    return reading


def cnn(**changes):
    """A checkpoint of the Wild Park's form, and the shapes that its networks have."""
    rng = np.random.default_rng(0)
    shapes = {"layers.0.weight": (4, 1, 3, 3), "layers.0.bias": (4,), "layers.1.bias": (6,),
              "layers.1.weight": (6, 4, 3, 3), "fc.weight": (3, 6), "fc.bias": (3,)}  # fmt: skip
    model = {name: torch.tensor(rng.standard_normal(s).astype("f")) for name, s in shapes.items()}
    config = {"n_classes": 3, "channels": [1, 4, 6], "kernel_size": [3, 3], "stride": [1, 1],
              "padding": [1, 1], "activation": ["relu", "tanh"], "residual": [-1, -1]}  # fmt: skip
    return {"model": model, "config": config, "last_result": {"test/acc": 0.5}} | changes


PARK = MixedCnnSpec.from_json({"image_shape": [8, 8, 1], "num_classes": 3})


def test_cnns_in_other_containers_are_the_same(of_file):
    plain = cnn()
    _, right = of_file(plain, spec=PARK)[0]
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in plain["config"].items()}
    numbers = plain["config"] | {"channels": np.array([1, 4, 6]), "stride": [np.int64(1)] * 2}
    for content in (
        cnn(config=tuples),
        cnn(config=numbers),
        cnn(last_result={"test/acc": np.float64(0.5)}, model={f"module.{k}": v for k, v in
            plain["model"].items()}),
        {"state_dict": plain["model"], "hyper_parameters": {"config": plain["config"]}},
        cnn(ema={k: v + 1 for k, v in plain["model"].items()}),
        cnn(model={k: v.double() for k, v in plain["model"].items()}),
    ):  # fmt: skip
        _, weights = of_file(content, spec=PARK)[0]
        for ours, theirs in zip(weights["layers"], right["layers"], strict=True):
            np.testing.assert_array_equal(ours["kernel"], theirs["kernel"])
        np.testing.assert_array_equal(weights["head"]["bias"], right["head"]["bias"])


@pytest.mark.parametrize("score", [np.float64(0.5), np.float32(0.5), torch.tensor(0.5), 1, 0.5])
def test_a_score_of_any_type_is_a_number(score, tmp_path):
    torch.save(cnn(last_result={"test/acc": score}), tmp_path / "x.pt")
    assert torch_files.load_cnn(tmp_path / "x.pt", "x").score == score


def test_convolutions_without_bias_have_zeros(of_file):
    content = cnn()
    content["model"] = {k: v for k, v in content["model"].items() if ".bias" not in k or "fc" in k}
    (_, weights), notes = of_file(content, spec=PARK)
    assert not weights["layers"][1]["bias"].any() and weights["head"]["bias"].all()
    assert any("have no bias" in note for note in notes)
    content["model"]["layers.0.bias"] = torch.ones(4)  # one of two: the other was lost
    with pytest.raises(BadNetworkError, match=r"has no layers\.1\.bias"):
        of_file(content, spec=PARK)


@pytest.mark.parametrize(
    ("name", "told"),
    [("bn.0.running_var", "of a BatchNorm"), ("layers.0.weight_g", "of weight norm"),
     ("extra.weight", "does not describe")],
)  # fmt: skip
def test_layers_that_a_cnn_cannot_have_are_named(name, told, of_file):
    content = cnn()
    content["model"][name] = torch.ones(4)
    with pytest.raises(BadNetworkError, match=f"has {name}, .*{told}"):
        of_file(content, spec=PARK)
    spec = small_cnn_zoo()
    model = {k: torch.zeros(s) for k, s in spec.file_shapes(None, "x", KEYS).items()}
    of_file({"model": model, "activation": ["relu", "relu", "relu"]}, spec=spec)
    with pytest.raises(BadNetworkError, match=r"has extra, which such a network has not"):
        of_file({"model": model | {"extra": torch.ones(1)}, "activation": "relu"}, spec=spec)


def test_metadata_of_safetensors_are_passed_over_or_used(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file(STATE, path, metadata={"format": "pt", "config": "{}"})
    np.testing.assert_array_equal(flat_weights.flatten(read(SPEC, path, "x", KEYS)), RIGHT)
    content = cnn()
    save_file(content["model"], path, metadata={"config": json.dumps(content["config"])})
    assert len(read(PARK, path, "x", KEYS)[1]["layers"]) == 2
