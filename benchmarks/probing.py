"""Probing forward and backward (to the probes), beside a PyTorch loop over networks.

    python -m benchmarks.probing gs                 32 CIFAR10-GS networks, 128 probes
    python -m benchmarks.probing wild_park          32 mixed CNNs of 5 layers, 128 probes
    python -m benchmarks.probing gs --probes=16 --networks=4 --rounds=2

On a CPU our side is a device for each core (--devices), each with its part of the networks, as
training on these zoos has it. Both sides are timed in turn in one process and the medians compared;
peak memory is that of one process for each side. The PyTorch networks are eager `nn.Module`s whose
weights require gradients, as such code usually has them; `PlainCnn` in tests/ is the module.
"""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

from benchmarks.prepare import status

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]


def gs_specs(number: int):
    from probegen_jax.networks.cnn import small_cnn_zoo

    return [small_cnn_zoo(("relu", "tanh")[n % 2], "official") for n in range(number)]


def wild_park_specs(number: int):
    """Five layers, 4 to 32 channels, kernels of 3 to 7: the widest settings of the original zoo."""
    from probegen_jax.networks.cnn import CnnSpec
    from probegen_jax.networks.conv_layer import ConvLayer

    rng = np.random.default_rng(0)
    specs = []
    for _ in range(number):
        channels = [3, *(int(c) for c in rng.choice([4, 8, 16, 32], 5))]
        layers = []
        for index, (m, n) in enumerate(itertools.pairwise(channels)):
            kernel = int(rng.choice([3, 5, 7]))
            name = str(rng.choice(["relu", "gelu", "tanh", "sigmoid", "leaky_relu"]))
            residual = int(rng.integers(-1, index)) if index else -1
            layers.append(ConvLayer(m, n, kernel, 1, kernel // 2, name, residual))
        specs.append(CnnSpec(tuple(layers), image_shape=(32, 32, 3)))
    return specs


def ours(case: str, specs, num_probes: int):
    """A call that makes responses and the probes' gradient, and the arithmetic done/needed."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from probegen_jax.networks import convolution, mixed
    from probegen_jax.networks.cnn import small_cnn_zoo
    from probegen_jax.respond import respond

    networks = [spec.init(jax.random.key(n)) for n, spec in enumerate(specs)]
    ratio = 1.0
    if case == "gs":
        spec = small_cnn_zoo(fidelity="official")
        for n, network in enumerate(networks):
            network["activation"] = jnp.int32(n % 2)
        weights = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    else:
        spec, weights = mixed.build(specs, networks)
        weights = jax.tree.map(jnp.asarray, weights)
        counts = [
            convolution.arithmetic(
                kind.inputs[:2],
                kind.kernel,
                kind.inputs[2],
                kind.outputs[2],
                kind.stride,
                kind.padding,
            )
            for each in specs
            for kind in mixed.kinds_of(each)
        ]
        ratio = sum(done for done, _ in counts) / sum(needed for _, needed in counts)
    probes = jax.random.normal(jax.random.key(0), (num_probes, *spec.probe_shape))
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    split = jax.tree.map(lambda _: P("data"), weights)
    if case == "wild_park":
        split["tables"] = jax.tree.map(lambda _: P(), weights["tables"])
    places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), split)
    weights = jax.device_put(weights, places)
    probes = jax.device_put(probes, NamedSharding(mesh, P()))

    def gradient(probes, weights):
        mine = jax.grad(lambda p: jnp.sum(jnp.square(respond(spec, weights, p))))(probes)
        return jax.lax.psum(mine, "data")

    step = jax.jit(
        jax.shard_map(gradient, mesh=mesh, in_specs=(P(), split), out_specs=P(), check_vma=False)
    )
    return lambda: step(probes, weights).block_until_ready(), ratio


def torch_loop(specs, num_probes: int):
    import torch
    from plain_torch import PlainCnn

    modules = [PlainCnn(spec.layers, spec.num_classes) for spec in specs]
    height, width, channels = specs[0].image_shape
    probes = torch.randn(num_probes, channels, height, width, requires_grad=True)

    def step():
        for tensor in (probes, *(p for module in modules for p in module.parameters())):
            tensor.grad = None
        torch.stack([module(probes) for module in modules]).square().sum().backward()

    return step


def peak_memory(arguments: list[str], side: str) -> float:
    """GB of a process that runs one side alone."""
    command = [sys.executable, "-m", "benchmarks.probing", *arguments, f"--only={side}"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=["gs", "wild_park"])
    parser.add_argument("--networks", type=int, default=32)
    parser.add_argument("--probes", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--devices", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", choices=["ours", "torch"])
    options = parser.parse_args()
    specs = {"gs": gs_specs, "wild_park": wild_park_specs}[options.case](options.networks)
    sides, ratio = {}, None
    if options.only != "torch":
        import jax

        jax.config.update("jax_num_cpu_devices", options.devices)
        started = time.perf_counter()
        sides["ours"], ratio = ours(options.case, specs, options.probes)
        sides["ours"]()
        compile_seconds = time.perf_counter() - started
    if options.only != "ours":
        sides["torch"] = torch_loop(specs, options.probes)
        sides["torch"]()
    if options.only:
        sides[options.only]()
        print(status("VmHWM") / 1e9)
        return
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, step in sides.items():
            started = time.perf_counter()
            step()
            seconds[side].append(time.perf_counter() - started)
    medians = {side: float(np.median(times)) for side, times in seconds.items()}
    sizes = [
        options.case,
        *(f"--{name}={getattr(options, name)}" for name in ("networks", "probes", "devices")),
    ]
    figures = {
        "case": options.case,
        "networks": options.networks,
        "probes": options.probes,
        "devices": options.devices,
        "seconds": {
            side: {"median": medians[side], "min": min(times), "max": max(times)}
            for side, times in seconds.items()
        },
        "times_faster": medians["torch"] / medians["ours"],
        "arithmetic_done_over_needed": ratio,
        "compile_seconds": compile_seconds,
        "peak_gb": {side: peak_memory(sizes, side) for side in sides},
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
