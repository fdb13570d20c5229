import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probegen_jax.training.batch_order import epoch_places, lay_out, local_rows

BATCH = 4
SPLITS = {
    "train": np.asarray([3, 5, 7, 11, 13, 17, 19, 23, 29, 31]),
    "val": np.asarray([0, 1, 2, 4, 6]),
    "test": np.asarray([8, 9]),
}


@pytest.fixture(scope="module")
def layout():
    return lay_out(SPLITS, BATCH)


def batches(layout, key, epoch):
    places = jax.jit(epoch_places)(key, jnp.int32(epoch), layout.places("train"), layout.ranks_BxT)
    rows = np.asarray(local_rows(places, layout.rows_BxM.shape[1]))
    return np.where(rows >= 0, layout.rows_BxM.ravel()[rows], -1)


def test_an_epoch_shows_every_training_network_once(layout):
    rows_TxB = batches(layout, jax.random.key(0), 0)
    assert rows_TxB.shape == (3, BATCH)
    assert sorted(rows_TxB.ravel()) == [-1, -1, *SPLITS["train"]]
    assert (rows_TxB[:-1] >= 0).all()  # only the last batch is not full
    np.testing.assert_array_equal(rows_TxB, batches(layout, jax.random.key(0), 0))
    assert not np.array_equal(rows_TxB, batches(layout, jax.random.key(0), 1))
    assert not np.array_equal(rows_TxB, batches(layout, jax.random.key(1), 0))


def test_a_network_stays_in_its_slot(layout):
    epochs = [batches(layout, jax.random.key(0), epoch) for epoch in range(20)]
    for slot in range(BATCH):
        shown = {tuple(sorted(rows_TxB[:, slot])) for rows_TxB in epochs}
        assert len(shown) == 1
    orders = {tuple(rows_TxB[:, 0]) for rows_TxB in epochs}
    assert len(orders) == 6  # each order of three networks


def test_networks_are_dealt_at_random_and_always_alike(layout):
    first_train = layout.rows("train")
    assert first_train.T.ravel()[:10].tolist() == [7, 29, 13, 31, 5, 19, 23, 11, 3, 17]


def test_other_splits_keep_their_order(layout):
    for split in ("val", "test"):
        rows = layout.rows(split).T.ravel()
        assert rows[rows >= 0].tolist() == SPLITS[split].tolist()
        assert (rows[len(SPLITS[split]) :] == -1).all()
        places = layout.places(split)
        at = layout.rows_BxM[np.arange(BATCH)[:, None], np.maximum(places, 0)]
        np.testing.assert_array_equal(np.where(places >= 0, at, -1), layout.rows(split))


# ------------------------------------------------------------------- networks that differ in cost


SLOTS, NETWORKS = 32, 900  # the last batch is not full


@pytest.fixture(scope="module")
def costs():
    """Lognormal, their standard deviation 0.7 of their mean."""
    return np.random.default_rng(0).lognormal(0, np.sqrt(np.log(1 + 0.7**2)), NETWORKS)


@pytest.fixture(scope="module")
def uneven(costs):
    return lay_out_all(NETWORKS, SLOTS, costs)


def lay_out_all(networks, slots, costs):
    none = np.zeros(0, np.int64)
    return lay_out({"train": np.arange(networks), "val": none, "test": none}, slots, costs)


def test_networks_of_the_same_cost_come_in_the_order_they_always_did(layout):
    places = epoch_places(jax.random.key(0), jnp.int32(5), jnp.asarray(layout.places("train")))
    assert places.tolist() == [[1, 2, 1, 0], [0, 1, 0, 1], [2, 0, -1, -1]]
    alike = lay_out(SPLITS, BATCH, np.full(32, 7))
    assert layout.ranks_BxT is None and alike.ranks_BxT is None


def test_ranks_are_by_cost_within_a_slot():
    layout = lay_out(SPLITS, BATCH, np.arange(32) // 8)
    costs_BxT = np.where(layout.rows("train") >= 0, layout.rows("train") // 8, 99)
    for dearer_B, cheaper_B in itertools.pairwise(costs_BxT.T[:-1]):  # all slots get about the same
        assert dearer_B.min() >= cheaper_B.max()
    for costs_T, ranks_T in zip(costs_BxT, layout.ranks_BxT, strict=True):
        assert ranks_T.tolist() == [
            sum((other, at) < (cost, place) for at, other in enumerate(costs_T))
            for place, cost in enumerate(costs_T)
        ]


@pytest.mark.parametrize(("networks", "slots"), [(NETWORKS, SLOTS), (10, 4), (37, 12), (3, 8)])
def test_an_epoch_shows_every_network_of_any_cost_once(costs, networks, slots):
    layout = lay_out_all(networks, slots, costs[:networks])
    epochs = [batches(layout, jax.random.key(0), epoch) for epoch in range(5)]
    for rows_TxB in epochs:
        assert rows_TxB.shape == (-(-networks // slots), slots)
        assert (rows_TxB[:-1] >= 0).all()
        assert sorted(rows_TxB[rows_TxB >= 0]) == list(range(networks))
        for slot in range(slots):  # where it always is
            assert set(rows_TxB[:, slot]) <= {*layout.rows("train")[slot], -1}
    np.testing.assert_array_equal(epochs[0], batches(layout, jax.random.key(0), 0))
    if len(epochs[0]) > 1:
        assert not np.array_equal(epochs[0], epochs[1])
        assert not np.array_equal(epochs[0], batches(layout, jax.random.key(1), 0))


@pytest.mark.parametrize("networks", [NETWORKS, 128])
def test_who_meets_whom_differs_between_epochs(costs, networks):
    layout = lay_out_all(networks, SLOTS, costs[:networks])
    epochs = [batches(layout, jax.random.key(0), epoch) for epoch in range(20)]
    for slots in ((0, 1), (0, 5), (3, 24)):
        pairs = [
            {tuple(pair) for pair in rows_TxB[:, slots].tolist() if min(pair) >= 0}
            for rows_TxB in epochs
        ]
        again = [len(one & other) / len(one) for one, other in itertools.pairwise(pairs)]
        assert np.mean(again) < 0.6  # 0.25 by chance, where a slot has four networks
        # Of any network's partners in 20 epochs there are several.
        assert len(set.union(*pairs)) > 2 * len(pairs[0])


def slowest_device(layout, costs_N, devices):
    """How much longer steps take than if every device had equally much to do."""
    slowest = []
    for epoch in range(10):
        rows_TxB = batches(layout, jax.random.key(0), epoch)[:-1]
        costs_TxD = costs_N[rows_TxB].reshape(len(rows_TxB), devices, -1).sum(axis=2)
        slowest.append((costs_TxD.max(axis=1) / costs_TxD.mean(axis=1)).mean())
    return np.mean(slowest)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_devices_have_about_equally_much_to_do(costs, uneven, devices):
    plain = slowest_device(lay_out_all(NETWORKS, SLOTS, None), costs, devices) - 1
    even = slowest_device(uneven, costs, devices) - 1
    assert even < {2: 0.6, 4: 0.5, 8: 0.75}[devices] * plain


def test_a_batch_is_still_a_sample_of_the_whole_zoo(costs, uneven):
    """Cheap and expensive networks come together, and no batch is far from the mean."""
    sums = {
        layout.ranks_BxT is None: np.concatenate(
            [costs[batches(layout, jax.random.key(0), e)[:-1]].sum(axis=1) for e in range(5)]
        )
        for layout in (lay_out_all(NETWORKS, SLOTS, None), uneven)
    }
    assert sums[False].std() < 1.2 * sums[True].std()
