"""The parts of the Small CNN Zoo: from files as published to probing, and mistakes in between."""

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import published_files
import pytest
from conftest import REPO

from probegen_jax import settings, train
from probegen_jax.errors import UserError
from probegen_jax.networks.cnn import published
from probegen_jax.networks.cnn.state_dict import from_torch
from probegen_jax.runs import zoo_from_config
from probegen_jax.zoo import describe, splits
from probegen_jax.zoo.files.small_cnn_files import ACTIVATIONS
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.prepared.reading import read
from probegen_jax.zoo.published import loading

SIDES = {"cifar10": 32, "svhn_cropped": 32, "mnist": 28, "fashion_mnist": 28}
ADDRESS = "https://storage.googleapis.com/gresearch/smallcnnzoo-dataset/{}.tar.xz"


def config(part, *flags):
    return settings.parse(["x", f"--config={REPO}/configs/small_cnn_zoo.py:{part}", *flags], "")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("part", SIDES)
def test_a_part_is_read_as_published(part, packed, tmp_path):
    names = ACTIVATIONS if part in ("mnist", "fashion_mnist") else ()
    number = 90 if packed else 180
    weights, rows = published_files.small_cnn_zoo(tmp_path / part, part, number, names)
    if packed:
        published_files.small_cnn_archive(tmp_path / f"{part}.tar.xz", tmp_path / part)
        (tmp_path / part / "weights.npy").unlink()
    dataset = published_files.PARTS[part]
    assert loading.BUILDERS[dataset].ADDRESS.url == ADDRESS.format(part)
    data, request = tmp_path / "data", Request(manual_dir=tmp_path)
    columns, members = read(loading.prepared(dataset, data, request=request))
    final = [row for row, line in enumerate(rows) if line["step"] == 86]
    expected = splits.seeded(final, 0.1, 0.5)
    for split, of_split in members.items():
        assert sorted(columns["row"][of_split].tolist()) == expected[split]
    zoo = loading.load(dataset, data)
    assert zoo.name == dataset
    assert zoo.spec.probe_shape == (SIDES[part], SIDES[part], 1)
    assert zoo.spec.pixels == published.signed(1)
    for n, row in enumerate(columns["row"].tolist()):
        of_network = zoo.spec.take(zoo.weights, n)
        flat = [of_network["layers"][1]["bias"], of_network["layers"][1]["kernel"].ravel()]
        np.testing.assert_array_equal(np.concatenate(flat), weights[row, 160:2480])
        chosen = zoo.spec.activations[of_network["activation"]]
        assert chosen == rows[row]["config.activation"]
        assert zoo.targets_N[n] == np.float32(rows[row]["test_accuracy"])


@pytest.mark.parametrize("name", ["nfn_svhn_split.csv", "svhn_split.csv", "svhn_split.csv.gz"])
def test_nfns_split_is_found_by_either_name(name, tmp_path):
    _, rows = published_files.small_cnn_zoo(tmp_path, "svhn_cropped", 180)
    order = np.random.default_rng(3).permutation(180).tolist()
    text = "\n".join(map(str, [0, *order])).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    builder = loading.prepared("svhn_gs", tmp_path / "data", request=Request(manual_dir=tmp_path))
    assert builder.builder_config.name == "official"
    columns, members = read(builder)
    expected = splits.nfn([row for row in [0, *order] if rows[row]["step"] == 86])
    for split, of_split in members.items():
        assert sorted(columns["row"][of_split].tolist()) == sorted(expected[split])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks_and_gradients_of_probes_are_those_of_torch(activation):
    torch = pytest.importorskip("torch")
    from plain_torch import PlainCnn

    choices = published.small_cnn_zoo(ACTIVATIONS, side=28)
    torch.manual_seed(0)
    module = PlainCnn(published.small_cnn_zoo(activation).layers, 10)
    weights = from_torch({name: t.detach().numpy() for name, t in module.state_dict().items()})
    weights["activation"] = jnp.int32(ACTIVATIONS.index(activation))
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], weights)
    images = np.random.default_rng(0).standard_normal((3, *choices.probe_shape), np.float32)

    def total(probes):
        responses = choices.respond(stacked, probes)
        return jnp.square(responses).sum(), responses[0]

    slopes, responses = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(images))
    inputs = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    expected = module(inputs)
    expected.square().sum().backward()
    np.testing.assert_allclose(responses, expected.detach().numpy(), atol=1e-5)
    wanted = inputs.grad.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(slopes, wanted, atol=1e-5)


SLOW = [pytest.param(part, marks=pytest.mark.slow) for part in SIDES if part != "mnist"]


