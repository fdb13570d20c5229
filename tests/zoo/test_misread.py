"""A zoo that is read with a wrong setting is named, with the setting that is right."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from conftest import REPO

from probegen_jax import settings
from probegen_jax.describe_zoo import main as describe
from probegen_jax.errors import UserError
from probegen_jax.factory.builtin import digits
from probegen_jax.networks.field import FieldSpec
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.runs import checks
from probegen_jax.training.mesh import make_mesh
from probegen_jax.zoo import flat_weights, misread, own

# Settings under which networks are misread, and what is then said to be right.
WRONG = [
    ({"w0": 10.0}, r"w0 looks wrong: with --config\.w0=30 "),
    ({"w0": 60.0}, r"w0 looks wrong: with --config\.w0=30 "),
    ({"w0": 1.0}, r"w0 looks wrong: with --config\.w0=30 "),
    ({"output_shift": 0.0}, r"output_shift looks wrong: .* --config\.output_shift=0\.5 "),
]


def read_with(zoo, **changes):
    return dataclasses.replace(zoo, spec=dataclasses.replace(zoo.spec, **changes))


@pytest.fixture(scope="module")
def zoo(digits_dir):
    return digits.load(digits_dir)


@pytest.mark.parametrize("sized", [True, False])
def test_fitted_digits_are_fine_as_they_are_and_named_when_misread(zoo, sized):
    zoo = dataclasses.replace(zoo, image_shape=(8, 8) if sized else None)
    assert misread.doubts(zoo) == []
    for changes, message in WRONG:
        (line,) = misread.doubts(read_with(zoo, **changes))
        assert re.match(message, line), (changes, line)


def test_values_from_minus_one_to_one_have_no_shift(zoo):
    *hidden, last = zoo.weights
    doubled = {name: 2 * leaf for name, leaf in last.items()}
    signed = dataclasses.replace(read_with(zoo, output_shift=0.0), weights=(*hidden, doubled))
    assert misread.doubts(signed) == []
    (line,) = misread.doubts(read_with(signed, output_shift=0.5))
    assert (
        "values go from -0.50 to 1.50; with --config.output_shift=0.0 they are in [-1, 1]" in line
    )


def test_noise_and_other_ranges_are_told():
    spec = SirenSpec(hidden=(16, 16))
    vectors = np.random.default_rng(0).standard_normal((20, spec.num_weights)).astype(np.float32)
    zoo = own.from_arrays("a", spec, vectors, np.arange(20) % 2, task="classification")
    (line,) = misread.doubts(zoo)
    assert line.startswith("they draw noise, no images: neighbouring pixels correlate by ")
    slope = FieldSpec(hidden=(1,), activation="relu", output_shift=0.0)
    vector = flat_weights.flatten(
        {"layers": ({"kernel": np.array([[4.0], [0]]), "bias": np.zeros(1)},
                    {"kernel": np.ones((1, 1)), "bias": np.zeros(1)})}
    ).astype(np.float32)  # fmt: skip
    zoo = own.from_arrays(
        "b", slope, np.tile(vector, (20, 1)), np.arange(20) % 2, task="classification"
    )
    (line,) = misread.doubts(zoo)
    assert line.startswith("values go from 0.00 to 4.00, and no output_shift brings them to [0, 1]")
    line_only = dataclasses.replace(zoo, spec=SirenSpec(hidden=(1,), in_dim=1))
    assert misread.doubts(line_only) == []  # no images


@pytest.mark.parametrize(
    "spec",
    [SirenSpec(hidden=(5, 4, 3), w0_first=7.0), FieldSpec(hidden=(5, 4), activation="sine")],
)
def test_another_w0_is_another_scale_of_weights(spec):
    weights = jax.vmap(spec.init)(jax.random.split(jax.random.key(0), 3))
    wanted = dataclasses.replace(spec, w0=11.0, w0_first=3.0)
    (expected,) = wanted.draws(weights, [(6, 5)])
    (drawn,) = spec.draws(spec.at_w0(weights, 11.0, 3.0), [(6, 5)])
    np.testing.assert_allclose(drawn, expected, atol=2e-5)
    assert wanted.phase_gain(weights) == pytest.approx(
        spec.phase_gain(spec.at_w0(weights, 11.0, 3.0)), rel=1e-5
    )
    assert dataclasses.replace(spec, w0=0.0).at_w0(weights, 11.0, 3.0) is None


def test_a_siren_that_was_not_trained_has_a_gain_of_one():
    spec = SirenSpec(hidden=(128, 128, 128), w0=12.0)
    weights = jax.vmap(spec.init)(jax.random.split(jax.random.key(0), 2))
    assert spec.phase_gain(weights) == pytest.approx(1.0, abs=0.02)
    relus = FieldSpec(hidden=(4, 4))
    assert relus.phase_gain(jax.vmap(relus.init)(jax.random.split(jax.random.key(0), 2))) is None


def test_images_tell_the_order_of_coordinates(zoo):
    from sklearn.datasets import load_digits

    images = (load_digits().images[..., None] / 16).astype(np.float32)
    parts = [images[:1000], images[1000:]]
    weights = misread.some(zoo, 40)
    psnr_N, lines = misread.compared(zoo, weights, parts)
    assert lines == [] and psnr_N.min() > 60 and len(psnr_N) == 40
    psnr_N, (line,) = misread.compared(read_with(zoo, grid="ij"), weights, parts)
    assert "with --config.grid=xy drawings have " in line and psnr_N.mean() < 25


def test_the_closest_image_is_found_among_parts():
    images = np.random.default_rng(0).random((7, 3, 4, 2)).astype(np.float32)
    drawn = images[[6, 2]] + np.float32(0.1)
    found = misread.closest(drawn, [images[:5], images[5:]])
    np.testing.assert_allclose(found, [20.0, 20.0], atol=0.01)


def arguments(folder, tmp_path, **changes):
    """Flags that read the genuine INR as a zoo of one's own."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.pth"))
    assert len(files) == 32
    rows = [f"{path},{n % 2}" for n, path in enumerate(files)]
    (tmp_path / "targets.csv").write_text("\n".join(["path,target", *rows]))
    given = {"networks_dir": folder, "targets_csv": tmp_path / "targets.csv"}
    given |= {"data_dir": tmp_path / "cache"} | changes
    return [
        "x",
        f"--config={REPO}/configs/own_inr.py",
        *(f"--config.{key}={value}" for key, value in given.items()),
    ]


