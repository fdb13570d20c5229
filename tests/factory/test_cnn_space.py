"""Search spaces: what is drawn from them, and what is refused, by name."""

import collections

import numpy as np
import pytest
from conftest import REPO

from probegen_jax.errors import UserError
from probegen_jax.factory.cnn import planned, search_space

SMALL, PARK = (search_space.read(name) for name in ("small_cnn_zoo", "wild_park"))


def plan(space, number=60, shape=(32, 32, 3), seed=0):
    return planned.plan(space, number, shape, 10, 1000, seed)


def test_small_cnn_zoo_has_one_architecture_and_the_published_ranges():
    networks = plan(SMALL, 400, (28, 28, 1))
    assert {network.spec.num_weights for network in networks} == {4970}
    assert len({network.spec for network in networks}) == 2
    runs = [network.run for network in networks]
    assert {run.optimizer for run in runs} == {"adam", "sgd", "rmsprop"}
    assert len({run.w_init for run in runs}) == 5
    assert {network.train_fraction for network in networks} == {0.1, 0.25, 0.5, 1.0}
    rates = np.log10([run.learning_rate for run in runs])
    assert rates.min() == pytest.approx(np.log10(5e-4), abs=0.05)
    assert rates.max() == pytest.approx(np.log10(5e-2), abs=0.05)
    assert np.median(rates) == pytest.approx(np.log10(5e-3), abs=0.2)
    assert max(run.dropout for run in runs) <= 0.7
    whole = next(each for each in networks if each.train_fraction == 1)
    assert whole.units == (7,)
    assert whole.run.kept == (7 * (1000 // 64),)


def test_wild_park_draws_residual_links_as_the_sampler_does():
    networks = plan(PARK, 400)
    counts = collections.Counter(network.spec for network in networks)
    assert set(counts.values()) == {4}
    assert len(counts) == 100
    for spec in counts:
        for index, layer in enumerate(spec.layers):
            assert layer.residual < index - 1 or layer.residual == -1
            assert (layer.stride, layer.padding) == (1, layer.kernel // 2)
    assert any(layer.residual >= 0 for spec in counts for layer in spec.layers)
    assert networks[0].units == (0, 1, 2, 4)


def test_many_architectures_are_as_many_as_networks():
    networks = plan(search_space.read("many_architectures"), 300, (28, 28, 1))
    assert len({network.spec for network in networks}) > 290
    assert {network.units for network in networks} == {(2, 8)}


def test_a_network_follows_from_the_seed_and_its_number():
    assert plan(PARK, 20) == plan(PARK, 40)[:20]
    assert plan(PARK, 20) != plan(PARK, 20, seed=1)


def test_shares_are_kept():
    rng = np.random.default_rng(0)
    value = {"choice": ("a", "b"), "shares": (0.9, 0.1)}
    drawn = [search_space.draw(value, rng) for _ in range(500)]
    assert 0.85 < drawn.count("a") / 500 < 0.95


@pytest.mark.parametrize(
    "change, message",
    [
        ({"learning_rte": 1}, "mine.py: unknown key 'learning_rte'; known are .*learning_rate"),
        ({"activation": ("relu", "swish")}, "activation is 'swish'; it must be one of none, relu"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; it must be one of adam"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be from 0 to below 1"),
        ({"learning_rate": {"log_uniform": (0, 1)}}, "from 0 to 1 is no range"),
        ({"learning_rate": {"normal": (0, 1)}}, 'give a value, a tuple of values, {"uniform"'),
        ({"kernel": ()}, "kernel is empty"),
        ({"kernel": {"choice": (3, 5), "shares": (0.3, 0.3)}}, "which add up to 1"),
        ({"layers": 0}, "layers is 0; it must be a whole number from 1"),
        ({"residual": "all"}, "residual is 'all'; it must be none, not_adjacent"),
        ({"checkpoints": 3}, "checkpoints is 3; it must be a tuple"),
        ({"epochs": 3, "steps": 5}, "gives epochs and steps"),
        ({"per_layer": ("dropout",)}, "per_layer is .*must be a tuple of channels"),
    ],
)
def test_bad_spaces_are_refused_by_key(change, message):
    with pytest.raises(UserError, match=message):
        search_space.check(change, "mine.py")


def test_files_that_are_no_space_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no search space at 'nowhere.py'; give a file"):
        search_space.read("nowhere.py")
    broken = tmp_path / "broken.py"
    broken.write_text("def get_space():\n    return 1 / 0\n")
    with pytest.raises(UserError, match=r"broken.py, line 2: ZeroDivisionError"):
        search_space.read(str(broken))
    broken.write_text("def get_space():\n    return 3\n")
    with pytest.raises(UserError, match="must return a ConfigDict"):
        search_space.read(str(broken))


def test_impossible_architectures_are_told():
    space = SMALL | {"kernel": 7}
    with pytest.raises(UserError, match=r"cannot be: layer 1: a 7×7 kernel .* --resize"):
        plan(space, shape=(9, 9, 1))
    with pytest.raises(UserError, match=r"residual links need equal sizes"):
        plan(SMALL | {"residual": 1.0}, shape=(28, 28, 1))
    with pytest.raises(UserError, match="has only 2 architectures, but 15 are wanted"):
        plan(SMALL | {"networks_per_architecture": 4}, shape=(28, 28, 1))


def test_the_space_in_the_documentation_can_be_used(tmp_path):
    page = REPO / "docs" / "build_cnn.md"
    (tmp_path / "space.py").write_text(page.read_text().split("```python\n")[1].split("```")[0])
    space = search_space.read(str(tmp_path / "space.py"))
    assert len({network.spec for network in plan(space, 20)}) == 5
