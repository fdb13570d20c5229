import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probegen_jax.layout import epoch_places, lay_out, local_rows

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
    places = epoch_places(key, jnp.int32(epoch), jnp.asarray(layout.places("train")))
    rows = np.asarray(local_rows(places, layout.rows_BxP.shape[1]))
    return np.where(rows >= 0, layout.rows_BxP.ravel()[rows], -1)


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
        at = layout.rows_BxP[np.arange(BATCH)[:, None], np.maximum(places, 0)]
        np.testing.assert_array_equal(np.where(places >= 0, at, -1), layout.rows(split))