@pytest.mark.parametrize("part", ["mnist", *SLOW])
def test_a_part_trains(part, tmp_path, monkeypatch, capsys):
    published_files.small_cnn_zoo(tmp_path / part, part, 360)
    monkeypatch.chdir(tmp_path)
    train.main(
        [
            "x",
            f"--config={REPO}/configs/small_cnn_zoo.py:{part},4",
            "--config.manual_dir=.",
            "--config.data_dir=data",
            "--config.num_epochs=2",
            "--config.batch_size=8",
            "--config.head_width=8",
            "--config.head_depth=2",
            "--config.generator_width=2",
            "--config.report=False",
            "--workdir=run",
        ]
    )
    assert "the split is seeded" in capsys.readouterr().out
    assert (tmp_path / "run" / "result.json").is_file()


def test_the_config_has_the_papers_settings_for_each_part():
    for part, dataset in published_files.PARTS.items():
        parsed = config(f"{part},vanilla,64").config
        assert (parsed.dataset, parsed.method, parsed.num_probes) == (dataset, "vanilla", 64)
        assert (parsed.num_epochs, parsed.generator_depth) == (150, 6)
        assert parsed.fidelity == ("official" if part == "cifar10" else "faithful")
        assert not settings.standardizes(parsed)
        assert parsed.dataset in zoo_from_config.PUBLISHED
    older = settings.parse(["x", f"--config={REPO}/configs/cifar10_gs.py:vanilla,64"], "").config
    assert older == config("cifar10,vanilla,64").config


@pytest.mark.parametrize("part", ["svhn", "vanilla,64"])
def test_no_part_of_the_zoo_is_told(part):
    with pytest.raises(UserError, match=r"is no part of the zoo; begin with cifar10, svhn_crop"):
        config(part)


@pytest.mark.parametrize(("asked", "given"), [("svhn_cropped", "mnist"), ("mnist", "cifar10")])
def test_files_of_another_part_are_refused(asked, given, tmp_path):
    published_files.small_cnn_zoo(tmp_path, given, 90)
    told = (
        rf"metrics\.csv\.gz: config\.dataset says {given}, not {asked}; .*small_cnn_zoo.py:{given}"
    )
    with pytest.raises(UserError, match=told):
        loading.prepared(
            published_files.PARTS[asked], tmp_path / "data", request=Request(manual_dir=tmp_path)
        )


def test_cifar10_reads_another_part_as_it_always_did_and_says_so(tmp_path, capsys):
    published_files.small_cnn_zoo(tmp_path, "mnist", 180)
    zoo = loading.load("cifar10_gs", tmp_path / "data", request=Request(manual_dir=tmp_path))
    assert len(zoo) == 20 and zoo.spec.probe_shape == (32, 32, 1)
    assert "cifar10_gs: config.dataset says mnist, not cifar10; use" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"config.activation", b"activation", "has no column 'config.activation'"),
        (b",step,", b",epoch,", "has no column 'step'"),
        (b",tanh,", b",softsign,", "its activation 'softsign' is unknown"),
    ],
)
def test_metrics_that_do_not_serve_are_told(old, new, told, tmp_path):
    published_files.small_cnn_zoo(tmp_path, "fashion_mnist", 90)
    path = tmp_path / "metrics.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(old, new)))
    with pytest.raises(UserError, match=told) as error:
        loading.prepared("fmnist_gs", tmp_path / "data", request=Request(manual_dir=tmp_path))
    assert "\n" not in str(error.value)


def test_a_part_is_described_beside_cifar10s_statistics(tmp_path):
    published_files.small_cnn_zoo(tmp_path, "svhn_cropped", 180)
    zoo = loading.load("svhn_gs", tmp_path / "data", request=Request(manual_dir=tmp_path))
    lines = zoo.describe().splitlines()
    assert lines[0] == "svhn_gs: 20 networks of 4,970 weights, regression"
    (header,) = (line for line in lines if line.startswith("weights"))
    assert header.split()[-2:] == ["CIFAR10-GS's", "std"]
    (bias,) = (line for line in lines if line.split()[:1] == ["layers.2.bias"])
    assert bias.split()[-1] == "1.9454"
    wider = {"kernel": np.ones((2, 3, 3, 1, 8), np.float32), "bias": np.ones((2, 8), np.float32)}
    assert describe.published("mine", {"layers": (wider,), "head": wider}) == {}


def test_a_folder_without_the_part_says_what_it_needs(tmp_path):
    told = r"no svhn_gs zoo here; it needs weights.npy, .* or in svhn_cropped/, or svhn_cropped.tar"
    with pytest.raises(UserError, match=told):
        loading.prepared("svhn_gs", tmp_path / "data", request=Request(manual_dir=tmp_path))
