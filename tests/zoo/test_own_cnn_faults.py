"""CNNs of the user's own: what is said of files and settings that do not fit."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import own_cnns
from own_cnns import config, net, read

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.layered_cnn.said import Said
from probegen_jax.runs.zoo_from_config import from_config


def changed(**arrays):
    """The arrays of a `Net`, some of them others, or None: not there."""
    state = {**net(0).state_dict(), **arrays}
    return {key: array for key, array in state.items() if array is not None}


def spoilt(**values):
    return dict(own_cnns.NET_JSON, **values)


def without(key):
    return changed(**{f"{key}.{last}": None for last in ("running_mean", "running_var")})


def layers(*entries):
    return {"layers": list(entries)}


CONV, FC = {"conv": "conv1", "stride": 2, "padding": 1}, {"linear": "fc2"}
TWO_HEADS = {"fc3.weight": torch.zeros(5, 12), "fc3.bias": torch.zeros(5)}
JSON, SAID = own_cnns.NET_JSON, own_cnns.NET_SETTINGS
BAD = {
    "no statistics": (JSON, without("bn2"), "the BatchNorm 'bn2' has no running_mean"),
    "inferred, no statistics": (SAID, without("bn2"), "has bn2.weight, of a normalisation without"),
    "half of them": (SAID, changed(**{"bn1.running_var": None}), "'bn1' has no running_var"),
    "lacks": (JSON, changed(**{"fc1.weight": None}), "has no fc1.weight, of its linear 'fc1'"),
    "more": (JSON, changed(**TWO_HEADS), "has fc3.weight, linear, of none of its layers"),
    "two heads": (SAID, changed(**TWO_HEADS), r"fit in no order .* 'fc3': reads 12 .* given 5"),
    "attention": (
        SAID,
        changed(**{"att.in_proj_weight": torch.zeros(3, 3)}),
        "has att.in_proj_weight, of attention, which is not supported",
    ),
    "conv1d": (SAID, changed(**{"c.weight": torch.zeros(2, 2, 3)}), "has c.weight, of a Conv1d"),
    "layer norm": (SAID, changed(**{"n.weight": torch.zeros(8)}), "has n.weight, of a normalis"),
    "weight norm": (SAID, changed(**{"conv2.weight_g": torch.zeros(1)}), "weight normalisation"),
    "complex": (
        JSON,
        changed(**{"fc1.weight": torch.zeros(12, 32, dtype=torch.complex64)}),
        "fc1.weight is complex64, not float32",
    ),
    "nan": (JSON, changed(**{"fc1.bias": torch.full((12,), np.nan)}), "fc1.bias holds NaN"),
    "channels": (JSON, changed(**{"conv2.weight": torch.zeros(8, 5, 3, 3)}), "'conv2': reads 5 ch"),
    "norm": (JSON, changed(**{"bn1.bias": torch.zeros(5)}), r"bn1.bias has shape \(5,\), expected"),
    "neither": (
        SAID | {"stride": "1"},
        changed(),
        "reads 32 values, but is given 4×4 pixels of 8 channels, which are 8 by global pooling",
    ),
    "three strides": (SAID | {"stride": "2,1,1"}, changed(), "stride is said 3 times, of 2 layers"),
    "nothing said": ({}, changed(), "nothing says what its stride, padding, activation, pool are"),
    "no maps": (layers(FC), changed(), "a CNN needs at least one convolution"),
    "too small": (
        layers({"conv": "conv1", "dilation": 20}),
        changed(),
        "a kernel of 3×3 pixels does not fit the 16×16 pixels",
    ),
    "ends in maps": (
        layers(CONV),
        {"conv1.weight": torch.zeros(6, 3, 3, 3)},
        "ends with 8×8 pixels of 6 channels",
    ),
    "groups": (layers(CONV, {"conv": "conv2", "groups": 2}), changed(), "said to be 2, but its we"),
    "flat too late": (
        layers(CONV, "flatten", {"max_pool": 2}),
        changed(),
        "max_pool: reads images",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_networks_that_do_not_fit_are_told_in_a_line(case):
    said, state, fault = BAD[case]
    with pytest.raises(BadNetworkError, match=fault) as error:
        read(said, state)
    assert "\n" not in str(error.value) and str(error.value).startswith("net: ")


BAD_JSON = {
    "no object": ([], "is a list, not an object with 'layers'"),
    "unknown": ({"layer": []}, "has an unknown 'layer'; known are layers, stride"),
    "empty": ({"layers": []}, r"layers is \[\]; it should be a list of layers"),
    "both": (spoilt(stride=1), "says 'layers' and 'stride'; give only one"),
    "no layer": (layers("softmax9"), r"layers\[0\] is 'softmax9'; it should be one of global_pool"),
    "two kinds": (layers({"conv": "a", "linear": "b"}), r"layers\[0\] is .*; it should be one of"),
    "key": (layers({"conv": 3}), r"layers\[0\] is a conv of 3; give the key of its arrays"),
    "word": (layers({"conv": "a", "strides": 2}), "a conv with an unknown 'strides'; it may have"),
    "zero": (layers({"max_pool": 0}), "max_pool is 0; it should be a whole number, at least 1"),
    "three": (layers({"max_pool": [2, 2, 2]}), r"max_pool is \[2, 2, 2\]; it should be a number"),
    "half": (layers({"avg_pool": 2, "padding": 2}), "padding is more than half of its kernel"),
    "twice": (layers(CONV, CONV), "layers name 'conv1' twice"),
    "activation": ({"activation": "swosh"}, "activation is 'swosh'; known are none, relu"),
    "pool": ({"pool": "min2"}, "pool is 'min2'; it should be none, max2"),
    "stride": ({"stride": "2,x"}, "stride is 'x'; it should be a whole number, at least 1"),
    "size": ({"image_size": [8]}, r"image_size is \[8\]; it should be a number, or one for each"),
    "mean": ({"mean": ["a"]}, r"mean is \['a'\]; it should be a number a channel"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_json_that_cannot_be_is_told_in_a_line(case):
    content, fault = BAD_JSON[case]
    with pytest.raises(UserError, match=fault) as error:
        Said.parse(content)
    assert "\n" not in str(error.value)


def test_orders_that_fit_alike_are_told():
    state = {
        name: torch.zeros(shape)
        for name, shape in {
            # Stored as no order that fits, and there are two by which it would.
            "out.weight": (5, 4),
            "b1.weight": (4, 4, 3, 3),
            "a2.weight": (4, 4, 3, 3),
        }.items()
    }
    said = {"stride": 1, "padding": 1, "activation": "relu", "pool": "none"}
    with pytest.raises(
        BadNetworkError, match=r"fit in several orders: a2, b1, out and b1, a2, out"
    ):
        read(said, state)


BAD_SETTINGS = {
    "no size": (SAID, "nothing says how large the networks' images are"),
    "partly": ({"stride": "1"}, "settings: padding, activation, pool must be said too"),
    "both": ({"architecture": "net.json", "stride": "1"}, "architecture is net.json, and stride"),
    "no file": ({"architecture": "none.json"}, "cannot read none.json"),
    "mean alone": (SAID | {"image_size": 16, "pixel_mean": "(0.5,)"}, "give both or neither"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_settings_that_do_not_fit_are_told(case, tmp_path):
    values, fault = BAD_SETTINGS[case]
    with pytest.raises(UserError, match=fault):
        from_config(config(tmp_path, **values))


def test_other_outputs_than_the_first_networks_are_told(tmp_path):
    models = [(net(n), own_cnns.NET_JSON) for n in range(11)]
    folder = own_cnns.write(tmp_path / "zoo", [*models, own_cnns.small(outputs=3)])
    given = config(folder, image_size=16)
    fault = r"11.pth: reads images \(16, 16, 3\) and has 3 outputs, but the first network reads"
    with pytest.raises(UserError, match=fault):
        from_config(given)
    given.skip_bad = True
    assert len(from_config(given)) == 11
