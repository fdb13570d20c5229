import pathlib

import numpy as np
import published_files
import pytest
from conftest import REPO

from probegen_jax import settings
from probegen_jax.describe_zoo import main as show
from probegen_jax.errors import UserError
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.runs.zoo_from_config import PUBLISHED, from_config
from probegen_jax.train import main as train


def config(name: str, *flags: str):
    return settings.parse(["x", f"--config={REPO}/configs/{name}.py", *flags], "").config


def own_flags(folder: pathlib.Path, number: int = 20) -> list[str]:
    """Makes NFN-style INRs with a CSV in `folder`; returns the flags for them."""
    save = pytest.importorskip("safetensors.numpy").save_file
    rng = np.random.default_rng(0)
    shapes = {"net.0.linear": (24, 2), "net.1.linear": (16, 24), "net.2": (3, 16)}
    lines = ["path,target"]
    for index in range(number):
        state = {}
        for name, shape in shapes.items():
            state[f"{name}.weight"] = rng.standard_normal(shape).astype(np.float32)
            state[f"{name}.bias"] = rng.standard_normal(shape[:1]).astype(np.float32)
        save(state, folder / f"{index}.safetensors")
        lines.append(f"{index}.safetensors,{index % 2}")
    (folder / "targets.csv").write_text("\n".join(lines))
    return [
        f"--config.networks_dir={folder}",
        f"--config.targets_csv={folder / 'targets.csv'}",
        f"--config.data_dir={folder / 'data'}",
        "--config.hidden=(24, 16)",
        "--config.channels=3",
        "--config.w0=20.0",
        "--config.output_shift=0.0",
        "--config.grid=ij",
        "--config.layer_key=net.{}.linear",
        "--config.last_layer_key=net.{}",
    ]


def test_a_zoo_of_ones_own(tmp_path):
    zoo = from_config(config("own_inr", *own_flags(tmp_path)))
    assert zoo.spec == SirenSpec((24, 16), 2, 3, 20.0, 0.0, "ij")
    assert (len(zoo), zoo.num_outputs) == (20, 2)


@pytest.mark.parametrize(
    ("flag", "first"), [("--config.w0_first=30", 30), ("--config.w0_first=7.5", 7.5)]
)
def test_the_first_layers_frequency(flag, first, tmp_path):
    zoo = from_config(config("own_inr", *own_flags(tmp_path), flag))
    assert zoo.spec.w0s == (first, 20)


OWN_BAD = {
    "--config.grid=yx": "grid is 'yx'; choose xy or ij",
    "--config.task=guess": "task is 'guess'; choose from classification, multilabel, regression",
    "--config.hidden=(0, 16)": "the networks' widths are",
    "--config.layer_key=net": "must hold one {}",
    "--config.val_share=-0.5": "val_share is -0.5 and test_share 0.2; give shares of at least 0",
    "--config.test_share=0.9": "val_share is 0.1 and test_share 0.9",
    "--config.networks_dir=": "needs --config.networks_dir=DIR",
    "--config.w0_first=high": "w0_first",
    "--config.last_layer_key=net.{}.{}": "must hold one {}",
    "--config.w0=30.0": None,
}


@pytest.mark.parametrize("flag", OWN_BAD)
def test_a_bad_setting_of_ones_own_zoo_is_told(flag, tmp_path):
    flags = [*own_flags(tmp_path), flag]
    if OWN_BAD[flag] is None:
        assert from_config(config("own_inr", *flags)).spec.w0 == 30
        return
    with pytest.raises(UserError) as error:
        from_config(config("own_inr", *flags))
    assert OWN_BAD[flag] in str(error.value)


def test_the_four_configs_have_the_papers_settings():
    names = ("mnist", "fmnist", "cifar10_gs", "cifar10_wild_park")
    configs = [config(f"{name}") for name in names]
    assert tuple(each.dataset for each in configs) == PUBLISHED[:4]
    for each in configs:
        assert (each.batch_size, each.learning_rate, each.num_probes) == (32, 3e-4, 128)
        assert (each.head_width, each.head_depth, each.eval_every) == (256, 6, 500)
    assert [each.num_epochs for each in configs] == [30, 30, 150, 30]
    assert [each.generator_depth for each in configs] == [2, 2, 6, 5]
    small = settings.parse(["x", f"--config={REPO}/configs/mnist.py:vanilla,64"], "").config
    assert (small.method, small.num_probes) == ("vanilla", 64)


@pytest.mark.parametrize("key", ["download_url", "download_sha256"])
def test_a_mirror_that_would_be_passed_over_is_told(key, tmp_path):
    flags = [f"--config.manual_dir={tmp_path}", f"--config.{key}=abc"]
    with pytest.raises(UserError, match=r"download_sha256 is abc; leave out one"):
        from_config(config("mnist", *flags))


def test_an_unknown_data_set_is_told():
    with pytest.raises(UserError, match="dataset is 'mnist'; choose digits, digits_cnn"):
        from_config({"dataset": "mnist"})


def test_the_commands_show_and_train_a_prepared_zoo(tmp_path, capsys):
    pytest.importorskip("torch")
    published_files.mnist_inr(tmp_path, 100)
    argv = [
        "x",
        f"--config={REPO}/configs/mnist.py:probegen,8",
        f"--config.manual_dir={tmp_path}",
        f"--config.data_dir={tmp_path / 'data'}",
    ]
    show(argv)
    shown = capsys.readouterr().out
    assert "the split is seeded" in shown
    assert "mnist_inr: 100 networks of 1,185 weights" in shown
    assert "published std" in shown

    small = ["--config.num_epochs=1", "--config.head_width=8", "--config.head_depth=2"]
    train([*argv, *small, f"--workdir={tmp_path / 'run'}"])
    assert (tmp_path / "run" / "result.json").exists()

    with pytest.raises(UserError, match=r"^split is 'mine'; choose auto, official, seeded$"):
        show([*argv, "--config.split=mine"])
