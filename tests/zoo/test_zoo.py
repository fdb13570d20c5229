import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import together
from conftest import REPO

from probegen_jax.errors import UserError
from probegen_jax.factory.images import sources
from probegen_jax.factory.inr import fit
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.runs.zoo_from_config import from_config
from probegen_jax.zoo import cache, flat_weights
from probegen_jax.zoo.zoo import Zoo

SPEC = SirenSpec(hidden=(8,))


def make_zoo(splits):
    weights = jax.vmap(SPEC.init)(jax.random.split(jax.random.key(0), 6))
    targets = np.arange(6, dtype=np.int32)
    return Zoo("six", SPEC, weights, targets, splits, "classification", 6)


def rows(*values):
    return np.asarray(values, np.int32)


def test_gather_takes_rows_in_the_order_asked():
    zoo = make_zoo({"train": rows(0, 1, 2), "val": rows(3), "test": rows(4, 5)})
    assert len(zoo) == 6
    batch = zoo.spec.take(zoo.weights, jnp.asarray([5, 0]))
    np.testing.assert_array_equal(batch[0]["kernel"][0], zoo.weights[0]["kernel"][5])
    np.testing.assert_array_equal(batch[1]["bias"][1], zoo.weights[1]["bias"][0])


def test_a_network_in_two_splits_is_refused():
    with pytest.raises(UserError, match="network 2 is in 'test' and in another split"):
        make_zoo({"train": rows(0, 1, 2), "val": rows(3), "test": rows(4, 2)})


def test_an_empty_split_is_refused():
    with pytest.raises(UserError, match="split 'val' is empty"):
        make_zoo({"train": rows(0, 1, 2), "val": rows(), "test": rows(4)})


def test_fitting_draws_the_images_and_each_network_depends_on_its_index_alone():
    images = sources.digits().train.images
    spec = SirenSpec()
    fitter = fit.Fitter(spec, fit.Recipe(steps=60), 3, (8, 8, 1), blocks=1)
    vectors_NxV, psnr = fitter(images[:10], np.arange(10))
    assert psnr.shape == (10,) and psnr.min() > 20
    weights = flat_weights.unflatten(vectors_NxV, spec.abstract())
    coordinates = jnp.asarray(spec.pixel_coordinates(8, 8))
    for n in (0, 9):
        network = jax.tree.map(lambda leaf, n=n: leaf[n], weights)
        drawn = np.asarray(spec.apply(network, coordinates)).reshape(8, 8, 1)
        np.testing.assert_allclose(-10 * np.log10(np.mean((drawn - images[n]) ** 2)), psnr[n], 1e-3)
    fewer, _ = fitter(images[4:8], np.arange(4, 8))
    np.testing.assert_array_equal(fewer, vectors_NxV[4:8])


def test_digits_zoo_is_whole(digits_dir):
    zoo = from_config({"dataset": "digits", "data_dir": str(digits_dir)})
    assert len(zoo) == 1797 and zoo.num_outputs == 10
    assert sorted(np.concatenate(list(zoo.splits.values()))) == list(range(1797))
    for split in zoo.splits.values():
        assert set(zoo.targets_N[split]) == set(range(10))
    digits = sources.digits().train
    np.testing.assert_array_equal(zoo.targets_N, digits.labels)
    drawn = zoo.spec.apply(
        zoo.spec.take(zoo.weights, jnp.asarray(1796)), jnp.asarray(zoo.spec.pixel_coordinates(8, 8))
    )
    np.testing.assert_allclose(np.asarray(drawn).reshape(8, 8, 1), digits.images[1796], atol=0.1)


def test_unknown_dataset_is_named():
    with pytest.raises(UserError, match="dataset is 'digit'"):
        from_config({"dataset": "digit"})


def build_counter():
    calls = []

    def build():
        calls.append(1)
        return {"a": np.arange(5.0)}

    return calls, build


def test_cache_builds_once_and_again_for_another_key(tmp_path):
    calls, build = build_counter()
    for key in ({"x": 1}, {"x": 1}, {"x": 2}):
        arrays = cache.cached_arrays(tmp_path / "deep" / "er", "n", key, build)
        np.testing.assert_array_equal(arrays["a"], np.arange(5.0))
    assert len(calls) == 2
    assert len(list((tmp_path / "deep" / "er").iterdir())) == 2  # and nothing temporary


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "a shorter array"])
def test_a_corrupt_cache_file_is_built_again_with_a_warning(tmp_path, damage):
    calls, build = build_counter()
    cache.cached_arrays(tmp_path, "n", {}, build)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0xFF
    elif damage == "a shorter array":  # which NumPy would read without meeting a checksum
        content = content.replace(b"(5,)", b"(4,)")
    else:
        content = content[: len(content) // 2] if damage == "cut" else b""
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is corrupt"):
        arrays = cache.cached_arrays(tmp_path, "n", {}, build)
    np.testing.assert_array_equal(arrays["a"], np.arange(5.0))
    assert len(calls) == 2
    cache.cached_arrays(tmp_path, "n", {}, build)
    assert len(calls) == 2


@pytest.mark.slow
def test_of_two_processes_one_fits_the_digits_and_the_other_waits(tmp_path):
    code = """
        from probegen_jax.factory.builtin import digits
        from probegen_jax.factory.inr import fit
        def quickly(self, images, indices):  # in place of seconds of fitting
            hold()
            print("fits")
            return np.ones((len(images), 1185), np.float32), np.ones(len(images), np.float32)
        import numpy as np
        fit.Fitter.__call__ = quickly
        print(len(digits.load(pathlib.Path(sys.argv[1]) / "data")))
    """
    first, second = together.run(code, tmp_path)
    (kept,) = (tmp_path / "data").iterdir()
    assert first == ["fits", "1797"]
    assert second == [f"waiting for another process that makes {kept}", "1797"]


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UserError, match=r"cannot make the folder .*--config.data_dir=DIR"):
        cache.cached_arrays(blocker / "cache", "n", {}, dict)


def test_the_package_needs_no_torch_and_no_tensorflow():
    program = (
        "import sys, probegen_jax.runs.zoo_from_config, probegen_jax.train\n"
        "import probegen_jax.method.model\n"
        "assert not {'torch', 'tensorflow'} & set(sys.modules)"
    )
    repo = REPO
    subprocess.run([sys.executable, "-c", program], check=True, cwd=repo)
