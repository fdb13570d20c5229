"""Zoos of ResNets as people keep them: model folders, and bare files of torch."""

import copy
import json

import jax
import numpy as np
import pytest

from configs import own_networks
from probegen_jax import describe_zoo, evaluate, export, predict, train
from probegen_jax.errors import UserError
from probegen_jax.networks.pixels import Pixels
from probegen_jax.networks.resnet.resnet import ResNetSpec
from probegen_jax.runs import zoo_facts
from probegen_jax.runs.zoo_from_config import from_config
from probegen_jax.zoo.own import reading
from probegen_jax.zoo.zoo import Stored

torch = pytest.importorskip("torch")

from plain_torch import PlainResNet, with_random_statistics
from safetensors.torch import save_file

SPEC = ResNetSpec((4, 8), (1, 1), stem_width=4, num_classes=3, image_shape=(8, 8, 1))
NUMBER = 10


@pytest.fixture(scope="module")
def modules():
    torch.manual_seed(0)
    return [with_random_statistics(PlainResNet((4, 8), (1, 1), 1, 3), n) for n in range(NUMBER)]


def config_of(folder, paths, **changes):
    lines = ["path,target", *(f"{path},{n % 2}" for n, path in enumerate(paths))]
    (folder / "targets.csv").write_text("\n".join(lines))
    config = own_networks.get_config("")
    config.networks_dir, config.targets_csv = str(folder), str(folder / "targets.csv")
    config.data_dir = str(folder.parent / "cache")
    config.update(changes)
    return config


def files_of(folder, modules):
    folder.mkdir()
    for n, module in enumerate(modules):
        torch.save({"state_dict": module.state_dict(), "epoch": n}, folder / f"{n}.pth")
    return [f"{n}.pth" for n in range(len(modules))]


def check_answers(zoo, modules):
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 1), np.float32)
    theirs = [each(torch.tensor(images.transpose(0, 3, 1, 2))).detach() for each in modules]
    ours = jax.jit(zoo.spec.respond)(zoo.read(np.arange(len(modules))), images)
    np.testing.assert_allclose(ours, np.stack(theirs), atol=1e-5)


def test_files_of_torch_are_a_zoo_and_large_ones_stay_where_they_are(
    tmp_path, modules, monkeypatch
):
    paths = files_of(tmp_path / "zoo", modules)
    with pytest.raises(UserError, match=r"0.pth: is a ResNet, .*; give --config.image_size=N"):
        from_config(config_of(tmp_path / "zoo", paths))
    config = config_of(tmp_path / "zoo", paths, image_size=8)
    zoo = from_config(config)
    assert zoo.spec == SPEC and zoo.spec.pixels is None
    check_answers(zoo, modules)
    assert zoo_facts.facts(zoo, config) == zoo_facts.facts(from_config(config), config)
    monkeypatch.setattr(reading, "_LARGE", 10)
    stored = from_config(config)
    assert isinstance(stored.weights, Stored)
    check_answers(stored, modules)


def test_model_folders_say_how_images_were_normalised(tmp_path, modules):
    config = {"pretrained_cfg": {"input_size": [1, 8, 8], "mean": [0.4], "std": [0.2]}}
    for n, module in enumerate(modules):
        folder = tmp_path / "zoo" / f"m{n}"
        folder.mkdir(parents=True)
        save_file(module.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
    paths = [f"m{n}" for n in range(NUMBER)]
    zoo = from_config(config_of(tmp_path / "zoo", paths))
    assert zoo.spec == SPEC and zoo.spec.pixels == Pixels((0.4,), (0.2,))
    check_answers(zoo, modules)
    said = {"do_normalize": True, "image_mean": [0.1], "image_std": [0.3]}
    (tmp_path / "zoo" / "m0" / "preprocessor_config.json").write_text(json.dumps(said))
    zoo = from_config(config_of(tmp_path / "zoo", paths))
    assert zoo.spec.pixels == Pixels((0.1,), (0.3,))
    zoo = from_config(config_of(tmp_path / "zoo", paths, pixel_mean=(0.5,), pixel_std=(0.6,)))
    assert zoo.spec.pixels == Pixels((0.5,), (0.6,))


def test_what_is_no_resnet_like_the_first_is_told_or_left_out(tmp_path, modules, capsys):
    paths = files_of(tmp_path / "zoo", modules)
    torch.save(PlainResNet((4, 8), (2, 1), 1, 3).state_dict(), tmp_path / "zoo" / "3.pth")
    torch.save({"gru.weight_ih_l0": torch.ones(3, 3)}, tmp_path / "zoo" / "5.pth")
    config = config_of(tmp_path / "zoo", paths, image_size=8)
    with pytest.raises(UserError, match=r"3.pth: has layer1.1.conv1.weight, which a ResNet of"):
        from_config(config)
    config.skip_bad = True
    assert len(from_config(config)) == NUMBER - 2
    assert "2 bad networks were left out" in capsys.readouterr().out
    (tmp_path / "zoo" / "5.pth").rename(tmp_path / "zoo" / "0.pth")
    config.skip_bad = False
    with pytest.raises(UserError, match=r"0.pth: is no vision transformer.*; is no ResNet under"):
        from_config(config)


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
def test_runs_on_them_train_predict_and_are_exported(tmp_path, modules, large, monkeypatch, capsys):
    if large:
        monkeypatch.setattr(reading, "_LARGE", 10)
    many = [copy.deepcopy(modules[n % NUMBER]) for n in range(30)]
    for n, module in enumerate(many):
        with torch.no_grad():
            module.linear.bias[0] = 3 * (-1) ** n
    paths = files_of(tmp_path / "zoo", many)
    config_of(tmp_path / "zoo", paths)
    run, model = str(tmp_path / "run"), str(tmp_path / "model")
    flags = ["", "--config=configs/own_networks.py:4", "--config.image_size=8"]
    flags += [f"--config.networks_dir={tmp_path}/zoo", f"--config.data_dir={tmp_path}/cache"]
    flags += [f"--config.targets_csv={tmp_path}/zoo/targets.csv"]
    describe_zoo.main(flags)
    assert "zoo: 30 networks of 1,283 weights" in capsys.readouterr().out
    flags += [f"--workdir={run}", "--config.num_epochs=20", "--config.batch_size=10"]
    flags += ["--config.learning_rate=0.01", "--config.head_depth=2"]
    train.main([*flags, f"--config.data.mode={'stream' if large else 'auto'}"])
    evaluate.main(["", run])
    assert "the same figures as" in capsys.readouterr().out
    export.main(["", run, model])
    for of in (run, model):
        out = tmp_path / "out.csv"
        predict.main(["", of, str(tmp_path / "zoo"), f"--out={out}"])
        rows = [line.split(",") for line in out.read_text().splitlines()[1:]]
        assert sum(row[1] == str(n % 2) for n, row in enumerate(rows)) >= 27
        out.unlink()
