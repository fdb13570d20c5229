"""Predictions for a user's own CNNs."""

import json

import jax
import numpy as np
import pytest

from probegen_jax.errors import UserError
from probegen_jax.method.tasks import TASKS
from probegen_jax.networks.cnn import cnn, published
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.mixed_cnn import mixed
from probegen_jax.networks.options import ReadOptions
from probegen_jax.runs import predictor
from probegen_jax.zoo.files import torch_files
from probegen_jax.zoo.own import networks


def torch_state(weights):
    """A CNN's arrays as torch has them."""
    state = {}
    for i, layer in enumerate(weights["layers"]):
        state[f"layers.{i}.weight"] = np.asarray(layer["kernel"]).transpose(3, 2, 0, 1)
        state[f"layers.{i}.bias"] = np.asarray(layer["bias"])
    state["fc.weight"] = np.asarray(weights["head"]["kernel"]).T
    state["fc.bias"] = np.asarray(weights["head"]["bias"])
    return {name: np.ascontiguousarray(leaf) for name, leaf in state.items()}


def park_config(spec):
    layers = spec.layers
    return {
        "n_classes": spec.num_classes,
        "channels": [layers[0].in_channels, *(layer.out_channels for layer in layers)],
        "kernel_size": [layer.kernel for layer in layers],
        "stride": [layer.stride for layer in layers],
        "padding": [layer.padding for layer in layers],
        "residual": [layer.residual for layer in layers],
        "activation": [layer.activation for layer in layers],
    }


def spec_of(*layers, shape=(8, 8, 1)):
    return cnn.CnnSpec(tuple(layers), num_classes=10, image_shape=shape)


KNOWN = spec_of(ConvLayer(1, 4, 3, 1, 1, "relu"), ConvLayer(4, 4, 3, 1, 1, "tanh", 0))
# Deeper, with kernels that no network of the zoo has.
NEW = spec_of(
    ConvLayer(1, 3, 5, 1, 2, "gelu"),
    ConvLayer(3, 8, 3, 2, 1, "relu"),
    ConvLayer(8, 4, 1, 1, 0, "tanh"),
)


@pytest.fixture(scope="module")
def mixed_predictor():
    """A predictor for CNNs of any architecture: untrained, which changes nothing here."""
    from flax import nnx

    from probegen_jax.method.readouts.base import Sizes
    from probegen_jax.method.readouts.outputs import Head

    rng = np.random.default_rng(0)
    probes = rng.uniform(-1, 1, (1, 3, 8, 8, 1)).astype(np.float32)
    _, params = nnx.split(Head(30, 8, 2, 1, rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda leaf: np.asarray(leaf)[None], nnx.to_pure_dict(params))
    spec, _ = mixed.build([KNOWN], [jax.device_get(KNOWN.init(jax.random.key(0)))])
    sizes = Sizes(3, 8, 2, 1)
    task = TASKS["regression"]
    return predictor.Predictor(spec, ReadOptions(), task, [0], probes, params, "outputs", sizes, 4)


def test_cnns_of_architectures_that_the_zoo_has_not(mixed_predictor, tmp_path):
    from safetensors.numpy import save_file

    pytest.importorskip("torch")
    expected, paths = [], []
    for n, spec in enumerate((KNOWN, NEW)):
        weights = jax.device_get(spec.init(jax.random.key(n)))
        answers = spec.apply(weights, jax.numpy.asarray(mixed_predictor.probes_SxP[0]))
        x = np.asarray(answers).reshape(1, -1)
        for i, layer in mixed_predictor.head_params["layers"].items():
            x = (np.maximum(x, 0) if i else x) @ layer["kernel"][0] + layer["bias"][0]
        expected.append(x[0, 0])
        file = torch_files.CnnFile(torch_state(weights), park_config(spec))
        torch_files.save_cnn(tmp_path / f"{n}.pt", file)
        metadata = {"config": json.dumps(file.config)}
        save_file(file.state, tmp_path / f"{n}.safetensors", metadata=metadata)
        paths += [tmp_path / f"{n}.pt", tmp_path / f"{n}.safetensors"]
    # And what this run cannot read.
    colour = spec_of(ConvLayer(3, 4, 3, 1, 1, "relu"), shape=(8, 8, 3))
    weights = jax.device_get(colour.init(jax.random.key(2)))
    torch_files.save_cnn(
        tmp_path / "colour.pt", torch_files.CnnFile(torch_state(weights), park_config(colour))
    )
    save_file({"seq.0.bias": np.zeros(3, np.float32)}, tmp_path / "inr.safetensors")
    found = mixed_predictor.predict([*paths, tmp_path / "colour.pt", tmp_path / "inr.safetensors"])
    np.testing.assert_allclose(found.predicted[:4], np.repeat(expected, 2), atol=1e-5)
    assert found.faults[:4] == [None] * 4
    assert found.faults[4].startswith("reads images of 3 channels; this run expects a CNN of the")
    assert found.faults[5].startswith("its metadata has no architecture under 'config', as JSON")
    lines = found.to_csv().splitlines()
    assert lines[0] == "network,predicted,error" and len(lines) == 7


def test_small_cnn_zoo_networks_say_their_activation(tmp_path):
    spec = published.small_cnn_zoo()
    weights = jax.device_get(spec.init(jax.random.key(0)))
    source = {"model": torch_state(weights), "activation": "tanh"}
    read = networks.read(spec, source, "x", ReadOptions())
    assert spec.activations[int(read["activation"])] == "tanh"
    np.testing.assert_array_equal(read["layers"][1]["kernel"], weights["layers"][1]["kernel"])
    narrow = {**source["model"], "layers.0.bias": np.zeros(8, np.float32)}
    for bad, reason in (
        ({**source, "activation": "selu"}, "its activation is 'selu'"),
        ({**source, "model": narrow}, "layer 0: bias has shape (8,), its spec says (16,)"),
        ({"model": {"fc.bias": np.zeros(3, np.float32)}, "activation": "relu"}, "has no fc.weight"),
        ({"model": source["model"]}, "must be a dict with the keys 'model' and 'config'"),
    ):
        with pytest.raises(UserError) as error:
            networks.read(spec, bad, "x", ReadOptions())
        assert error.value.fault == reason
