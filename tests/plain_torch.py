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
        self.fc = nn.Linear(layers[-1].out_channels, num_classes)

    def forward(self, x):
        outputs = []
        for layer, convolution in zip(self.plan, self.layers, strict=True):
            x = convolution(x)
            if layer.residual >= 0:
                source = outputs[layer.residual]
                shared = min(x.shape[1], source.shape[1])
                x = torch.cat([x[:, :shared] + source[:, :shared], x[:, shared:]], dim=1)
            x = ACTIVATIONS[layer.activation](x)
            outputs.append(x)
        return self.fc(x.mean(dim=(2, 3)))
