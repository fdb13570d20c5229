"""What is timed: each side is a call that does one piece of work and waits for its end."""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import cases
from probegen_jax.errors import UserError
from probegen_jax.networks.mixed_cnn.mixed import MixedCnnSpec
from probegen_jax.runs.experiment import make_learner, matmul_precision
from probegen_jax.training.batch_order import epoch_places, lay_out
from probegen_jax.training.batches import make_batches
from probegen_jax.training.mesh import (
    BY_SEED,
    DATA,
    EVERYWHERE,
    make_mesh,
    on_mesh,
    place,
    platform_of,
)
from probegen_jax.training.programs import Programs
from probegen_jax.zoo.zoo import Zoo

# XLA starts every call anew; as many steps as this share that. Batches of the Wild Park differ in
# cost: for it, a call of either side is an epoch of the same networks.
STEPS_PER_CALL = {"mnist_inr": 50, "cifar10_gs": 4, "wild_park": 2}
TORCH_STEPS_PER_CALL = {"mnist_inr": 5, "cifar10_gs": 1, "wild_park": 2}


@dataclasses.dataclass
class Side:
    """One way to do a piece of work.

    Attributes:
      call: does it `per_call` times, and waits for the end.
      per_call: steps, epochs or passes in a call.
      facts: what is known of it besides its time.
    """

    call: Callable[[], Any]
    per_call: int
    facts: dict[str, Any]


class Ours:
    """Our training of a case, as `probegen_jax.train` runs it."""

    def __init__(self, case: cases.Case, seeds: int = 1, zoo: Zoo | None = None):
        config = case.config.copy_and_resolve_references()
        self.mesh = make_mesh(config.batch_size, seeds)
        platform = platform_of(self.mesh)
        precision = matmul_precision(config, platform)
        jax.config.update("jax_default_matmul_precision", precision)
        zoo = zoo or case.zoo
        zoo = dataclasses.replace(zoo, spec=zoo.spec.on_platform(platform))
        self._programs = Programs(make_learner(config, zoo, None, platform), self.mesh)
        keys_S = jax.random.split(jax.random.key(0), seeds)
        layout = lay_out(zoo.splits, config.batch_size, zoo.costs())
        self._batches = make_batches(zoo, layout, self.mesh, keys_S, "resident")
        self._state = self._programs.init(keys_S)
        losses_SxT = np.zeros((seeds, layout.steps["train"]), np.float32)
        self._losses_SxT = place(self.mesh, losses_SxT, BY_SEED)
        self.steps, self._epoch = layout.steps["train"], 0

    def run(self, steps: int) -> None:
        """Training steps, from the first of an epoch."""
        stretch = self._batches.stretch(self._programs, self._epoch, 0)
        bounds = place(self.mesh, [np.int32(step) for step in (0, 0, steps)])
        self._state, self._losses_SxT = self._programs.run_steps(
            self._state,
            self._losses_SxT,
            stretch.weights,
            stretch.targets_N,
            stretch.places_SxKxB,
            *bounds,
        )
        jax.block_until_ready(self._losses_SxT)

    def epoch(self) -> None:
        """Every network once, in an order of its own."""
        self._epoch += 1
        self.run(self.steps)

    def step(self, per_call: int) -> Side:
        per_call = min(per_call, self.steps)
        started = time.perf_counter()
        self.run(1)
        return Side(
            lambda: self.run(per_call), per_call, {"compile_s": time.perf_counter() - started}
        )


def probing(case: cases.Case, per_call: int, zoo: Zoo | None = None) -> Side:
    """Responses of a batch, and the gradient of the probes, on all devices."""
    config = case.config
    mesh = make_mesh(config.batch_size)
    spec = (zoo or case.zoo).spec.on_platform(platform_of(mesh))
    precision = matmul_precision(config, platform_of(mesh))
    jax.config.update("jax_default_matmul_precision", precision)
    weights = case.zoo.weights
    split = jax.tree.map(lambda _: P(DATA), weights)
    rows = _first_batch(case)
    if isinstance(spec, MixedCnnSpec):  # every device has all tables
        split["tables"] = jax.tree.map(lambda _: P(), weights["tables"])
        programs = jax.tree.map(lambda leaf: leaf[rows], weights["programs"])
        weights = {"tables": weights["tables"], "programs": programs}
    else:
        weights = jax.tree.map(lambda leaf: leaf[rows], weights)
    weights = jax.tree.map(
        lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), weights, split
    )
    probes = jax.random.normal(jax.random.key(0), (config.num_probes, *spec.probe_shape))
    probes = jax.device_put(probes, NamedSharding(mesh, EVERYWHERE))

    def gradient(weights, probes):
        def loss(probes):
            return jnp.sum(jnp.square(spec.respond(weights, probes)))

        return jax.lax.psum(jax.grad(loss)(probes), DATA)

    started = time.perf_counter()
    compiled = on_mesh(mesh, gradient, (split, P()), P()).lower(weights, probes).compile()
    facts: dict[str, Any] = {"compile_s": time.perf_counter() - started}
    facts["gflops_needed"] = float(case.flops_N[rows].sum() * config.num_probes / 1e9)
    analysis = compiled.cost_analysis() or {}
    # Of a loop, XLA counts the body once; so these are a whole batch's for INRs alone.
    facts |= {f"xla_{key}": analysis.get(name) for key, name in _ANALYSIS.items()}

    def call():
        for _ in range(per_call):
            gradient = compiled(weights, probes)
        jax.block_until_ready(gradient)

    return Side(call, per_call, facts)


