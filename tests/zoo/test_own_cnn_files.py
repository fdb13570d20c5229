"""CNNs of the user's own: what is read of their files."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import own_cnns
from own_cnns import config, net, read, reader
from torch import nn

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks import registry
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.pixels import Pixels
from probegen_jax.runs.zoo_from_config import from_config
from probegen_jax.zoo.files.arrays import Notes
from probegen_jax.zoo.own import networks

PIXELS = {"pixel_mean": "(0.5, 0.4, 0.3)", "pixel_std": "(0.2, 0.2, 0.25)"}
PROBES = np.random.default_rng(0).standard_normal((4, own_cnns.SIZE, own_cnns.SIZE, 3), np.float32)


def check_responses(spec, weights, models):
    """Responses within 1e-5 of torch's, gradients of probes within 1e-4."""

    def total(probes):
        responses = spec.respond(weights, probes)
        return jnp.sum(jnp.square(responses)), responses

    gradient, found = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(PROBES))
    expected, gradients = zip(*(own_cnns.responses(model, PROBES) for model in models), strict=True)
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, np.sum(gradients, axis=0), rtol=1e-4, atol=1e-4)


def test_layers_are_inferred_and_respond_as_in_torch(tmp_path):
    models = [net(n) for n in range(12)]
    folder = own_cnns.write(tmp_path / "zoo", [(model, None) for model in models])
    said = own_cnns.NET_SETTINGS | {"image_size": 16}
    zoo = from_config(config(folder, **said))
    (layers,) = zoo.spec.architectures
    assert [layer.key for layer in layers if layer.key] == ["conv1", "conv2", "fc1", "fc2"]
    assert zoo.spec.probe_shape == (16, 16, 3) and zoo.spec.response_dim == 5
    assert zoo.spec.num_weights == 6 * 27 + 6 + 8 * 54 + 8 + 12 * 32 + 12 + 5 * 12 + 5
    assert "fc2" not in zoo.describe() and "4.kernel" not in zoo.describe()
    for platform in ("cpu", "gpu"):
        check_responses(zoo.spec.on_platform(platform), zoo.weights, models)
    again = from_config(config(folder, **said))  # from the cache
    jax.tree.map(np.testing.assert_array_equal, again.weights, zoo.weights)
    assert again.spec == zoo.spec


def mixture():
    models = []
    for n in range(12):
        torch.manual_seed(n)
        made = (net(n), own_cnns.NET_JSON), own_cnns.other(), own_cnns.small()
        model, content = made[n % 3]
        models.append((own_cnns.trained(model, n), content))
    return models


def test_a_mixture_is_read_by_a_json_beside_each(tmp_path):
    models = mixture()
    folder = own_cnns.write(tmp_path / "zoo", models)
    given = config(folder, image_size=16, **PIXELS)
    zoo = from_config(given)
    assert len(zoo.spec.architectures) == 3 and zoo.spec.num_weights is None
    assert zoo.spec.pixels == Pixels((0.5, 0.4, 0.3), (0.2, 0.2, 0.25))
    for platform in ("cpu", "gpu"):
        check_responses(zoo.spec.on_platform(platform), zoo.weights, [model for model, _ in models])
    assert "tables.1.0.kernel" in zoo.describe()
    # Rows and shards hold the same networks.
    rows = [np.array([7, 2, 4]), np.array([0, 3, 9])]
    probes = jnp.asarray(PROBES[:2])
    everything = zoo.spec.respond(jax.tree.map(jnp.asarray, zoo.weights), probes)
    for part, rows_n in zip(zoo.shard(rows, lambda counts: counts), rows, strict=True):
        assert [len(table[0]["bias"]) for table in part["tables"]] == [3, 2, 1]
        responses = zoo.spec.respond(jax.tree.map(jnp.asarray, part), probes)
        np.testing.assert_allclose(responses, everything[rows_n], rtol=1e-5, atol=1e-6)
    costs = zoo.spec.costs(zoo.weights)
    assert costs[0] == 64 * 162 + 16 * 432 + 384 + 60 and set(costs[::3]) == {costs[0]}
    # Another network of the zoo's is known by its arrays; one of none must say what it is.
    spec = zoo.spec
    state = own_cnns.small()[0].state_dict()
    assert networks.read(spec, dict(state), "b", ReadOptions())[0].alone == spec.architectures[2]
    with pytest.raises(BadNetworkError, match=r"has no conv1.weight.* nor any other of 3 arch"):
        networks.read(spec, {"0.weight": torch.zeros(2, 3, 3, 3)}, "c", ReadOptions())


def test_one_json_for_all_and_facts_of_its_own(tmp_path):
    folder = own_cnns.write(tmp_path / "zoo", [(net(n), None) for n in range(12)])
    path = tmp_path / "net.json"
    path.write_text(json.dumps(own_cnns.NET_JSON))
    zoo = from_config(config(folder, architecture=path))
    assert zoo.spec.pixels == Pixels((0.5, 0.4, 0.3), (0.2, 0.2, 0.25))
    check_responses(zoo.spec, zoo.weights, [net(n) for n in range(12)])
    given = config(folder, architecture=path, pixel_mean="(0., 0., 0.)", pixel_std="(1., 1., 1.)")
    assert from_config(given).spec.pixels == Pixels((0.0,) * 3, (1.0,) * 3)