@pytest.mark.slow
def test_a_published_inr_is_named_when_misread(shared, tmp_path, capsys):
    pytest.importorskip("torch")
    folder = shared / "data" / "mnist_inr_real"
    images = f"--images=idx:{shared / 'data' / 'mnist'}"
    page = tmp_path / "zoo.html"
    describe([*arguments(folder, tmp_path), images, f"--out={page}"])
    shown = capsys.readouterr().out
    assert "misread" not in shown and "MNIST-INR's std" in shown
    mean = re.search(r"PSNR in dB of 32 networks to the closest image of mnist: mean (\S+),", shown)
    assert 24 < float(mean[1]) < 27
    assert page.read_text().count("<image") == 16
    for changes, message in [*WRONG, ({"grid": "ij"}, "order .* --config.grid=xy ")]:
        flags = arguments(folder, tmp_path, **changes)
        describe([*flags, images] if "grid" in changes else flags)
        (line,) = re.findall("mnist_inr_real may be misread: (.*)", capsys.readouterr().out)
        assert re.search(message, line), (changes, line)


def test_training_on_a_misread_zoo_of_ones_own_is_preceded_by_a_line(zoo, tmp_path):
    argv = ["x", f"--config={REPO}/configs/own_inr.py", "--config.num_epochs=1"]
    config = settings.parse(argv, "").config
    mesh = make_mesh(config.batch_size, config.num_seeds, 1, None)
    assert checks.check_zoo(zoo, config, mesh) == []
    (line,) = checks.check_zoo(read_with(zoo, w0=60.0), config, mesh)
    assert line.startswith("digits may be misread: w0 looks wrong: with --config.w0=30 ")


def test_images_that_are_not_those_of_the_networks_are_refused(built_zoos_dir, tmp_path):
    rgb = np.zeros((12, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "rgb.npz", images=rgb, labels=np.arange(12) % 2)
    np.savez(tmp_path / "sounds.npz", signals=rgb[:, 0, :, 0] / 255, labels=np.arange(12) % 2)
    flags = ["x", f"--config={REPO}/configs/mnist.py"]
    for family, source, message in [
        ("inr", f"signals:{tmp_path}/sounds.npz", "are no images, as networks of digits_inr_built"),
        ("cnn", f"{tmp_path}/rgb.npz", "draw no images; leave out --images"),
    ]:
        config = {"inr": "mnist", "cnn": "cifar10_wild_park"}[family]
        flags = ["x", f"--config={REPO}/configs/{config}.py"]
        flags += [f"--config.zoo_dir={built_zoos_dir / family}", f"--images={source}"]
        with pytest.raises(UserError, match=message):
            describe(flags)
