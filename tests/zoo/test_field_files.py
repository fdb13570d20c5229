"""Fields in files that others' PyTorch code writes: read by what the settings say of them."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPO

torch = pytest.importorskip("torch")
from torch import nn

import probegen_jax
from probegen_jax import settings
from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.export import main as export
from probegen_jax.networks.field import FieldSpec
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.runs.zoo_from_config import from_config
from probegen_jax.train import train
from probegen_jax.zoo.files import inr_files, torch_files
from probegen_jax.zoo.own.networks import read


class Gabor(nn.Module):
    """A layer of WIRE's code, `RealGaborLayer`."""

    def __init__(self, m, n):
        super().__init__()
        self.freqs, self.scale = nn.Linear(m, n), nn.Linear(m, n)

    def forward(self, x):
        return torch.cos(10.0 * self.freqs(x)) * torch.exp(-((5.0 * self.scale(x)) ** 2))


class Wire(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(Gabor(2, 8), Gabor(8, 6), nn.Linear(6, 1))

    def forward(self, x):
        return self.net(x)


class Fourier(nn.Module):
    """As rff-pytorch has it: the buffer `encoding.b`, cosines first; then an MLP."""

    def __init__(self):
        super().__init__()
        self.encoding = nn.Module()
        self.encoding.register_buffer("b", torch.randn(5, 3))
        self.net = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(),
                                 nn.Linear(8, 2))  # fmt: skip

    def forward(self, x):
        phases = 2 * math.pi * x @ self.encoding.b.T
        return self.net(torch.cat([torch.cos(phases), torch.sin(phases)], dim=-1))


