"""The method in plain PyTorch, with a Python loop over networks: the yardstick for ours.

    python -m benchmarks.torch_loop --config=configs/digits.py
    python -m benchmarks.torch_loop --config=configs/mnist.py:128 --seeds=3 --limit=10000 --lean
    python -m benchmarks.torch_loop --config=configs/digits.py --variant=vmap

  --config=FILE[:METHOD][,PROBES], --config.KEY=VALUE   the same zoo, splits and settings as train
  --seeds=N           seeds, one after another; the config's if not given
  --limit=N           only N of the training networks: those of --config.max_train_networks=N
  --lean              the zoo's weights need no gradients, as careful code has it
  --variant=NAME      loop; compile (torch.compile of the loop); vmap (torch.func)
  --device=NAME       cpu, cuda, …
  --save=DIR          writes each seed's state dict, as probegen_jax.compare reads it

Prints JSON: validation and test metric of every seed after the last step, and seconds of training
per epoch without evaluations. The zoo is held in memory, one module a network: 20 kB each for INRs.

Written from the description of the method. Networks are `nn.Module`s whose weights require
gradients, as such code usually has them, so that a step also computes gradients for them.
"""

import itertools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from absl import flags
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.torch_networks import (
    VARIANTS,
    StackedNetworks,
    compiled_loop,
    make_networks,
    respond_loop,
)
from probegen_jax import errors, settings
from probegen_jax.method.tasks import TASKS
from probegen_jax.zoo.zoo import Zoo

Respond = Callable[[Any, torch.Tensor], torch.Tensor]


class Generator(nn.Module):
    """Transposed convolutions from latents (P, latent, 1, 1) to images, nothing between them."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.main = nn.Sequential(*layers)

    def forward(self, x):
        return torch.tanh(self.main(x))


class ProbeGen(nn.Module):
    """Latents or probes, what makes probes of them, and the head.

    `input` is a parameter where it is trained; where it is fixed, no part of the state dict. Names
    are those of published checkpoints.
    """

    def __init__(self, inputs: torch.Tensor, trained: bool, generator: nn.Module, head: nn.Module):
        super().__init__()
        if trained:
            self.input = nn.Parameter(inputs)
        else:
            self.register_buffer("input", inputs, persistent=False)
        self.tokens_generator = generator
        self.points_mixer = head

    def probes(self) -> torch.Tensor:
        return self.tokens_generator(self.input)

    def forward(self, networks: Any, respond: Respond) -> torch.Tensor:
        return self.points_mixer(respond(networks, self.probes()).flatten(1))


def make_model(config: Any, zoo: Zoo, seed: int, images: np.ndarray | None = None) -> ProbeGen:
    """A fresh model in PyTorch's default initialisation, as DESIGN and the paper describe it."""
    torch.manual_seed(seed)
    shape, number = zoo.spec.probe_shape, config.num_probes
    image_probes = len(shape) == 3
    torch_shape = (shape[2], *shape[:2]) if image_probes else shape
    layers: list[nn.Module] = []
    linear = ("generator", "convolutional"), ("generator_activation", "none")
    if any(getattr(config, key, own) != own for key, own in linear):
        raise errors.UserError("generators here are ProbeGen's own: leave generator… as it is")
    trained = config.method in ("probegen", "vanilla")
    if config.method == "probegen" and image_probes:
        inputs = torch.randn(number, config.latent_dim, 1, 1)
        layers = _image_layers(config, torch_shape)
    elif config.method == "probegen":
        inputs = torch.randn(number, config.latent_dim)
        widths = [config.latent_dim] * config.generator_depth + [shape[0]]
        layers = [nn.Linear(m, n) for m, n in itertools.pairwise(widths)]
    elif config.method == "vanilla":
        inputs = torch.randn(number, *torch_shape)
    elif config.method == "uniform" and not image_probes:
        inputs = torch.rand(number, *torch_shape) * 2 - 1
    elif config.method == "dead_leaves" and images is not None:
        chosen = torch.randperm(len(images))[:number]
        inputs = torch.from_numpy(images)[chosen].permute(0, 3, 1, 2).contiguous()
    else:
        raise errors.UserError(f"method {config.method!r} is not for the networks of {zoo.name}")
    tanh = image_probes and trained
    generator = Generator(layers) if tanh else nn.Sequential(*layers)
    widths = [number * zoo.spec.response_dim] + [config.head_width] * (config.head_depth - 1)
    head: list[nn.Module] = []
    for m, n in itertools.pairwise(widths):
        head += [nn.Linear(m, n), nn.ReLU()]
    head.append(nn.Linear(widths[-1], zoo.num_outputs))
    return ProbeGen(inputs, trained, generator, nn.Sequential(*head))


