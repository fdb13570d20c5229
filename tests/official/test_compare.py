"""Both ways between our runs and PyTorch's, through the commands, on the built-in zoo."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other

from benchmarks import torch_loop
from probegen_jax import compare, evaluate, settings, train
from probegen_jax.errors import UserError
from probegen_jax.method import dead_leaves_files
from probegen_jax.method.generators.registry import METHODS
from probegen_jax.networks.cnn.published import CIFAR10
from probegen_jax.official import files
from probegen_jax.zoo.files import torch_files

CONFIG = "configs/digits.py"
SMALL = (
    "--config.num_epochs=2",
    "--config.num_seeds=2",
    "--config.head_width=32",
    "--config.head_depth=3",
    "--config.report=False",
)


@pytest.fixture(scope="module")
def place(digits_dir):
    return f"--config.data_dir={digits_dir}"


def trained(tmp_path_factory, place, arg):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    config = settings.parse(["train", f"--config={CONFIG}:{arg}", place, *SMALL], "").config
    return workdir, train.train(config, str(workdir))


@pytest.fixture(scope="module")
def probegen(tmp_path_factory, place):
    return trained(tmp_path_factory, place, "probegen,16")


@pytest.fixture(scope="module")
def uniform(tmp_path_factory, place):
    return trained(tmp_path_factory, place, "uniform,16")


def run(tmp_path, place, *arguments, arg="probegen,16"):
    out = tmp_path / "compare.json"
    compare.main(["compare", f"--config={CONFIG}:{arg}", place, *SMALL, f"--out={out}", *arguments])
    return json.loads(out.read_text())


def test_our_run_exported_scores_the_same_as_a_checkpoint(probegen, place, tmp_path, capsys):
    workdir, result = probegen
    exported = run(tmp_path, place, f"--workdir={workdir}", f"--export={tmp_path}/ours.pth")
    assert exported["exported"] == [f"{tmp_path}/ours-seed{seed}.pth" for seed in (0, 1)]
    state = torch.load(tmp_path / "ours-seed0.pth", weights_only=True)
    assert list(state)[:4] == [
        "input",
        "tokens_generator.0.weight",
        "tokens_generator.0.bias",
        "tokens_generator.1.weight",
    ]
    capsys.readouterr()
    checkpoints = [f"--torch_checkpoint={path}" for path in exported["exported"]]
    compared = run(tmp_path, place, f"--workdir={workdir}", *checkpoints)
    for theirs, ours in zip(compared["torch"], result["seeds"], strict=True):
        assert {s: theirs[s] for s in ("val", "test")} == {
            s: ours["last"][s] for s in ("val", "test")
        }
    shown = capsys.readouterr().out
    assert "digits, probegen-16: accuracy on 120 and 240 networks" in shown
    mean = f"{result['mean']:.4f} ± {result['std']:.4f}"
    assert [line.split("  ")[0] for line in shown.splitlines() if line.endswith(mean)][:2] == [
        "PyTorch checkpoint, evaluated here (2 seeds)",
        "ours, last step (2 seeds)",
    ]


def test_fixed_probes_go_beside_the_head(uniform, place, tmp_path):
    workdir, result = uniform
    arg = "uniform,16"
    exported = run(tmp_path, place, f"--workdir={workdir}", f"--export={tmp_path}/u.pth", arg=arg)
    heads, probes = exported["exported"][::2], exported["exported"][1::2]
    assert probes[0] == f"{tmp_path}/u-seed0.probes.pth"
    assert next(iter(torch.load(heads[0], weights_only=True))) == "points_mixer.0.weight"
    compared = run(
        tmp_path,
        place,
        *(f"--torch_checkpoint={path}" for path in heads),
        *(f"--torch_probes={path}" for path in probes),
        arg=arg,
    )
    for theirs, ours in zip(compared["torch"], result["seeds"], strict=True):
        assert theirs["test"] == ours["last"]["test"]
    with pytest.raises(UserError, match=r"holds no probes, .* add --torch_seed=1"):
        run(tmp_path, place, f"--torch_checkpoint={heads[0]}", arg=arg)
    with pytest.raises(UserError, match=r"it should hold one tensor named 'input'"):
        run(
            tmp_path,
            place,
            f"--torch_checkpoint={heads[0]}",
            f"--torch_probes={heads[0]}",
            arg=arg,
        )


def test_a_method_that_the_official_code_does_not_have_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "mine", METHODS["vanilla"])
    (tmp_path / "theirs.pth").touch()
    with pytest.raises(UserError, match="method is 'mine', which the official code does not have"):
        run(tmp_path, place, f"--torch_checkpoint={tmp_path}/theirs.pth", arg="mine,16")


def test_a_first_frequency_that_the_official_code_does_not_have_is_refused(tmp_path):
    (tmp_path / "theirs.pth").touch()
    flags = ["--config.w0_first=30", f"--torch_checkpoint={tmp_path}/theirs.pth"]
    with pytest.raises(UserError, match=r"w0_first is 30\.0, but the official code has one w0"):
        compare.main(["compare", "--config=configs/own_inr.py", *flags, f"--out={tmp_path}/out"])


@pytest.mark.parametrize("arg", ("probegen,16", "uniform,16"))
def test_what_pytorch_trained_scores_here_as_there(arg, place, tmp_path, capsys):
    options = ["--config.num_seeds=1", "--config.seed=3", f"--save={tmp_path}", "--lean"]
    torch_loop.main(["x", f"--config={CONFIG}:{arg}", place, *SMALL, *options])
    (theirs,) = json.loads(capsys.readouterr().out)["seeds"]
    (tmp_path / "log.csv").write_text(
        "exp_name,epoch,global_step,train_loss,val_loss,val_acc,test_acc,val_kendalltau,"
        "test_kendalltau,test_loss\n"
        "mine,10,500,1.0,1.0,0.9,0.6,,,1.0\n"
        "mine,21,1000,0.9,1.0,0.8,0.7,,,1.0\n"
    )
    seed = ["--torch_seed=3"] if arg.startswith("uniform") else []
    checkpoint = f"--torch_checkpoint={tmp_path}/seed3.pth"
    result = run(tmp_path, place, checkpoint, f"--torch_log={tmp_path}/log.csv", *seed, arg=arg)
    (here,) = result["torch"]
    for split, number in (("val", 120), ("test", 240)):
        assert here[split] == pytest.approx(theirs[split], abs=1.01 / number)
    assert result["torch_logs"][0]["last"] == {"step": 1000, "val": 0.8, "test": 0.7}
    assert result["torch_logs"][0]["best"] == {"step": 500, "val": 0.9, "test": 0.6}


def test_checkpoints_that_do_not_fit_are_told_with_shapes_and_remedy(probegen, place, tmp_path):
    workdir, _ = probegen
    run(tmp_path, place, f"--workdir={workdir}", f"--export={tmp_path}/ours.pth")
    checkpoint = f"--torch_checkpoint={tmp_path}/ours-seed0.pth"
    remedy = r"use --config=configs/digits.py:probegen,16$"
    with pytest.raises(UserError, match=rf"input is \(16, 32\), expected \(8, 32\).*{remedy}"):
        run(tmp_path, place, checkpoint, arg="probegen,8")
    with pytest.raises(UserError, match=rf"linear_2_no_acts.*expected \(16, 2\).*{remedy}"):
        run(tmp_path, place, checkpoint, arg="vanilla,16")
    remedy = r"use .*:probegen,16 --config.head_width=32$"
    with pytest.raises(UserError, match=rf"0.weight is \(32, 16\), expected \(64, 16\).*{remedy}"):
        run(tmp_path, place, checkpoint, "--config.head_width=64")
    remedy = r" and 1 more; use .*:probegen,16 --config.latent_dim=32 --config.generator_depth=2$"
    options = ("--config.latent_dim=8", "--config.generator_depth=1")
    with pytest.raises(UserError, match=rf"input is \(16, 32\), expected \(16, 8\).*{remedy}"):
        run(tmp_path, place, checkpoint, *options)
    state = torch.load(tmp_path / "ours-seed0.pth", weights_only=True)
    state["points_mixer.4.weight"] = torch.zeros(1, 32)
    state["points_mixer.4.bias"] = torch.zeros(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"another kind of data set \(outputs 1, here 10\)"):
        run(tmp_path, place, f"--torch_checkpoint={tmp_path}/other.pth")
    with pytest.raises(UserError, match=r"holds its probes; leave out --torch_seed"):
        run(tmp_path, place, checkpoint, "--torch_seed=1")


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("step,loss\n1,2\n", r"its columns are step, loss; missing global_step, val_acc, test_acc"),
        ("", "its columns are none"),
        ("global_step,val_acc,test_acc\n", "has no rows"),
        ("global_step,val_acc,test_acc\n500,,\n", r"line 2: .*val_acc='', test_acc=''; expected"),
    ),
)
def test_logs_that_are_none_are_told(text, message, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        files.read_log(path, "accuracy")


def test_flags_that_do_not_go_together_are_told(probegen, place, tmp_path):
    workdir, _ = probegen
    for arguments, message in (
        ((), "nothing to compare"),
        (("--export=x.pth", "--torch_checkpoint=x"), "say which with --workdir"),
        (("--torch_checkpoint=x", "--torch_log=x", "--torch_log=y"), "2 times --torch_log"),
        (("--torch_checkpoint=nowhere.pth",), "no file at nowhere.pth"),
        ((f"--workdir={workdir}", f"--export={tmp_path}/a/b.pth"), "there is no folder"),
        ((f"--workdir={workdir}", "--config.head_width=64"), r"head_width \(32 there, 64 here\)"),
        ((f"--workdir={tmp_path}",), "is not a run folder"),
    ):
        with pytest.raises(UserError, match=message):
            run(tmp_path, place, *arguments)
    (tmp_path / "ours.pth").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"ours.pth exists; delete it"):
        run(tmp_path, place, f"--workdir={workdir}", f"--export={tmp_path}/ours.pth")
    assert (tmp_path / "ours.pth").read_bytes() == b"precious"
    assert not (tmp_path / "compare.json").exists()


def test_probes_follow_the_official_seed(tmp_path):
    """As the official code draws them right after it sets its seeds."""
    torch.manual_seed(1)
    theirs = torch.rand((16, 2)) * 2 - 1
    np.testing.assert_array_equal(2 * torch_files.uniform(1, (16, 2)) - 1, theirs.numpy())

    from sklearn.model_selection import train_test_split

    (tmp_path / "train" / "leaves").mkdir(parents=True)
    for number in range(20):
        pixels = np.full((4, 4, 3), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "train" / "leaves" / f"{number:02}.png")
    np.random.seed(1)
    chosen = train_test_split(np.arange(20), test_size=5)[1]
    images = dead_leaves_files.read(tmp_path, 5, (4, 4, 3), 1, CIFAR10, official_choice=True)
    first = CIFAR10.normalise(np.float32(chosen / 255)[:, None, None, None] + np.zeros(3))
    np.testing.assert_allclose(images[:, :1, :1], first, rtol=1e-5)


def test_published_figures_are_set_beside_with_their_doubt():
    result = {
        "dataset": "cifar10_gs",
        "method": "probegen",
        "num_probes": 128,
        "metric": "kendall_tau",
        "networks": {"val": 3, "test": 4},
        "torch": [],
        "torch_logs": [],
        "ours": None,
        "published": {"value": 0.957, "source": "Kahana et al.", "verified": False},
    }
    assert compare.table(result).splitlines()[-1].split("  ")[0] == "published (Kahana et al.)"
    assert compare.table(result).endswith("0.957 ?")


def test_evaluate_says_the_same_figures(probegen, digits_dir, tmp_path, capsys):
    workdir, result = probegen
    evaluate.main(["evaluate", str(workdir), f"--data_dir={digits_dir}"])
    shown = capsys.readouterr().out
    assert f"last step, test (240 networks): accuracy {result['mean']:.4f}" in shown
    assert f"the same figures as in {workdir}/result.json" in shown


def test_evaluate_tells_other_figures(probegen, tmp_path, capsys):
    _, result = probegen
    found = {which: [seed[which] for seed in result["seeds"]] for which in ("last", "best")}
    assert evaluate.agrees(tmp_path, found, result)
    other = copy.deepcopy(found)
    other["best"][0]["val"] += 1e-5
    assert evaluate.agrees(tmp_path, other, result)
    assert "within 0.001 of the figures in" in capsys.readouterr().out
    other["last"][1]["test"] = 0.125
    assert not evaluate.agrees(tmp_path, other, result)
    message = f"seed 1, last, test: 0.125000, there {found['last'][1]['test']:.6f}"
    assert message in capsys.readouterr().out


def test_evaluate_wants_one_finished_run(probegen, tmp_path):
    workdir, _ = probegen
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    with pytest.raises(UserError, match="is not finished"):
        evaluate.main(["evaluate", str(tmp_path)])
    with pytest.raises(UserError, match="is not a run folder"):
        evaluate.main(["evaluate", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="give one run folder"):
        evaluate.main(["evaluate"])
