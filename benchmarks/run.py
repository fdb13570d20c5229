"""Probing, training steps and epochs, ours beside PyTorch's, and how far the machine's limits are.

    python -m benchmarks.run                                 all of it; on two cores, half an hour
    python -m benchmarks.run --case=mnist_inr --rounds=5
    python -m benchmarks.run --case=cifar10_gs --sides=ours,loop --scaling=False --out=/tmp/gs

  --case=NAME,…      mnist_inr, cifar10_gs, wild_park; all, if not given
  --sides=NAME,…     ours, seeds3 (three seeds at once), hidden and hidden3 (the same two with the
                     readout `hidden`; INRs only), naive (jax.vmap of the plain definition),
                     loop (PyTorch, a loop over modules whose weights require gradients), lean (the
                     same with detached weights), compile (torch.compile of the loop), vmap
                     (torch.func.vmap); all, if not given
  --probes=N         probes; 128
  --rounds=N         times that each side is timed; medians, least and most are reported
  --scaling          also our step for other batches, probes, seeds and zoos
  --memory           also each side's peak memory, in a process of its own
  --out=DIR          results.json, results.md and results.png; benchmarks/results if not given

Batches are of 32 networks. Each case is a process of its own, in which all sides take turns, so
that whatever else the machine does meets all of them. A CPU counts as many devices as the case's
config says: one for each core on the Wild Park, else one.
"""

import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from benchmarks import REPO
from benchmarks.prepare import status
from probegen_jax import command, errors
from probegen_jax.errors import UserError
from probegen_jax.files import write_text

CASES = ("mnist_inr", "cifar10_gs", "wild_park")
SIDES = ("ours", "seeds3", "hidden", "hidden3", "naive", "loop", "lean", "compile", "vmap")
# Networks to train on: ours of an epoch, and PyTorch's, whose epochs are long.
NETWORKS = {"mnist_inr": (8192, 512), "cifar10_gs": (256, 64), "wild_park": (64, 64)}
SCALES = {
    "batch_size": (8, 16, 64),
    "num_probes": (32, 64, 256),
    "num_seeds": (1, 2, 3, 5),
    "networks": (2048, 32768),
}


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_list("case", list(CASES), "cases", flag_values=values)
        flags.DEFINE_list("sides", list(SIDES), "sides", flag_values=values)
        flags.DEFINE_integer("probes", 128, "probes", 1, flag_values=values)
        flags.DEFINE_integer("rounds", 7, "rounds", 1, flag_values=values)
        flags.DEFINE_boolean("scaling", True, "also other sizes", flag_values=values)
        flags.DEFINE_boolean("memory", True, "also memory", flag_values=values)
        flags.DEFINE_string("out", "benchmarks/results", "folder", flag_values=values)
        flags.DEFINE_string("only", None, "for this command's own processes", flag_values=values)

    options, names = command.parse(argv, __doc__, define)
    if names:
        raise UserError(f"command line: {names[0]!r} is not a flag; --help shows the usage")
    for flag, known in (("case", CASES), ("sides", SIDES)):
        for name in options[flag].value:
            if name not in known:
                raise UserError(f"--{flag} names {name!r}; choose from {', '.join(known)}")
    if options.only:
        (name,) = options.case
        print(json.dumps(_alone(name, options) if options.only != "all" else _case(name, options)))
        return
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine(), "probes": options.probes, "cases": {}}
    for name in options.case:
        print(f"{name}: all sides in turn", file=sys.stderr)
        found = _child(argv, name, "all")
        if options.memory:
            found["peak_gb"] = {
                side: _child(argv, name, side).get("peak_gb") for side in found.get("step", {})
            }
        results["cases"][name] = found
        write(out, results)
    print((out / "results.md").read_text())


def _child(argv: Sequence[str], case: str, only: str) -> dict[str, Any]:
    """What a process of its own finds."""
    arguments = [*argv[1:], f"--case={case}", f"--only={only}"]
    # The last of a repeated list flag counts.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *arguments],
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"error": f"exit code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def start(name: str) -> None:
    """Splits the CPU into devices as the case's config has it; before jax looks for devices."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs room, too
    from benchmarks.cases import CONFIGS
    from probegen_jax.training.allocator import keep_freed_memory
    from probegen_jax.training.mesh import split_cpu

    keep_freed_memory()  # as train does
    config = CONFIGS[name].get_config()
    split_cpu(config.mesh.cpu_devices, config.batch_size)


def sizes(name: str, options: Any) -> list[Any]:
    """A case with the networks of our epoch, and with those of PyTorch's."""
    from benchmarks import cases

    return [cases.make(name, number, options.probes) for number in NETWORKS[name]]


