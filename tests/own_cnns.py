"""CNNs of somebody's own, as a plain PyTorch script would train and save them."""

import csv
import json

import torch
from torch import nn

from probegen_jax import settings
from probegen_jax.networks.layered_cnn.layered import LayeredCnnSpec
from probegen_jax.networks.layered_cnn.said import Said
from probegen_jax.networks.options import ReadOptions
from probegen_jax.zoo.files.arrays import Notes
from probegen_jax.zoo.own import networks

SIZE = 16


def trained(model, seed=0):
    """The model as training might have left it: BatchNorm with statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for array, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.5, 1.2),
                (module.bias.data, -0.2, 0.2),
            ):
                array.copy_(torch.rand(array.shape, generator=generator) * (high - low) + low)
    return model.eval()


class Net(nn.Module):
    """BatchNorm, stride 2, max pooling, two linear layers: how most people write it."""

    def __init__(self, widths=(6, 8), outputs=5, channels=3):
        super().__init__()
        first, second = widths
        self.conv1 = nn.Conv2d(channels, first, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(second)
        self.fc1 = nn.Linear(second * 2 * 2, 12)
        self.fc2 = nn.Linear(12, outputs)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        x = torch.max_pool2d(torch.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


NET_SETTINGS = {"stride": "2,1", "padding": "1", "activation": "relu", "pool": "max2"}
NET_JSON = {
    "image_size": [SIZE, SIZE],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.2, 0.25],
    "layers": [
        {"conv": "conv1", "stride": 2, "padding": 1},
        {"batch_norm": "bn1"},
        "relu",
        {"max_pool": 2},
        {"conv": "conv2", "padding": 1},
        {"batch_norm": "bn2"},
        "relu",
        {"max_pool": 2},
        "flatten",
        {"linear": "fc1"},
        "relu",
        "dropout",
        {"linear": "fc2"},
    ],
}


def other(outputs=5, channels=3):
    """Another architecture, and its JSON: groups, dilation, average pooling, a norm of its own."""
    model = nn.Sequential(
        nn.Conv2d(channels, 6, (3, 5), padding=(1, 2)),
        nn.ReLU(),
        nn.BatchNorm2d(6, eps=1e-3),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.Conv2d(6, 4, 3, padding=2, dilation=2, groups=2, bias=False),
        nn.LeakyReLU(0.2),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 7),
        nn.BatchNorm1d(7),
        nn.SiLU(),
        nn.Dropout(0.3),
        nn.Linear(7, outputs),
    )
    layers = [
        {"conv": "0", "padding": [1, 2]},
        "relu",
        {"batch_norm": "2", "eps": 1e-3},
        {"avg_pool": 3, "stride": 2, "padding": 1},
        {"conv": "4", "padding": "same", "dilation": 2, "groups": 2},
        {"leaky_relu": 0.2},
        {"max_pool": 3, "stride": 2, "padding": 1},
        {"adaptive_avg_pool": [2, 2]},
        "flatten",
        {"linear": "9"},
        {"batch_norm": "10"},
        "silu",
        "dropout",
        {"linear": "13"},
    ]
    return model, {"layers": layers}


def small(outputs=5, channels=3):
    """Global pooling, no BatchNorm; one of the networks that a Wild Park has."""
    model = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3, stride=2), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, outputs),
    )  # fmt: skip
    layers = [{"conv": "0"}, "gelu", {"conv": "2", "stride": 2}, "tanh", "global_pool"]
    return model, {"layers": [*layers, {"linear": "6"}]}


def write(folder, models, target=lambda n: n / 10):
    """Saves models, each with a JSON beside it where one is given, and a CSV of targets."""
    folder.mkdir()
    with (folder / "targets.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "target"])
        for n, (model, content) in enumerate(models):
            torch.save(model.state_dict(), folder / f"{n}.pth")
            if content is not None:
                (folder / f"{n}.json").write_text(json.dumps(content))
            rows.writerow([f"{n}.pth", target(n)])
    return folder


def responses(model, probes):
    """A model's outputs for probes (P, H, W, C), and the probes' gradient of their squares' sum."""
    x = torch.tensor(probes.transpose(0, 3, 1, 2), requires_grad=True)
    y = model(x)
    y.square().sum().backward()
    return y.detach().numpy(), x.grad.numpy().transpose(0, 2, 3, 1)


CONFIG = "configs/own_cnn.py"


def config(folder, **values):
    argv = ["train", f"--config={CONFIG}"]
    values = {"networks_dir": folder, "targets_csv": folder / "targets.csv"} | values
    argv += [f"--config.{key}={value}" for key, value in values.items()]
    return settings.parse([*argv, f"--config.data_dir={folder.parent / 'cache'}"], "").config


def net(seed, widths=(6, 8)):
    torch.manual_seed(seed)
    return trained(Net(widths), seed)


def reader(said, **values):
    size = (SIZE, SIZE, 0)
    return LayeredCnnSpec(size, 0, said=Said.parse(said), **values)


def read(said, source, notes=None):
    return networks.read(reader(said), source, "net", ReadOptions(), notes or Notes())
