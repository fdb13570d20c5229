"""What a user gets for a mistake on the command line: one line that names it."""

import subprocess
import sys
import types

import pytest
from conftest import REPO

from probegen_jax import settings, train
from probegen_jax.config_files import config_name
from probegen_jax.errors import UserError

DIGITS = f"--config={REPO}/configs/digits.py"


def parse(*arguments):
    return settings.parse(["train", *arguments], "the usage").config


def test_config_argument_and_overrides():
    config = parse(f"{DIGITS}:vanilla,64", "--config.learning_rate=1", "--config.num_seeds", "2")
    assert (config.method, config.num_probes, config.num_seeds) == ("vanilla", 64, 2)
    assert config.learning_rate == 1.0
    assert parse(f"{DIGITS}:32").method == "probegen"
    assert parse(DIGITS).num_probes == 128
    assert parse(f"{DIGITS}:pixels").num_probes == parse(f"{DIGITS}:pixels,64").num_probes == 64
    assert parse(f"{DIGITS}:pixels", "--config.pixels_size=28").num_probes == 784


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no config given; say which with --config=configs/digits.py"),
        (["--config=nowhere.py"], "no config file at nowhere.py"),
        ([DIGITS, "--config.num_prob=3"], "unknown config key 'num_prob', meaning 'num_probes'"),
        ([DIGITS, "--config.mesh.seed=3"], "unknown config key 'seed', meaning 'seeds'"),
        ([DIGITS, "--config.mesh.seeds=0"], "mesh.seeds is 0; give at least 1"),
        ([DIGITS, "--config.data.mode=disk"], "data.mode is 'disk'; choose from auto, resident"),
        ([DIGITS, "--config.num_probes=many"], "--config.num_probes=many: invalid literal for int"),
        ([DIGITS, "--config.num_probes=1.5"], "--config.num_probes=1.5: invalid literal for int"),
        ([DIGITS, "--config.learning_rate=fast"], "learning_rate=fast: could not convert string"),
        ([DIGITS, "--config.num_probes=0"], "num_probes is 0; give at least 1"),
        ([f"{DIGITS}:probegen,0"], "num_probes is 0; give at least 1"),
        ([DIGITS, "--config.batch_size=-4"], "batch_size is -4; give at least 1"),
        ([DIGITS, "--config.learning_rate=0"], "learning_rate is 0.0; it must be above 0"),
        ([DIGITS, "--config.learning_rate=nan"], "learning_rate is nan; it must be above 0"),
        ([DIGITS, "--config.seed=-1"], "seed is -1; it must not be negative"),
        ([DIGITS, "--config.matmul_precision=tf32"], "matmul_precision is 'tf32'; choose from"),
        ([DIGITS, "--config.sine=slow"], "sine is 'slow'; choose from auto, fast, exact"),
        ([DIGITS, "--config.compute_dtype=int8"], "compute_dtype is 'int8'; choose from float32"),
        ([f"{DIGITS}:pixels,32"], "num_probes is 32, but pixels has 64 by pixels_size; change pix"),
        ([f"{DIGITS}:pixels", "--config.pixels_size=0"], "pixels_size is 0; give at least 1"),
        ([f"{DIGITS}:images"], "method is 'images', which takes its probes from probe_images; say"),
        ([DIGITS, "--config.generator=fc"], "generator is 'fc'; choose from convolutional, dense"),
        ([DIGITS, "--config.generator_activation=x"], "generator_activation is 'x'; choose from"),
        ([DIGITS, "--config.block_size=0"], "block_size is 0; it must be at least 1"),
        ([DIGITS, "--workdirs=x"], "Unknown command line flag 'workdirs'"),
        ([DIGITS, "stray"], "'stray' is not a flag"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value)


def test_a_shipped_config_is_read_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = parse("--config=configs/digits.py:vanilla,64", "--config.num_seeds=2")
    assert (config.dataset, config.method, config.num_probes) == ("digits", "vanilla", 64)
    assert config.num_seeds == 2
    assert parse("--config", "configs/mnist.py").dataset == "mnist_inr"
    assert config_name(["train", "--config=configs/mnist.py:64"]) == "mnist"
    message = (
        r"no config file at .*nist.py; .*: configs/cifar10_gs.py, .*, configs/small_cnn_zoo.py$"
    )
    for missing in ("configs/nist.py", f"{tmp_path}/configs/mnist.py", "other/mnist.py"):
        with pytest.raises(UserError, match=message):
            parse(f"--config={missing}")