def steps(name: str, case: Any, small: Any, wanted: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Training steps of those sides that there are for a case, of both sizes."""
    from benchmarks import cases, sides

    per_call, theirs = sides.STEPS_PER_CALL[name], sides.TORCH_STEPS_PER_CALL[name]
    naive = cases.naive(small.zoo)
    hidden = dataclasses.replace(case, config=case.config.copy_and_resolve_references())
    hidden.config.readout = "hidden"
    makers: dict[str, Callable[[], Any]] = {
        "ours": lambda: sides.Ours(case).step(per_call),
        "seeds3": lambda: sides.Ours(case, seeds=3).step(per_call),
        "hidden": lambda: sides.Ours(hidden).step(max(1, per_call // 4)),
        "hidden3": lambda: sides.Ours(hidden, seeds=3).step(max(1, per_call // 4)),
        "naive": lambda: sides.Ours(small, zoo=naive).step(max(1, per_call // 4)),
        "loop": lambda: sides.Torch(small).step(theirs),
        "lean": lambda: sides.Torch(small, lean=True).step(theirs),
        "compile": lambda: sides.Torch(small, "compile").step(theirs),
        "vmap": lambda: sides.Torch(small, "vmap").step(theirs),
    }
    if naive is None:
        del makers["naive"]
    if name != "mnist_inr":
        del makers["compile"]  # networks differ, so every batch would be compiled anew
        del makers["hidden"], makers["hidden3"]
    for side in wanted:
        if side in makers:
            print(f"  {name}: {side}", file=sys.stderr)
            yield side, makers[side]()


def where() -> dict[str, Any]:
    """What all figures of a case are for."""
    import jax

    device = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    return {"batch_size": 32, "device": device}


def _case(name: str, options: Any) -> dict[str, Any]:
    """All that is found of a case."""
    start(name)
    from benchmarks import cases, sides

    per_call = sides.STEPS_PER_CALL[name]
    case, small = sizes(name, options)
    made = dict(steps(name, case, small, options.sides))
    found: dict[str, Any] = {
        **where(),
        "step": time_sides(made, options.rounds),
        "facts": {side: each.facts for side, each in made.items()},
    }
    del made
    probing = {"ours": sides.probing(case, per_call)}
    torch_side = sides.Torch(small) if "loop" in options.sides else None
    if torch_side is not None:
        probing["loop"] = torch_side.probing(1)
    if "naive" in options.sides and cases.naive(case.zoo) is not None:
        probing["naive"] = sides.probing(case, max(1, per_call // 4), cases.naive(case.zoo))
    found["probing"] = time_sides(probing, options.rounds)
    found["facts"] |= {f"probing {side}": made.facts for side, made in probing.items()}
    del probing
    with tempfile.TemporaryDirectory() as folder:
        ours = sides.Ours(case)
        epochs = {"ours": sides.Side(ours.epoch, 1, {"networks": NETWORKS[name][0]})}
        if torch_side is not None:
            epochs["loop"] = torch_side.epoch()
            epochs["loop from files"] = torch_side.epoch(
                torch_side.from_files(pathlib.Path(folder))
            )
        found["epoch"] = time_sides(epochs, max(3, options.rounds // 2))
        for side, timed in epochs.items():  # per network: epochs are of different lengths
            number = timed.facts["networks"]
            found["epoch"][side] = {k: v / number for k, v in found["epoch"][side].items()}
    peak = sides.gemm_peak()
    gflops = found["facts"]["probing ours"]["gflops_needed"]
    seconds = found["probing"]["ours"]["median"]
    found |= {
        "gflops_needed": gflops,
        "gemm_peak_gflops_per_s": peak / 1e9,
        "gflops_per_s": gflops / seconds,
        "share_of_peak": gflops * 1e9 / seconds / peak,
        "arithmetic_done_over_needed": case.done,
    }
    if options.scaling:
        found["scaling"] = _scaling(name, options)
    return found


def _scaling(name: str, options: Any) -> dict[str, Any]:
    """Our step for other sizes, one changed at a time."""
    from benchmarks import cases, sides

    found: dict[str, Any] = {}
    for key, values in SCALES.items():
        if name == "wild_park":
            continue  # a minute of compilation each
        found[key] = {}
        for value in values:
            networks = NETWORKS[name][0]
            if key == "networks":
                if name != "mnist_inr":
                    continue
                networks = value
            case = cases.make(name, networks, options.probes)
            if key in ("batch_size", "num_probes"):
                case.config[key] = value
            seeds = value if key == "num_seeds" else 1
            side = sides.Ours(case, seeds).step(sides.STEPS_PER_CALL[name])
            found[key][value] = time_sides({"ours": side}, 3)["ours"]["median"]
    return found


def _alone(name: str, options: Any) -> dict[str, Any]:
    """Peak memory of a process that makes steps of one side."""
    start(name)
    for _, side in steps(name, *sizes(name, options), [options.only]):
        side.call()
    import jax

    stats = jax.devices()[0].memory_stats()
    if stats is not None:
        import torch

        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return {"peak_gb": max(stats["peak_bytes_in_use"], peak) / 1e9}
    return {"peak_gb": status("VmHWM") / 1e9}


def time_sides(made: dict[str, Any], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of one piece of work of each side, all sides in turn in every round."""
    seconds: dict[str, list[float]] = {side: [] for side in made}
    for _ in range(rounds):
        for name, side in made.items():
            side.call()  # untimed: the last side's threads come to rest
            started = time.perf_counter()
            side.call()
            seconds[name].append((time.perf_counter() - started) / side.per_call)
    return {
        name: {"median": statistics.median(times), "min": min(times), "max": max(times)}
        for name, times in seconds.items()
    }


def machine() -> dict[str, Any]:
    """Where and with what: read without starting jax, which belongs to the processes of cases."""
    from importlib import metadata

    versions = {}
    for name in ("jax", "jaxlib", "flax", "torch", "numpy"):
        versions[name] = metadata.version(name)
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        **versions,
    }


def write(out: pathlib.Path, results: dict[str, Any]) -> None:
    """JSON, table and plot, each whole or not there."""
    from benchmarks import tables

    for name, text in (
        ("results.json", json.dumps(results, indent=2)),
        ("results.md", tables.markdown(results)),
    ):
        write_text(out / name, text)
    tables.draw(out / "results.png", results)


if __name__ == "__main__":
    errors.run(main)
