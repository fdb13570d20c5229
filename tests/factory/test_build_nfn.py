"""INR zoos in the form of NFN's: as their reader says they are, built, exported and read back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discs import build, colours, columns_of, write_images

from probegen_jax.factory.images import files, sources
from probegen_jax.factory.inr import fit
from probegen_jax.zoo.prepared import built_zoos
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.published import loading, nfn

NFN_LIKE = {
    "colours": (colours, "cifar10_inr", nfn.COLOURS, "cifar10_inr.py"),
    "fashion": (write_images, "nfn_fmnist_inr", nfn.GRAY, "nfn_fmnist.py"),
    "gray": (write_images, "nfn_mnist_inr", nfn.GRAY, "nfn_mnist.py"),
}


@pytest.mark.parametrize(
    "name",
    ["colours", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fashion", "gray"))],
)
def test_networks_and_their_export_are_like_nfns(name, tmp_path, capsys):
    pytest.importorskip("torch")
    write, dataset, spec, config = NFN_LIKE[name]
    source, out = write(tmp_path / f"{name}.npz"), tmp_path / "zoo"
    build(source, out, "--layout=nfn", "--steps=60", "--copies=2", "--export=torch")
    zoo, (columns, _) = built_zoos.load(out, "inr"), columns_of(out)
    assert zoo.spec == spec
    found = sources.load(str(source))
    pixels = sources.scaled(np.concatenate([found.train.images, found.test.images]))
    points = jnp.asarray(zoo.spec.pixel_coordinates(*found.image_shape[:2]))
    drawn = np.asarray(jax.vmap(zoo.spec.apply, (0, None))(zoo.weights, points))
    drawn = (drawn.reshape(len(zoo), *found.image_shape) + 1) / 2
    psnr = -10 * np.log10(np.mean((drawn - pixels[columns["image"]]) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(psnr, columns["psnr"], rtol=5e-3)
    assert psnr.mean() > 25
    shown = capsys.readouterr().out
    assert f"--config=configs/{config} --config.manual_dir={out / 'torch'}" in shown
    assert f"--config=configs/{config} --config.zoo_dir={out}" in shown
    back = loading.load(dataset, tmp_path / "data", request=Request(manual_dir=out / "torch"))
    assert back.spec == spec
    for split, rows in zoo.splits.items():
        kernels = zoo.weights[1]["kernel"][rows], back.weights[1]["kernel"][back.splits[split]]
        ours, theirs = (each.reshape(len(rows), -1) for each in kernels)
        targets = zoo.targets_N[rows], back.targets_N[back.splits[split]]
        order = [np.lexsort(each[:, :2].T) for each in (ours, theirs)]
        np.testing.assert_array_equal(ours[order[0]], theirs[order[1]])
        np.testing.assert_array_equal(targets[0][order[0]], targets[1][order[1]])


@pytest.mark.slow
def test_cifar10_is_built_as_nfns_zoo(monkeypatch, tmp_path):
    archive = {"train": colours(tmp_path / "a.npz"), "test": colours(tmp_path / "b.npz", 6)}
    parts = {name: files.from_npz(path).train for name, path in archive.items()}
    monkeypatch.setattr(sources.downloads, "public", lambda *_: files.Found(**parts))
    build("cifar10", tmp_path / "zoo")
    plan = json.loads((tmp_path / "zoo" / "plan.json").read_text())
    assert plan["recipe"] == fit.COLOURS.to_json()
    assert (plan["spec"]["grid"], plan["spec"]["output_shift"]) == ("ij", 0.0)
    assert built_zoos.load(tmp_path / "zoo", "inr").spec == nfn.COLOURS


@pytest.mark.slow
def test_a_network_of_nfns_kind_stops_at_a_psnr_of_the_image():
    targets = np.random.default_rng(0).uniform(-1, 1, (8, 6, 6, 1)).astype(np.float32)
    recipe = fit.Recipe(300, 1e-3, False, "siren", stop_psnr=15.0)
    _, psnr = fit.Fitter(nfn.GRAY, recipe, 0, (6, 6, 1), blocks=1, peak=2.0)(targets, np.arange(8))
    assert (psnr > 14.99).all() and (psnr < 16).all()