class Nerf(nn.Module):
    """NeRF's encoding as its code has it, without the paper's π; of a sound."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(7, 8), nn.Linear(8, 8), nn.Linear(8, 1)])

    def forward(self, x):
        waves = [f(2**n * x) for n in range(3) for f in (torch.sin, torch.cos)]
        x = torch.cat([x, *waves], dim=-1)
        for layer in self.layers[:-1]:
            x = nn.functional.gelu(layer(x))
        return self.layers[-1](x)


class Gauss(nn.Module):
    def __init__(self):
        super().__init__()
        self.seq = nn.ModuleList([nn.Linear(2, 8), nn.Linear(8, 3)])

    def forward(self, x):
        return self.seq[1](torch.exp(-((10.0 * self.seq[0](x)) ** 2))) + 0.5


# A module, and what the settings say of its files.
KINDS = {
    "WIRE": (
        Wire,
        {
            "hidden": (8, 6),
            "activation": "gabor",
            "w0": 10.0,
            "width": 5.0,
            "output_shift": 0.0,
            "layer_key": "net.{}.freqs",
            "scale_key": "net.{}.scale",
            "last_layer_key": "net.{}",
        },
    ),
    "Fourier features": (
        Fourier,
        {
            "hidden": (8, 8),
            "in_dim": 3,
            "channels": 2,
            "activation": "relu",
            "encoding": "fourier",
            "frequencies": 5,
            "output_shift": 0.0,
            "layer_key": "net.{}",
            "projection_key": "encoding.b",
            "cos_first": True,
        },
    ),
    "NeRF's encoding": (
        Nerf,
        {
            "hidden": (8, 8),
            "in_dim": 1,
            "activation": "gelu",
            "encoding": "positional",
            "frequencies": 3,
            "first_octave": 1.0,
            "output_shift": 0.0,
            "layer_key": "layers.{}",
        },
    ),
    "Gaussian": (
        Gauss,
        {"hidden": (8,), "channels": 3, "activation": "gaussian", "width": 1 / (10 * math.sqrt(2))},
    ),
}


def written(folder, kind, number=24):
    """A folder of such networks, and a CSV of two classes."""
    modules = []
    for n in range(number):
        torch.manual_seed(n)
        modules.append(KINDS[kind][0]())
        torch.save(modules[-1].state_dict(), folder / f"{n}.pth")
    lines = ["path,target", *(f"{n}.pth,{n % 2}" for n in range(number))]
    (folder / "targets.csv").write_text("\n".join(lines))
    return modules


def config(folder, kind, **changes):
    values = KINDS[kind][1] | changes
    return settings.parse(
        [
            "x",
            f"--config={REPO}/configs/own_inr.py:6",
            f"--config.networks_dir={folder}",
            f"--config.targets_csv={folder / 'targets.csv'}",
            f"--config.data_dir={folder / 'data'}",
            *(f"--config.{key}={value}" for key, value in values.items()),
        ],
        "",
    ).config


@pytest.mark.parametrize("kind", KINDS)
def test_its_values_are_those_of_the_module(kind, tmp_path):
    modules = written(tmp_path, kind)
    zoo = from_config(config(tmp_path, kind))
    probes = np.random.default_rng(0).uniform(-1, 1, (9, zoo.spec.in_dim)).astype(np.float32)
    with torch.no_grad():
        expected = np.stack([module(torch.from_numpy(probes)).numpy() for module in modules])
    found = zoo.spec.respond(jax.tree.map(jnp.asarray, zoo.weights), jnp.asarray(probes))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_and_its_export_predict_for_such_files(kind, tmp_path):
    networks = tmp_path / "networks"
    networks.mkdir()
    written(networks, kind)
    small = {"num_epochs": 1, "batch_size": 8, "head_width": 8, "head_depth": 2}
    trained = config(networks, kind, **small)
    train(trained, str(tmp_path / "run"))
    assert (tmp_path / "run" / "report.html").exists()
    export(["export", str(tmp_path / "run"), str(tmp_path / "model")])
    files = [networks / f"{n}.pth" for n in (3, 0)]
    (networks / "bad.pth").write_bytes(files[0].read_bytes()[:100])
    run = probegen_jax.load(tmp_path / "run")
    predictions = run.predict([*files, networks / "bad.pth"])
    assert predictions.faults[:2] == [None, None] and "damaged" in predictions.faults[2]
    moved = probegen_jax.load(tmp_path / "model").predict(files)
    np.testing.assert_array_equal(moved.values, predictions.values[:2])
    rows = run.predict_rows(from_config(trained), np.array([3, 0]))
    np.testing.assert_allclose(rows.values, predictions.values[:2], rtol=1e-5)


SPECS = [
    FieldSpec(hidden=(4, 5), in_dim=3, activation="gabor", encoding="fourier", frequencies=3),
    FieldSpec(hidden=(4,), in_dim=1, activation="tanh", encoding="positional", frequencies=2),
    SirenSpec(hidden=(4, 5), in_dim=3),
]


@pytest.mark.parametrize("cos_first", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=["gabor", "tanh", "siren"])
def test_what_is_written_comes_back(spec, cos_first, tmp_path):
    network = jax.tree.map(np.asarray, spec.init(jax.random.key(0)))
    torch_files.save_inr(tmp_path / "a.pth", inr_files.to_state(network, ReadOptions()))
    options = ReadOptions(cos_first=cos_first)
    again = read(spec, tmp_path / "a.pth", "a", options)
    same = jax.tree.map(np.array_equal, again, network)
    assert jax.tree.all(same) == (not cos_first or getattr(spec, "encoding", "") != "fourier")
    assert not spec.is_stacked({"seq.0.weight": 0}) and spec.is_stacked(network)


FIELD = FieldSpec(hidden=(4,), activation="gabor", encoding="fourier", frequencies=3)


def state_of_field(**changes):
    state = inr_files.to_state(jax.tree.map(np.asarray, FIELD.init(jax.random.key(0))),
                               ReadOptions())  # fmt: skip
    return {name: array for name, array in (state | changes).items() if array is not None}


BAD = {
    "no projection": ({"B": None}, r"has no B \(it has scale\.0\.bias, .*, seq\.1\.weight\)"),
    "no scale": ({"scale.0.weight": None}, r"has no scale\.0\.weight"),
    "a projection of others": ({"B": np.zeros((4, 2), "f")}, r"B has shape \(4, 2\), expected \(3"),
    "NaN": ({"B": np.full((3, 2), np.nan, "f")}, "B holds NaN or infinite weights"),
    "complex": ({"B": np.zeros((3, 2), complex)}, "B is complex128, not float32"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_field_lacks_is_told(case):
    changes, told = BAD[case]
    with pytest.raises(BadNetworkError, match=told) as error:
        read(FIELD, state_of_field(**changes), "a", ReadOptions())
    assert "\n" not in str(error.value)


def test_names_that_fit_other_settings_are_told():
    renamed = {
        name.replace("seq.0", "net.0.freqs").replace("scale.0", "net.0.scale").replace("seq", "net")
        : array for name, array in state_of_field().items()
    }  # fmt: skip
    with pytest.raises(BadNetworkError) as error:
        read(FIELD, renamed, "a", ReadOptions())
    fitting = "--config.layer_key=net.{}.freqs --config.last_layer_key=net.{}"
    assert "has no seq.0.weight (it has B, net.0" in str(error.value)
    assert f"(its names fit {fitting})" in str(error.value)
    with pytest.raises(BadNetworkError) as error:
        read(FIELD, {"a.weight": renamed["net.1.weight"]}, "a", ReadOptions())
    assert "has no seq.0.weight (it has a.weight; tried were seq.{}, net.{}.linear, " in str(
        error.value
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"activation": "relu", "encoding": "fourier"}, "encoding is 'fourier' with 0 frequencies"),
        ({"activation": "swish"}, "activation is 'swish'; it should be one of relu, gelu"),
        ({"encoding": "hash", "frequencies": 3}, "encoding is 'hash'; it should be one of none"),
        ({"activation": "gaussian", "width": 0.0}, "width is 0.0; it must be above 0"),
        ({"scale_key": "scale"}, r"must hold one {}"),
    ],
)
def test_settings_that_make_no_field_are_told(changes, told, tmp_path):
    KINDS["none"] = (None, {})
    with pytest.raises(UserError) as error:
        from_config(config(pathlib.Path(tmp_path), "none", **changes))
    assert told in str(error.value) and "\n" not in str(error.value)
