"""A training that takes a second: of a zoo of random networks, in memory."""

import contextlib

import jax
import numpy as np
import pytest

from probegen_jax.networks.siren import SirenSpec
from probegen_jax.train import train_zoo
from probegen_jax.training.records import MetricsLog
from probegen_jax.zoo import own

SPEC = SirenSpec(hidden=(4, 4))


def make_zoo():
    weights = jax.vmap(SPEC.init)(jax.random.split(jax.random.key(0), 60))
    return own.from_arrays("mine", SPEC, weights, np.arange(60) % 2, task="classification")


@contextlib.contextmanager
def stopped_at(step):
    """Has a training end once it has logged that step, as by Ctrl-C."""
    write = MetricsLog.write

    def stop(log, record):
        write(log, record)
        if record["step"] >= step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetricsLog, "write", stop)
        yield


def go_on(folder, **changes):
    """Trains in a folder, or goes on."""
    settings = {"num_epochs": 6, "checkpoint_every": 2, "eval_every": 2, "batch_size": 20}
    settings |= {"head_width": 4, "head_depth": 2, "report": False, **changes}
    return train_zoo(make_zoo(), num_probes=4, workdir=folder, **settings)
