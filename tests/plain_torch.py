"""A CNN of the zoos as anyone would write it in PyTorch: the reference for ours."""

import torch
from torch import nn
from torch.nn import functional

ACTIVATIONS = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.01),
    "sine": torch.sin,
    "none": lambda x: x,
    "selu": functional.selu,
}


class Activation(nn.Module):
    """A module, so that a forward hook sees what goes in and what comes out."""

    def __init__(self, name):
        super().__init__()
        self.function = ACTIVATIONS[name]

    def forward(self, x):
        return self.function(x)


class PlainCnn(nn.Module):
    """Convolutions with an activation each, residual links, average pooling, a linear head."""

    def __init__(self, layers, num_classes):
        super().__init__()
        self.plan = layers
        self.layers = nn.ModuleList(
            nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding
            )
            for layer in layers
        )
        self.activations = nn.ModuleList(Activation(layer.activation) for layer in layers)
        self.fc = nn.Linear(layers[-1].out_channels, num_classes)

    def forward(self, x):
        outputs = []
        steps = zip(self.plan, self.layers, self.activations, strict=True)
        for layer, convolution, activation in steps:
            x = convolution(x)
            if layer.residual >= 0:
                source = outputs[layer.residual]
                shared = min(x.shape[1], source.shape[1])
                x = torch.cat([x[:, :shared] + source[:, :shared], x[:, shared:]], dim=1)
            x = activation(x)
            outputs.append(x)
        return self.fc(x.mean(dim=(2, 3)))


class PlainBlock(nn.Module):
    """Two 3×3 convolutions, and something around them; `pad` as in He et al.'s option A."""

    def __init__(self, channels, width, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.missing = stride, width - channels
        if shortcut == "conv" and (stride != 1 or channels != width):
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def around(self, x):
        if hasattr(self, "shortcut"):
            return self.shortcut(x)
        x = x[:, :, :: self.stride, :: self.stride]
        pad = (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2)
        return functional.pad(x, pad)

    def forward(self, x):
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.around(x))


class PlainResNet(nn.Module):
    """A ResNet for small images, as trainings on CIFAR-10 have them."""

    def __init__(self, widths, depths, channels, num_classes, shortcut="conv"):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
            blocks = []
            for block in range(depth):
                stride = 2 if stage > 1 and block == 0 else 1
                blocks.append(PlainBlock(channels, width, stride, shortcut))
                channels = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in range(1, 9):
            x = getattr(self, f"layer{stage}", nn.Identity())(x)
        return self.linear(x.mean(dim=(2, 3)))


def with_random_statistics(model, seed=0):
    """The model, for evaluation, with every BatchNorm as training might have left it."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like, low, high):
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(uniform(module.running_mean, -0.3, 0.3))
            module.running_var.copy_(uniform(module.running_var, 0.5, 1.5))
            module.weight.data.copy_(uniform(module.weight, 0.5, 1.2))
            module.bias.data.copy_(uniform(module.bias, -0.2, 0.2))
    return model.eval()
