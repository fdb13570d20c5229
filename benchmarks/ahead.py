"""Compiles the training step for accelerators that are not there, and says what it needs of them.

    python -m benchmarks.ahead --target=h100                       all four cases
    python -m benchmarks.ahead --target=v5e:2x2 --case=mnist_inr
    python -m benchmarks.ahead --target=h100:8 --config=configs/mnist.py --config.zoo_dir=DIR

  --target=NAME       h100, h100:8 (that many), or a TPU slice: v5e:2x2, v6e:2x2, v5e:4x4, …
  --case=NAME,…       mnist_inr, cifar10_gs, wild_park, resnet18: random networks; all, if not given
  --networks=N        how many networks a case's zoo counts as; if not given, those of the published
                      one, or 500 ResNets
  --config=FILE       a zoo of your own instead, with its settings
  --config.KEY=VALUE  changes one setting
  --json=FILE         also writes what was found

No accelerator is needed, but the compiler for it: requirements-ahead-gpu.txt or
requirements-ahead-tpu.txt. Counts are of one step, of 32 networks or, if there are more devices, of
as many as these: kernels, calls of libraries, loops and conditionals within it, exchanges between
devices. "Bytes" are those of one device, with the whole zoo on the devices. Arithmetic and traffic
are those of the dearest branch of each conditional, so of mixed zoos they are upper bounds. The
least time is that of the slower of the two; on TPUs, the compiler's own estimate of cycles is shown
beside it.

Exit codes: 0 done; 2 a mistake in the command, or a zoo that does not fit, told in one line;
130 interrupted.
"""

import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from probegen_jax import command, errors, settings
from probegen_jax.errors import UserError
from probegen_jax.files import write_text

# Networks of the published zoos; and as many ResNets as four small TPUs hold.
NUMBERS = {"mnist_inr": 70_000, "cifar10_gs": 30_000, "wild_park": 115_000, "resnet18": 500}
_BUILT = 64  # networks to train on, in a case's zoo of random ones


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("target", None, "what to compile for", flag_values=values)
        flags.DEFINE_list("case", list(NUMBERS), "cases", flag_values=values)
        flags.DEFINE_integer("networks", None, "networks", 1, flag_values=values)
        flags.DEFINE_string("json", None, "file", flag_values=values)

    own = any(argument.lstrip("-").startswith("config") for argument in argv[1:])
    if own:
        options, names = settings.parse(argv, __doc__, define), []
    else:
        options, names = command.parse(argv, __doc__, define)
    if names:
        raise UserError(f"command line: {names[0]!r} is not a flag; --help shows the usage")
    for name in options.case:
        if name not in NUMBERS:
            raise UserError(f"--case names {name!r}; choose from {', '.join(NUMBERS)}")
    if not options.target:
        raise UserError("no target; give one, as in --target=h100 or --target=v5e:2x2")
    out = pathlib.Path(options.json) if options.json else None
    if out is not None:
        command.check_writable(out, "ahead.json")
    # Nothing here runs on an accelerator, even where there is one.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    from benchmarks import targets

    kind, devices = targets.devices(options.target)
    found: dict[str, Any] = {}
    for name in ["own"] if own else options.case:
        found[name] = compiled(kind, devices, *_experiment(name, options, devices))
        print(table(f"{name} on {options.target}", found[name]), flush=True)
        if out is not None:
            write_text(out, json.dumps({"target": options.target, "cases": found}, indent=2))
    too_large = [name for name, facts in found.items() if not facts["fits"]]
    if too_large:
        raise UserError(
            f"{', '.join(too_large)}: does not fit on {options.target}; choose a larger slice, or "
            "train with --config.data.mode=stream"
        )