def _image_layers(config: Any, shape: tuple[int, ...]) -> list[nn.Module]:
    """32→8w k4; halve channels and double the size until it is reached; then k3 to the image."""
    channels, height, _ = shape
    size, doublings = height, 0
    while size > 7:
        size, doublings = size // 2, doublings + 1
    width = config.generator_width
    widths = [max(8 * width >> i, width) for i in range(doublings + 1)]
    layers = [nn.ConvTranspose2d(config.latent_dim, widths[0], size)]
    for i in range(doublings):
        if i == doublings - 1:
            for _ in range(config.generator_depth - doublings - 2):
                layers.append(nn.ConvTranspose2d(widths[i], widths[i], 3, padding=1))
        layers.append(nn.ConvTranspose2d(widths[i], widths[i + 1], 4, stride=2, padding=1))
    return [*layers, nn.ConvTranspose2d(widths[-1], channels, 3, padding=1)]


def make_optimizer(model: nn.Module, learning_rate: float, total_steps: int):
    """Adam, and its cosine schedule to 0, stepped every batch."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total_steps)


def loss_of(task: str) -> nn.Module:
    return nn.CrossEntropyLoss() if task == "classification" else nn.MSELoss()


def train_step(
    model: ProbeGen,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    networks: Any,
    targets: torch.Tensor,
    loss_function: nn.Module,
    respond: Respond = respond_loop,
) -> float:
    """One batch: forward, backward, Adam, the schedule. Returns the loss.

    Targets are class indices (B,), or values (B, 1).
    """
    optimizer.zero_grad()
    for network in networks:
        if isinstance(network, nn.Module):
            network.zero_grad()
    loss = loss_function(model(networks, respond), targets)
    loss.backward()
    optimizer.step()
    scheduler.step()
    return loss.item()


class Batches(torch.utils.data.Dataset):
    """Networks beside their targets; a network is a module, or its place where they are stacked."""

    def __init__(self, networks: Sequence[Any], targets: torch.Tensor):
        self.networks, self.targets = networks, targets

    def __len__(self):
        return len(self.networks)

    def __getitem__(self, place: int):
        return self.networks[place], self.targets[place]

    @staticmethod
    def collate(items):
        networks, targets = zip(*items, strict=True)
        return list(networks), torch.stack(targets)


def loader(zoo: Zoo, networks: Sequence[Any], rows: np.ndarray, config: Any, device: str, **how):
    targets = torch.from_numpy(zoo.targets_N[rows]).to(device)
    targets = targets.long() if zoo.task == "classification" else targets[:, None]
    return DataLoader(
        Batches(networks, targets), config.batch_size, collate_fn=Batches.collate, **how
    )


@torch.no_grad()
def evaluate(model: ProbeGen, batches: DataLoader, respond: Respond) -> np.ndarray:
    return torch.cat([model(networks, respond) for networks, _ in batches]).cpu().numpy()


def train(config: Any, zoo: Zoo, images: Any, seed: int, options: Any, ways: Any) -> dict[str, Any]:
    """Trains one seed; its metrics after the last step, and the seconds of each epoch."""
    device, (respond, networks) = options.device, ways
    model = make_model(config, zoo, seed, images).to(device)
    if not isinstance(model.input, nn.Parameter):
        # Fixed probes: every network answers once, for good, and the head reads that.
        networks = _answers(model, networks, respond, config.batch_size)
        model.tokens_generator, respond = nn.Identity(), lambda answers, _: torch.stack(answers)
    shuffle = torch.Generator().manual_seed(seed)
    batches = {
        split: loader(zoo, networks[split], zoo.splits[split], config, device, **how)
        for split, how in (
            ("train", {"shuffle": True, "generator": shuffle}),
            ("val", {}),
            ("test", {}),
        )
    }
    total_steps = config.num_epochs * len(batches["train"])
    optimizer, scheduler = make_optimizer(model, config.learning_rate, total_steps)
    loss_function = loss_of(zoo.task)
    seconds = []
    for _ in range(config.num_epochs):
        started = time.perf_counter()
        for batch, targets in batches["train"]:
            loss = train_step(model, optimizer, scheduler, batch, targets, loss_function, respond)
        seconds.append(time.perf_counter() - started)
    result: dict[str, Any] = {"seed": seed, "train_loss": loss}
    metric = TASKS[zoo.task].metric
    if options.save:
        torch.save(model.state_dict(), pathlib.Path(options.save) / f"seed{seed}.pth")
    for split in ("val", "test"):
        outputs = evaluate(model, batches[split], respond)
        result[split] = metric(outputs, zoo.targets_N[zoo.splits[split]])
    return result | {
        "seconds_per_epoch": statistics.median(seconds),
        "train_seconds": sum(seconds),
    }


@torch.no_grad()
def _answers(
    model: ProbeGen, networks: Any, respond: Respond, size: int
) -> dict[str, torch.Tensor]:
    probes = model.probes()
    return {
        split: torch.cat(
            [respond(members[at : at + size], probes) for at in range(0, len(members), size)]
        )
        for split, members in networks.items()
    }


def ways_of(zoo: Zoo, options: Any) -> tuple[Respond, dict[str, Any]]:
    """How batches respond, and what stands for the networks of each split."""
    if options.variant == "vmap":
        stacked = StackedNetworks(zoo, np.arange(len(zoo)), options.lean, options.device)
        return stacked.respond, {split: rows.tolist() for split, rows in zoo.splits.items()}
    networks = {
        split: make_networks(zoo, rows, options.lean, options.device)
        for split, rows in zoo.splits.items()
    }
    return compiled_loop(zoo) if options.variant == "compile" else respond_loop, networks


def main(argv: Sequence[str]) -> None:
    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_integer("seeds", None, "seeds", 1, flag_values=values)
        flags.DEFINE_integer("limit", None, "training networks", 1, flag_values=values)
        flags.DEFINE_boolean("lean", False, "no gradients for zoo weights", flag_values=values)
        flags.DEFINE_enum("variant", "loop", VARIANTS, "how networks run", flag_values=values)
        flags.DEFINE_string("device", "cpu", "where", flag_values=values)
        flags.DEFINE_string("save", None, "folder of state dicts", flag_values=values)

    options = settings.parse(argv, __doc__, define)
    config = options.config
    if options.save and not pathlib.Path(options.save).is_dir():
        raise errors.UserError(f"--save={options.save}: there is no such folder")
    from probegen_jax.runs.experiment import probe_images
    from probegen_jax.runs.zoo_from_config import from_config

    limit = options.limit or config.get("max_train_networks")
    zoo = from_config(config).with_fewer_to_train_on(limit)
    images = probe_images(config, zoo.spec)
    ways = ways_of(zoo, options)
    seeds = range(config.seed, config.seed + (options.seeds or config.num_seeds))
    results = [train(config, zoo, images, seed, options, ways) for seed in seeds]
    tests = [result["test"] for result in results]
    summary = {
        "dataset": zoo.name,
        "method": config.method,
        "num_probes": config.num_probes,
        "metric": TASKS[zoo.task].metric_name,
        "variant": options.variant,
        "lean": options.lean,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "train_networks": len(zoo.splits["train"]),
        "epochs": config.num_epochs,
        "seeds": results,
        "mean": statistics.fmean(tests),
        "std": statistics.stdev(tests) if len(tests) > 1 else 0.0,
        "seconds_per_epoch": statistics.median(r["seconds_per_epoch"] for r in results),
    }
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    errors.run(main)
