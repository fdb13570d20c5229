"""A whole training, with its report, killed at moments of all kinds; more with `tests/kills.py`."""

import time

import kills
import pytest


@pytest.mark.slow
def test_killed_over_its_whole_life_it_ends_with_the_same_folder(tmp_path):
    print(kills.check(tmp_path, 8, seed=time.time_ns()))