def test_a_config_of_ones_own_comes_first_and_imports_shipped_ones(tmp_path, monkeypatch):
    """Though the folder is a package, as in many projects, and was imported by something else."""
    monkeypatch.chdir(tmp_path)
    theirs = {name: types.ModuleType(name) for name in ("configs", "configs.base")}
    for name, module in theirs.items():
        monkeypatch.setitem(sys.modules, name, module)
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "base.py").write_text("PROBES = 7")
    (folder / "digits.py").write_text(
        "from configs import base, common\n"
        "def get_config(arg=''):\n"
        "  return common.config_for('digits', str(base.PROBES))\n"
    )
    assert parse("--config=configs/digits.py").num_probes == 7
    assert parse("--config=configs/mnist.py").num_probes == 128
    assert {name: sys.modules[name] for name in theirs} == theirs


def test_a_config_file_that_fails_is_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n  return 1 / 0\n")
    with pytest.raises(UserError, match="ZeroDivisionError: division by zero"):
        parse(f"--config={path}")
    path.write_text("from ml_collections import ConfigDict\nget_config = ConfigDict")
    with pytest.raises(UserError, match=r"mine.py: the config lacks the key 'dataset'"):
        parse(f"--config={path}")


HEAD = (
    "from configs import digits\n\n\ndef get_config(arg=''):\n    config = digits.get_config(arg)\n"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}    config.seed = nuber\n", r"mine.py, line 6: NameError: name 'nuber' is not"),
        (
            f"{HEAD}    config.lern = config.lerning_rate\n",
            r"mine.py, line 6: AttributeError: .*lern",
        ),
        (f"{HEAD}    config.mesh = int('x')\n", r"mine.py, line 6: ValueError: invalid literal"),
        (f"{HEAD}    config.seed = 'one'\n", r"mine.py, line 6: TypeError: .*seed"),
        ("import nowhere\n", r"mine.py, line 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("from configs import nowhere\n", r"mine.py, line 1: ImportError: cannot import name"),
        ("open('/nowhere')\n", r"mine.py: OSError: .*nowhere"),
        ("\ndef get_config(:\n", r"mine.py, line 2: SyntaxError: invalid syntax"),
        ("x = 1\n", r"mine.py has no function get_config\(\)"),
        (
            "def get_config(arg=''):\n    pass\n",
            r"get_config\(\) must return an ml_collections Con",
        ),
        (
            f"{HEAD}    config.hidden = (8, 'x')\n    return config\n",
            r"hidden is 'x'; it should be a",
        ),
        (f"{HEAD}    config.mesh = {{}}\n    return config\n", None),
    ],
)
def test_a_mistake_in_a_config_file_is_told_with_its_line(text, message, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    if message is None:
        assert parse(f"--config={tmp_path}/mine.py")
        return
    with pytest.raises(UserError, match=message) as caught:
        parse(f"--config={tmp_path}/mine.py")
    assert "\n" not in str(caught.value)


def test_a_mistake_in_what_a_config_imports_is_told_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from configs import base\n")
    (tmp_path / "base.py").write_text("\n\n1 / 0\n")
    with pytest.raises(UserError, match=r"base.py, line 3: ZeroDivisionError: division by zero"):
        parse("--config=mine.py")


def test_a_wrong_type_within_a_tuple_is_told():
    own = f"--config={REPO}/configs/own_inr.py"
    with pytest.raises(UserError, match=r"hidden is 8.5; it should be a whole number"):
        parse(own, "--config.hidden=(8, 8.5)")


def test_help_shows_the_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    assert capsys.readouterr().out == "the usage\n"


def test_an_unknown_method_stops_before_the_folder_is_made(tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match="method is 'vanila'"):
        train.main(["train", f"{DIGITS}:vanila", f"--workdir={workdir}"])
    assert not workdir.exists()


def test_the_process_exits_with_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "probegen_jax.train", "--config=configs/digits.py:probegen,0"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: num_probes is 0; give at least 1 with --config.num_probes=N\n"