def _experiment(name: str, options: Any, devices: Sequence[Any]) -> tuple[Any, int | None]:
    """What is to be compiled, and how many networks its zoo counts as."""
    from probegen_jax.runs import experiment

    platform = devices[0].platform
    if name == "own":
        return experiment.set_up(options.config, platform=platform), None
    from benchmarks import cases

    case = cases.make(name, max(_BUILT, 2 * len(devices)), 128)
    config = case.config.copy_and_resolve_references()
    config.num_seeds = 1
    config.batch_size = -(-config.batch_size // len(devices)) * len(devices)
    return experiment.set_up(config, case.zoo, platform), options.networks or NUMBERS[name]


def compiled(kind: Any, devices: Sequence[Any], experiment: Any, networks: int | None) -> Any:
    """Compiles a step, and says what that says of it, in plain values."""
    import jax

    from benchmarks import hlo, step
    from probegen_jax.runs.experiment import matmul_precision
    from probegen_jax.training.mesh import make_mesh

    config = experiment.config
    mesh = make_mesh(
        config.batch_size,
        config.num_seeds,
        settings.nested(config, "mesh.seeds", 1),
        devices,
    )
    traced = step.trace(experiment, mesh, networks)
    lowered = traced.lower()
    started = time.monotonic()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        line = next((x for x in str(error).splitlines() if "RESOURCE_EXHAUSTED" in x), "")
        return {"fits": False, "error": line, "devices": len(devices)}
    seconds = time.monotonic() - started
    counts = hlo.parse(program.as_text()).step()
    memory = program.memory_analysis()
    bytes_of = {
        name: getattr(memory, f"{name}_size_in_bytes")
        for name in ("argument", "temp", "output", "alias")
    }
    needed = sum(bytes_of.values()) - 2 * bytes_of["alias"]
    operations = step.flops(traced.jaxpr.jaxpr)
    precision = matmul_precision(config, devices[0].platform)
    rate = kind.flops[_PRECISIONS.get(precision, precision)]
    loops = [loop for loop in counts.control if loop.kind == "while"]
    facts = {
        "fits": needed <= kind.memory,
        "devices": len(devices),
        "networks": networks or len(experiment.zoo),
        "compile_s": seconds,
        "kernels": counts.kernels,
        "libraries": dict(counts.libraries),
        "loops": [
            {"in": list(loop.path), "trips": loop.trips}
            for loop in sorted(loops, key=lambda loop: len(loop.path))
        ],
        "loops_of_unknown_length": counts.unknown,
        "conditionals": sum(each.kind == "conditional" for each in counts.control),
        "decisions": counts.conditionals,
        "collectives": dict(counts.collectives),
        "bytes": bytes_of,
        "bytes_needed": needed,
        "bytes_there": kind.memory,
        "flops": operations,
        "traffic": counts.traffic,
        "least_s": max(operations / rate, counts.traffic / kind.bandwidth),
    }
    if kind.clock is not None:
        facts |= {"cycles": counts.cycles, "cycles_s": counts.cycles / kind.clock}
    return facts


_PRECISIONS = {"float32": "highest", "tensorfloat32": "high", "bfloat16": "default"}


def table(title: str, facts: dict[str, Any]) -> str:
    """What was found, line by line."""
    if "error" in facts:
        return f"\n{title}: does not fit\n  {facts['error']}"
    gb = {name: size / 1e9 for name, size in facts["bytes"].items()}
    libraries, exchanges = (
        ", ".join(f"{number} {name}" for name, number in facts[key].items()) or "none"
        for key in ("libraries", "collectives")
    )
    lengths = [str(loop["trips"] or "unknown") for loop in facts["loops"]]
    rows = {
        "devices": facts["devices"],
        "networks": f"{facts['networks']:,}",
        "compiling": f"{facts['compile_s']:.0f} s",
        "kernels": f"{facts['kernels']:,}",
        "library calls": libraries,
        "loops": f"{len(lengths)}, of lengths {', '.join(lengths)}" if lengths else "none",
        "conditionals": f"{facts['conditionals']}, decided {facts['decisions']:,} times",
        "exchanges": exchanges,
        "bytes a device": f"{facts['bytes_needed'] / 1e9:.2f} of {facts['bytes_there'] / 1e9:.1f} "
        f"GB: arguments {gb['argument']:.2f}, temporary {gb['temp']:.2f}, "
        f"results {gb['output']:.2f}",
        "arithmetic": f"{facts['flops'] / 1e9:.2f} GFLOP in matmuls and convolutions",
        "traffic": f"{facts['traffic'] / 1e9:.3f} GB",
        "least time": f"{facts['least_s'] * 1e3:.3f} ms",
    }
    if "cycles" in facts:
        rows["cycles"] = f"{facts['cycles']:,}: {facts['cycles_s'] * 1e3:.3f} ms"
    return "\n".join([f"\n{title}", *(f"  {name:<15} {value}" for name, value in rows.items())])


if __name__ == "__main__":
    errors.run(main)
