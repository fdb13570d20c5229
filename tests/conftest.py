"""Strict settings for every test, in equinox's manner; they must be set before jax starts."""

import os

# One device: training uses all there are. `on_devices.py` has several.
os.environ["JAX_PLATFORMS"] = "cpu"

import contextlib
import fcntl
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import jax
import jaxtyping
import pytest
from jax._src import compiler

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# What pytest's workers share, in a folder of the process that starts them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _folder = tempfile.TemporaryDirectory(prefix="probegen_tests")
    os.environ["PROBEGEN_TESTS_SHARE"] = _folder.name
SHARE = pathlib.Path(os.environ["PROBEGEN_TESTS_SHARE"])

# What one test has compiled serves the others, and the processes that they start.
for _name, _value in (
    ("jax_compilation_cache_dir", str(SHARE / "compiled")),
    ("jax_persistent_cache_min_compile_time_secs", 0.5),
    # With a bound, jax locks the folder: nobody reads what another has half written.
    ("jax_compilation_cache_max_size", 1 << 40),
):
    jax.config.update(_name, _value)
    os.environ[_name.upper()] = str(_value)

# Now, before a command that some test runs can split the CPU for all tests after it.
assert len(jax.devices()) == 1

# Shapes and types of every annotated function of the package are checked as the tests call it.
jaxtyping.install_import_hook("probegen_jax", "beartype.beartype").__enter__()

REPO = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of large reference data beside the repo; tests that need it skip without it."""
    folder = REPO.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}")
    return folder


# Where XLA optimizes little, it also leaves out two things that take almost half of its time on a
# CPU: splitting small programs for several threads, and its newer way to write fused loops, which
# jax 0.12 always has.
QUICK = {"xla_cpu_parallel_codegen_split_count": 1}
if jax.__version_info__ < (0, 11):
    QUICK["xla_cpu_use_fusion_emitters"] = False
QUICK_FLAGS = " ".join(f"--{name}={value}".lower() for name, value in QUICK.items())
_compile_options = compiler.get_compile_options


def _quick(*args, **kwargs):
    options = _compile_options(*args, **kwargs)
    if jax.config.read("jax_disable_most_optimizations"):
        options.env_option_overrides = [*options.env_option_overrides, *QUICK.items()]
    return options


compiler.get_compile_options = _quick


def _optimize(fully: bool) -> None:
    """How much XLA optimizes here, and in processes started from here."""
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(not fully)
    os.environ["XLA_FLAGS"] = "" if fully else QUICK_FLAGS
    if jax.config.read("jax_disable_most_optimizations") == fully:
        jax.config.update("jax_disable_most_optimizations", not fully)
        jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def _optimized(request):
    """XLA optimizes little, since compiling is most of what tests take.

    Where figures or bits of what users run are looked at, a module says
    `pytestmark = pytest.mark.optimized`.
    """
    _optimize(request.node.get_closest_marker("optimized") is not None)


@pytest.fixture(autouse=True)
def _optimized_test(request, _optimized):
    """The same where a single test says so."""
    _optimize(request.node.get_closest_marker("optimized") is not None)


@contextlib.contextmanager
def _made_once(name: str) -> Iterator[pathlib.Path]:
    """A folder that all workers share; one of them makes it, the others wait."""
    with (SHARE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield SHARE / name


@pytest.fixture(scope="session")
def digits_dir() -> pathlib.Path:
    """A cache folder that holds the built-in zoo, fitted once for all tests of all workers."""
    from probegen_jax.factory.builtin import digits

    with _made_once("digits") as folder:
        if not folder.exists():
            little = jax.config.read("jax_disable_most_optimizations")
            _optimize(True)
            digits.load(folder)
            _optimize(not little)
    return folder


@pytest.fixture(scope="session")
def built_zoos_dir() -> pathlib.Path:
    """A folder with small zoos, `inr` and `cnn`, built once; to be copied, not changed."""
    from probegen_jax import build_zoo

    with _made_once("zoos") as folder:
        if not folder.exists():
            common = ["--images=digits", "--num=12", "--seed=0"]
            inr = ["inr", *common, "--steps=2", "--hidden=4"]
            for flags in (inr, ["cnn", *common, "--space=digits_cnn"]):
                build_zoo.main(["", *flags, f"--out={SHARE / 'making' / flags[0]}"])
            (SHARE / "making").rename(folder)
    return folder


@pytest.fixture
def shared_zoo(built_zoos_dir, tmp_path, monkeypatch):
    """A copy of the zoos in the current folder, with a module beside their data that tells."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(built_zoos_dir, tmp_path / "zoos")
    (tmp_path / "zoos" / "payload.py").write_text("open('PWNED', 'w').close()\n")
    yield tmp_path / "zoos"
    assert not (tmp_path / "PWNED").exists()