def test_architectures_may_differ_in_what_arrays_tell(tmp_path):
    widths = [(6, 8), (4, 8), (6, 4)]
    models = [net(n, widths[n % 3]) for n in range(12)]
    folder = own_cnns.write(tmp_path / "zoo", [(model, None) for model in models])
    zoo = from_config(config(folder, **own_cnns.NET_SETTINGS, image_size=16))
    assert len(zoo.spec.architectures) == 3
    check_responses(zoo.spec, zoo.weights, models)


def test_specs_go_through_json_and_read_the_same_files():
    for said in (own_cnns.NET_JSON, own_cnns.NET_SETTINGS):
        spec, weights = read(said, dict(net(0).state_dict()))
        again = registry.from_json(json.loads(json.dumps(registry.to_json(spec))))
        assert again == spec
        _, same = networks.read(again, dict(net(0).state_dict()), "b", ReadOptions())
        jax.tree.map(np.testing.assert_array_equal, same, weights)


@pytest.mark.parametrize("said", [own_cnns.NET_JSON, own_cnns.NET_SETTINGS])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_files_of_either_kind_and_names_with_a_prefix(said, ending, prefix, tmp_path):
    state = {f"{prefix}{key}": array for key, array in net(0).state_dict().items()}
    path = tmp_path / f"net.{ending}"
    if ending == "pth":
        torch.save({"model": state, "epoch": 3, "config": {"lr": 0.1}}, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(state, path)
    _, weights = networks.read(reader(said), path, "net", ReadOptions())
    _, expected = read(own_cnns.NET_JSON, dict(net(0).state_dict()))
    jax.tree.map(np.testing.assert_array_equal, weights, expected)


def test_the_architecture_may_be_in_the_file(tmp_path):
    state = net(0).state_dict()
    torch.save({"model": state, "config": own_cnns.NET_JSON}, tmp_path / "a.pth")
    save = pytest.importorskip("safetensors.torch").save_file
    save(state, tmp_path / "b.safetensors", metadata={"config": json.dumps(own_cnns.NET_JSON)})
    for name in ("a.pth", "b.safetensors"):
        spec, _ = networks.read(reader({}), tmp_path / name, name, ReadOptions())
        assert len(spec.alone) == 10
    (tmp_path / "b.json").write_text('{"accuracy": 0.7}')  # notes of a training are none
    networks.read(reader({}), tmp_path / "b.safetensors", "b", ReadOptions())


def test_other_floats_are_widened_and_that_is_said():
    notes = Notes()
    state = {k: v.half() if "conv" in k else v for k, v in net(0).state_dict().items()}
    state["fc1.weight"] = state["fc1.weight"].bfloat16()
    _, weights = read(own_cnns.NET_JSON, state, notes)
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {np.dtype(np.float32)}
    assert any("weights in float16 are converted" in line for line in notes.lines)
    assert any("weights in bfloat16 are converted" in line for line in notes.lines)


def test_a_json_that_changes_makes_another_zoo(tmp_path):
    folder = own_cnns.write(tmp_path / "zoo", [(net(n), own_cnns.NET_JSON) for n in range(12)])
    given = config(folder, image_size=16)
    first = from_config(given).spec
    tanh = [each if each != "relu" else "tanh" for each in own_cnns.NET_JSON["layers"]]
    (folder / "3.json").write_text(json.dumps({"layers": tanh}))
    assert len(first.architectures) == 1 and len(from_config(given).spec.architectures) == 2
    (folder / "3.json").write_text(json.dumps({"layers": tanh, "image_size": 8}))
    with pytest.raises(UserError, match=re.escape("3.pth: its JSON: image_size is (8, 8), the")):
        from_config(given)


def test_several_architectures_run_one_after_another():
    read_by = [read(each[1], dict(each[0].state_dict())) for each in mixture()[:3]]
    spec, weights = reader({}).stack(read_by)
    assert spec.count(weights) == 3 and spec.is_stacked(weights) and not spec.block_sizes(32)
    with pytest.raises(UserError, match="block_size is 2, but networks of several architectures"):
        spec.with_block_size(2)
    one = spec.take(weights, 1)
    probes = jnp.asarray(PROBES)
    expected = read_by[1][0].apply(read_by[1][1], probes)
    np.testing.assert_allclose(spec.apply(one, probes), expected, atol=1e-5)
    larger = dataclasses.replace(read_by[2][0]).with_probe_shape((20, 20, 3))
    assert larger.apply(read_by[2][1], jnp.zeros((2, 20, 20, 3))).shape == (2, 5)
    with pytest.raises(UserError, match="'fc1': reads 32 values, but is given 72 values"):
        read_by[0][0].with_probe_shape((24, 24, 3))


@pytest.mark.parametrize("model", [nn.ReLU6, nn.ELU, nn.Softplus, nn.Hardswish, nn.Mish, nn.SiLU])
def test_further_activations(model):
    name = model.__name__.lower()
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), model(), nn.MaxPool2d(14))
    said = {"layers": [{"conv": "0"}, name, "global_max_pool"]}
    spec, weights = read(said, dict(net.state_dict()))
    expected = net(torch.tensor(PROBES.transpose(0, 3, 1, 2)))[:, :, 0, 0].detach()
    np.testing.assert_allclose(spec.apply(weights, jnp.asarray(PROBES)), expected, atol=1e-5)
