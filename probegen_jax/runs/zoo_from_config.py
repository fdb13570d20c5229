"""The zoo that a config asks for: built in, published, or the user's own."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable
from typing import Any

from probegen_jax.errors import UserError
from probegen_jax.method.tasks import TASKS
from probegen_jax.networks import function, registry
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.points import PointSpec
from probegen_jax.networks.siren import NFN_KEYS
from probegen_jax.typed_json import typed
from probegen_jax.zoo.own.cnn_spec import cnn_spec
from probegen_jax.zoo.zoo import Zoo

BUILT_IN = ("digits", "digits_cnn", "digits_subsets")
_SMALL_CNN_ZOO = ("svhn_gs", "mnist_gs", "fmnist_gs")  # beside cifar10_gs
_NFN = ("cifar10_inr", "nfn_mnist_inr", "nfn_fmnist_inr")
PUBLISHED = ("mnist_inr", "fmnist_inr", "cifar10_gs", "cifar10_wild_park", *_SMALL_CNN_ZOO, *_NFN)
OWN, OWN_NETWORKS, OWN_CNN = "own_inr", "own_networks", "own_cnn"
# What a user may say of networks whose files do not.
_GIVEN = (
    *("image_size", "pixel_mean", "pixel_std", "heads", "norm_eps"),
    *("stem_stride", "stem_pool", "strides", "stride_first", "activation"),
)
# What kind of networks a data set's config is for.
_FAMILIES = dict.fromkeys(("digits", "mnist_inr", "fmnist_inr", *_NFN, OWN), "inr") | dict.fromkeys(
    ("digits_cnn", "cifar10_gs", "cifar10_wild_park", *_SMALL_CNN_ZOO, OWN_NETWORKS, OWN_CNN), "cnn"
)


def from_config(config: Any) -> Zoo:
    """The zoo of a config, with weights on the host; downloaded and prepared if need be.

    Raises:
      UserError: no such zoo, or anything wrong with its files.
    """
    dataset = config["dataset"]
    if config.get("in_memory"):
        raise UserError(
            f"this run was trained on the zoo {dataset!r} in memory; give it in Python, as in "
            "probegen_jax.load(RUN, zoo=zoo)"
        )
    data_dir = _path(config.get("data_dir"))
    zoo_dir = _path(config.get("zoo_dir"))
    if zoo_dir is not None and dataset in _FAMILIES:
        return _built(config, zoo_dir, _FAMILIES[dataset])
    if dataset in PUBLISHED:
        # Half a second to import, and only these zoos need it.
        from probegen_jax.zoo.prepared.builders import Request
        from probegen_jax.zoo.published import loading

        request = Request(
            manual_dir=_path(config.get("manual_dir")),
            splits_file=_path(config.get("splits_file")),
            skip_bad=config.get("skip_bad", False),
            url=config.get("download_url"),
            sha256=config.get("download_sha256"),
        )
        mirror = request.url or request.sha256
        if request.manual_dir is not None and mirror:
            raise UserError(
                f"manual_dir is {request.manual_dir} and nothing is downloaded then, but "
                f"download_url or download_sha256 is {mirror}; leave out one of them"
            )
        options = {"fidelity": config["fidelity"]} if "fidelity" in config else {}
        return loading.load(
            dataset, data_dir, split=config.get("split", "auto"), request=request, **options
        )
    if dataset == OWN:
        return _own(config, data_dir, lambda: _own_spec(config))
    if dataset == OWN_NETWORKS:
        return _own(config, data_dir, lambda: _own_network(config))
    if dataset == OWN_CNN:
        return _own(config, data_dir, lambda: cnn_spec(config))
    if dataset in BUILT_IN:
        return importlib.import_module(f"probegen_jax.factory.builtin.{dataset}").load(data_dir)
    names = ", ".join((*BUILT_IN, *PUBLISHED))
    own = f"{OWN}, {OWN_CNN} or {OWN_NETWORKS}"
    raise UserError(f"dataset is {dataset!r}; choose {names}, {own}")


def _built(config: Any, zoo_dir: pathlib.Path, family: str) -> Zoo:
    elsewhere = [key for key in ("manual_dir", "networks_dir") if config.get(key)]
    if elsewhere:
        raise UserError(
            f"zoo_dir is {zoo_dir} and {elsewhere[0]} is {config[elsewhere[0]]}; leave out one of "
            "them"
        )
    from probegen_jax.zoo.prepared import built_zoos

    return built_zoos.load(zoo_dir, family, config.get("fidelity", "faithful"))


def _own(
    config: Any, data_dir: pathlib.Path | None, make_spec: Callable[[], NetworkSpec | None]
) -> Zoo:
    from probegen_jax.zoo.own import files_and_targets

    folder, targets = _path(config["networks_dir"]), _path(config["targets_csv"])
    if folder is None or targets is None:
        raise UserError(
            "a zoo of your own needs --config.networks_dir=DIR and --config.targets_csv=FILE"
        )
    if config["task"] not in TASKS:
        raise UserError(f"task is {config['task']!r}; choose from {', '.join(TASKS)}")
    return files_and_targets.from_folder(
        folder,
        targets,
        make_spec(),
        read_options(config),
        given={key: config.get(key) for key in _GIVEN},
        task=config["task"],
        num_outputs=config["num_classes"] or None,
        val_share=config["val_share"],
        test_share=config["test_share"],
        skip_bad=config["skip_bad"],
        data_dir=data_dir,
    )


def _own_spec(config: Any) -> PointSpec:
    """A SIREN, unless an activation or an encoding is given."""
    if config["grid"] not in ("xy", "ij"):
        raise UserError(f"grid is {config['grid']!r}; choose xy or ij")
    values = {
        "kind": "siren",
        "hidden": config["hidden"],
        "in_dim": config["in_dim"],
        "out_dim": config["channels"],
        **{key: config[key] for key in ("w0", "output_shift", "grid")},
        "w0_first": config.get("w0_first"),
    }
    of_field = ("activation", "encoding", "frequencies", "first_octave", "width")
    given = {key: config[key] for key in of_field if config.get(key) is not None}
    if given:
        values |= {"kind": "field", "activation": "sine", **given}
    return registry.points_from_json(values, "settings")


def _own_network(config: Any) -> NetworkSpec | None:
    """What the user's own file defines; None where the networks' files tell."""
    return function.named(config["network"]) if config.get("network") else None


def read_options(config: Any) -> ReadOptions:
    """How files of networks are read, by a run's config or a dict of it."""
    given = {field.name: config.get(field.name) for field in dataclasses.fields(ReadOptions)}
    given = {name: value for name, value in given.items() if value is not None}
    if config.get("dataset") in _NFN:
        given |= {name: getattr(NFN_KEYS, name) for name in ("layer_key", "last_layer_key")}
    return typed(ReadOptions, given, "settings")


def _path(value: str | None) -> pathlib.Path | None:
    return pathlib.Path(value).expanduser() if value else None
