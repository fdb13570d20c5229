"""How many networks run side by side: measured once for a device, a zoo and its sizes.

What is fastest differs between devices, and a wrong choice can cost several times the time. So a
long training measures a few at its start, in seconds, and the answer is remembered in the user's
cache folder. The default stands unless another choice is clearly faster, so that noise does not
change a run's rounding; and a run keeps what it began with.
"""

import contextlib
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from probegen_jax import typed_json
from probegen_jax.errors import UserError
from probegen_jax.files import write_json
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.user_cache import cpu, default_dir
from probegen_jax.zoo.zoo import Zoo


class _Kept(TypedDict):
    """The content of a run's `tuning.json`."""

    block_size: int | None


# Trainings of fewer steps end before the measuring has paid.
WORTHWHILE = 5000

_ROUNDS = 5
_CALL_SECONDS = 0.05
# Another choice must take less than this share of the default's time.
_CLEARLY = 0.85


def block_size_of_run(
    folder: pathlib.Path,
    zoo: Zoo,
    networks: int,
    num_probes: int,
    total_steps: int,
    began: Mapping[str, Any] | None = None,
) -> int | None:
    """The `block_size` that a run began with, or shall begin with.

    Args:
      folder: of the run; keeps the answer, for a run that goes on with another would not end with
        the same bits.
      networks: of a batch that one device gets.
      began: facts of its checkpoint, which count where the folder's answer is lost.
    """
    kept = folder / "tuning.json"
    if kept.exists():
        try:
            return typed_json.read(kept, _Kept, "")["block_size"]
        except UserError:
            found = "taken from the checkpoint" if began else "found out again"
            print(f"{kept} cannot be read; what it held is {found}", file=sys.stderr)
    if began and "block_size" in began:
        return typed_json.typed(int | None, began["block_size"], "block_size of the checkpoint")
    if not zoo.spec.block_sizes(networks) or total_steps < WORTHWHILE:
        return None
    weights_B = zoo.read(zoo.splits["train"][:networks])
    found = block_size(zoo.spec, weights_B, num_probes, default_dir() / "tuning.json")
    write_json(kept, {"block_size": found})
    return found


def block_size(
    spec: NetworkSpec, weights_B: Any, num_probes: int, memory: pathlib.Path
) -> int | None:
    """The `block_size` for a spec that is fastest here, forwards and back to the probes.

    Args:
      memory: a JSON file of earlier answers; one that cannot be read or written is done without.

    Returns:
      None where the spec's default is best.
    """
    size = spec.count(weights_B)
    key = _key(spec, size, num_probes)
    answers = _read(memory)
    if key not in answers:
        answers[key] = _fastest(spec, weights_B, num_probes, spec.block_sizes(size))
        _write(memory, _read(memory) | {key: answers[key]})
    return answers[key]


def _fastest(
    spec: NetworkSpec, weights_B: Any, num_probes: int, choices: Sequence[int | None]
) -> int | None:
    """Times all choices in turn."""
    weights_B = jax.device_put(weights_B)
    probes = jax.random.uniform(jax.random.key(0), (num_probes, *spec.probe_shape), minval=-1.0)

    def gradient(choice: int | None) -> Any:
        chosen = spec.with_block_size(choice)
        return jax.jit(jax.grad(lambda probes: jnp.sum(chosen.respond(weights_B, probes))))

    gradients = {choice: gradient(choice) for choice in choices}

    def seconds_of(choice: int | None, repeats: int) -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            found = gradients[choice](probes)
        jax.block_until_ready(found)
        return (time.perf_counter() - started) / repeats

    for choice in choices:
        seconds_of(choice, 1)  # compiles
    repeats = max(1, int(_CALL_SECONDS / seconds_of(None, 1)))
    seconds = [[seconds_of(choice, repeats) for choice in choices] for _ in range(_ROUNDS)]
    return _clearly_best(dict(zip(choices, np.median(seconds, axis=0).tolist(), strict=True)))


def _clearly_best(seconds: dict[int | None, float]) -> int | None:
    """The choice that takes least, if it is no matter of chance; else the default, None."""
    best = min(seconds, key=lambda choice: seconds[choice])
    return best if seconds[best] < _CLEARLY * seconds[None] else None


def _key(spec: NetworkSpec, size: int, num_probes: int) -> str:
    """What the answer depends on."""
    device = jax.devices()[0]
    facts = {
        "device": device.device_kind,
        "cpu": cpu() if device.platform == "cpu" else "",
        "jax": jax.__version__,
        "precision": str(jax.config.jax_default_matmul_precision),
        "spec": repr(spec.with_block_size(None)),
        "networks": size,
        "probes": num_probes,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _read(memory: pathlib.Path) -> dict[str, int | None]:
    try:
        return typed_json.read(memory, dict[str, int | None], "")
    except UserError:
        return {}


def _write(memory: pathlib.Path, answers: dict[str, int | None]) -> None:
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, answers)