def _first_batch(case: cases.Case) -> np.ndarray:
    """Rows of the zoo, slot by slot, of the first batch of an epoch, as training lays it out."""
    layout = lay_out(case.zoo.splits, case.config.batch_size, case.zoo.costs())
    places_TxB = epoch_places(
        jax.random.key(0), jnp.int32(0), jnp.asarray(layout.places("train")), layout.ranks_BxT
    )
    return np.take_along_axis(layout.rows_BxM, np.asarray(places_TxB[:1].T), axis=1)[:, 0]


_ANALYSIS = {"flops": "flops", "bytes": "bytes accessed", "transcendentals": "transcendentals"}


class Torch:
    """The plain PyTorch training of a case, and its variants."""

    def __init__(self, case: cases.Case, variant: str = "loop", lean: bool = False):
        import torch

        from benchmarks import torch_loop, torch_networks

        self._torch, self._loop, self._networks_of = torch, torch_loop, torch_networks
        self.case, self.lean = case, lean
        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("jax runs on a GPU that PyTorch does not see; install PyTorch for it")
        if self.device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self.config, self.zoo = case.config, case.zoo
        self.model = torch_loop.make_model(self.config, self.zoo, 0).to(self.device)
        steps = -(-len(self.zoo.splits["train"]) // self.config.batch_size)
        total = steps * self.config.num_epochs
        self._optimizer, self._scheduler = torch_loop.make_optimizer(
            self.model, self.config.learning_rate, total
        )
        self._loss = torch_loop.loss_of(self.zoo.task)
        rows = self.zoo.splits["train"]
        if variant == "vmap":
            stacked = torch_networks.StackedNetworks(self.zoo, rows, lean, self.device)
            self._respond, self.networks = stacked.respond, list(range(len(rows)))
        else:
            self.networks = torch_networks.make_networks(self.zoo, rows, lean, self.device)
            compiled = variant == "compile"
            self._respond = (
                torch_networks.compiled_loop(self.zoo) if compiled else torch_networks.respond_loop
            )

    def batches(self, networks: Any = None) -> Any:
        """The usual DataLoader, in random order."""
        rows = self.zoo.splits["train"]
        networks = self.networks if networks is None else networks
        return self._loop.loader(self.zoo, networks, rows, self.config, self.device, shuffle=True)

    def one(self, networks: Any, targets: Any) -> None:
        self._loop.train_step(
            self.model,
            self._optimizer,
            self._scheduler,
            networks,
            targets,
            self._loss,
            self._respond,
        )

    def step(self, per_call: int) -> Side:
        """Steps on one batch after the other."""
        batches = list(itertools.islice(self.batches(), per_call))
        started = time.perf_counter()
        self.one(*batches[0])
        facts = {"first_s": time.perf_counter() - started}

        def call():
            for networks, targets in batches:
                self.one(networks, targets)
            self.wait()

        return Side(call, per_call, facts)

    def probing(self, per_call: int) -> Side:
        """Responses of a batch, and the gradients that their way to the probes brings along."""
        networks = [self.networks[row] for row in _first_batch(self.case)]
        shape = self.zoo.spec.probe_shape
        if len(shape) == 3:
            shape = (shape[2], *shape[:2])
        probes = self._torch.randn(
            self.config.num_probes, *shape, device=self.device, requires_grad=True
        )

        def call():
            for _ in range(per_call):
                probes.grad = None
                for network in networks:
                    if isinstance(network, self._torch.nn.Module):
                        network.zero_grad()
                self._respond(networks, probes).square().sum().backward()
            self.wait()

        call()
        return Side(call, per_call, {})

    def epoch(self, networks: Any = None) -> Side:
        """Every network once, in random order, from the DataLoader."""
        batches = self.batches(networks)

        def call():
            for members, targets in batches:
                self.one(members, targets)
            self.wait()

        return Side(call, 1, {"networks": len(self.zoo.splits["train"])})

    def from_files(self, folder: pathlib.Path) -> "Files":
        """The networks as .pth files, each read when its turn comes, as such data sets do."""
        plans = []
        rows = self.zoo.splits["train"].tolist()
        for at, (plan, state) in enumerate(self._networks_of.plans_and_states(self.zoo, rows)):
            plans.append(plan)
            # Clones: a view would be saved with all that it is a view of.
            whole = {name: tensor.clone() for name, tensor in state.items()}
            self._torch.save(whole, folder / f"{at}.pth")

        def read(place: int) -> Any:
            state = self._torch.load(folder / f"{place}.pth", weights_only=True)
            return self._networks_of.make_network(plans[place], state, self.lean, self.device)

        return Files(len(plans), read)

    def wait(self) -> None:
        if self.device == "cuda":
            self._torch.cuda.synchronize()


@dataclasses.dataclass(frozen=True)
class Files:
    """Networks by place, each made anew whenever it is asked for."""

    number: int
    read: Callable[[int], Any]

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, place: int) -> Any:
        return self.read(place)


def gemm_peak(rounds: int = 10) -> float:
    """FLOP/s of float32 matmuls on all devices: the best of a few sizes."""
    mesh = make_mesh(len(jax.devices()))
    best = 0.0
    for size in (512, 1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192):
        shape = (jax.device_count() * size, size)
        a = jax.device_put(jnp.ones(shape), NamedSharding(mesh, P(DATA)))
        multiply = on_mesh(mesh, lambda a: a @ a, (P(DATA),), P(DATA))
        multiply(a).block_until_ready()
        for _ in range(rounds):
            started = time.perf_counter()
            multiply(a).block_until_ready()
            seconds = time.perf_counter() - started
            best = max(best, 2.0 * jax.device_count() * size**3 / seconds)
    return best
