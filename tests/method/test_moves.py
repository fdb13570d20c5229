"""Augmentation: networks that draw a moved image, and training on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from probegen_jax import settings
from probegen_jax.errors import UserError
from probegen_jax.method.dropout import Noise
from probegen_jax.method.model import make_model
from probegen_jax.method.moves import Moves, Reach
from probegen_jax.networks.field import FieldSpec
from probegen_jax.networks.siren import SirenSpec

SIREN = SirenSpec(hidden=(8, 8), w0_first=10.0)
FAR = Reach(shift=0.3, rotation=40.0, scale=0.2, flip=True)
NOW = Noise(jnp.int32(7), jnp.int32(0))


def zoo_of(spec, number=6):
    return jax.vmap(spec.init)(jax.random.split(jax.random.key(1), number))


@pytest.mark.parametrize(
    "spec",
    [
        SIREN,
        SirenSpec(hidden=(4,), in_dim=3),
        FieldSpec(hidden=(8, 8), activation="gabor"),
        FieldSpec(hidden=(8,), in_dim=1, activation="tanh"),
    ],
)
def test_a_moved_network_answers_what_it_answers_at_moved_points(spec):
    weights = jax.tree.map(lambda leaf: leaf[0], zoo_of(spec))
    keys = jax.random.split(jax.random.key(2), 3)
    matrix = jax.random.normal(keys[0], (spec.in_dim, spec.in_dim))
    shift = jax.random.normal(keys[1], (spec.in_dim,))
    points = 0.2 * jax.random.normal(keys[2], (9, spec.in_dim))
    moved = spec.moved(weights, matrix, shift)
    expected = spec.apply(weights, points @ matrix.T + shift[None])
    np.testing.assert_allclose(spec.apply(moved, points), expected, rtol=1e-3, atol=1e-4)


def moves_of(reach, spec=SIREN):
    return Moves(reach, spec, rngs=nnx.Rngs(params=3))


def centre_and_axes(reach, number=300):
    """Where the centre of an image and its two axes go, of many networks."""
    found = moves_of(reach)
    matrices, shifts = jax.vmap(found._drawn)(jax.random.split(jax.random.key(0), number))
    return np.asarray(matrices), np.asarray(shifts)


def test_moves_reach_as_far_as_is_said_and_no_further():
    matrices, shifts = centre_and_axes(FAR)
    assert 0.28 < np.abs(shifts).max() <= 0.3
    determinants = np.linalg.det(matrices)
    assert 0.4 < np.mean(determinants < 0) < 0.6  # mirrored
    sizes = np.sqrt(np.abs(determinants))
    assert 0.8 <= sizes.min() < 0.82 and 1.18 < sizes.max() <= 1.2
    angles = np.abs(np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 1, 1])))
    assert 38 < angles.max() <= 40.01

    matrices, shifts = centre_and_axes(Reach(shift=0.1))
    np.testing.assert_array_equal(matrices, np.broadcast_to(np.eye(2), matrices.shape))
    matrices, shifts = centre_and_axes(Reach(flip=True))
    assert set(np.unique(matrices[:, 0, 0])) == {-1, 1} and np.all(matrices[:, 1, 1] == 1)
    assert not shifts.any()
    rows_first = Moves(Reach(flip=True), dataclasses.replace(SIREN, grid="ij"), rngs=nnx.Rngs(0))
    matrices, _ = jax.vmap(rows_first._drawn)(jax.random.split(jax.random.key(0), 20))
    assert np.all(matrices[:, 0, 0] == 1) and np.any(matrices[:, 1, 1] == -1)


def test_every_network_and_step_moves_by_itself_and_the_same_on_any_device():
    moves, weights = moves_of(FAR), zoo_of(SIREN)
    whole = jax.tree.leaves(moves(weights, NOW))
    later = jax.tree.leaves(moves(weights, dataclasses.replace(NOW, step=jnp.int32(8))))
    assert not np.array_equal(whole[1], later[1])
    half = jax.tree.map(lambda leaf: leaf[3:], weights)
    second = jax.tree.leaves(moves(half, dataclasses.replace(NOW, first=jnp.int32(3))))
    for a, b in zip(whole, second, strict=True):
        np.testing.assert_array_equal(a[3:], b)


def made(spec=SIREN, **changes):
    config = settings.defaults("x")
    settings.change(config, {"num_probes": 4, "head_width": 8, "head_depth": 2} | changes)
    return make_model(spec, config.to_dict(), 3, rngs=nnx.Rngs(params=0))


def test_only_training_moves_networks_and_nothing_else_of_a_model_changes():
    plain, moving = made(), made(augment_shift=0.3)
    weights = zoo_of(SIREN)
    np.testing.assert_array_equal(plain(weights), moving(weights))
    assert not np.allclose(moving(weights), moving(weights, NOW))


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    (
        (SIREN, {"method": "uniform", "augment_shift": 0.1}, "once and are not moved then"),
        (SirenSpec(in_dim=3), {"augment_rotation": 5.0}, "cannot be moved so"),
        (SirenSpec(in_dim=1), {"augment_flip": True}, "cannot be moved so"),
        (
            FieldSpec(encoding="positional", frequencies=2),
            {"augment_shift": 0.1},
            "networks like FieldSpec draw cannot be moved so",
        ),
    ),
)
def test_what_cannot_be_moved_is_refused(spec, changes, message):
    with pytest.raises(UserError, match=message):
        made(spec, **changes)
