import signal
import subprocess
import sys
import textwrap

import published_files
import pytest
import together
from conftest import REPO

from probegen_jax.errors import UserError
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.published import loading


def run(code: str, *args: object, **kwargs) -> subprocess.CompletedProcess:
    """Runs Python code in a process of its own."""
    code = textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        **kwargs,
    )


def test_tensorflow_is_never_imported(tmp_path):
    pytest.importorskip("torch")
    published_files.mnist_inr(tmp_path, 40)
    published_files.fmnist_inr(tmp_path, 40)
    for top, channels in (("siren_cifar_wts", 3), ("siren_mnist_wts", 1), ("siren_fashion_wts", 1)):
        published_files.nfn_inr(tmp_path, top, [0, 45_000, 50_000], channels)
    for part in published_files.PARTS:
        published_files.small_cnn_zoo(tmp_path / part, part, 90)
    published_files.cifar10_wild_park(tmp_path, 4, 1)
    result = run(
        """
        import pathlib, sys
        from probegen_jax.zoo.prepared import builders, reading
        from probegen_jax.zoo.published import loading
        manual, data = map(pathlib.Path, sys.argv[1:])
        for name in loading.BUILDERS:
            request = builders.Request(manual_dir=manual)
            columns, rows = reading.read(loading.prepared(name, data, request=request))
            print(name, len(columns["path"]))
        assert "tensorflow" not in sys.modules
        """,
        tmp_path,
        tmp_path / "data",
    )
    assert result.returncode == 0, result.stderr
    for line in ("mnist_inr 40", "fmnist_inr 40", "cifar10_gs 10", "cifar10_wild_park 4"):
        assert line in result.stdout


@pytest.mark.parametrize("limit", [100_000, 190_000, 199_800])
def test_a_full_disk_is_told_and_leaves_nothing(limit, tmp_path):
    # A limit on the size of a file stands in for a full disk: it needs no root, and writing fails
    # at the same places.
    published_files.cifar10_gs(tmp_path, 180)
    result = run(
        """
        import pathlib, resource, signal, sys
        from probegen_jax.errors import UserError
        from probegen_jax.zoo.published import loading
        from probegen_jax.zoo.prepared.builders import Request
        manual, data, limit = sys.argv[1:]
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit),) * 2)
        try:
            loading.load("cifar10_gs", pathlib.Path(data),
                           request=Request(manual_dir=pathlib.Path(manual)))
        except UserError as error:
            print(error)
        """,
        tmp_path,
        tmp_path / "data",
        limit,
    )
    assert result.returncode == 0, result.stderr
    assert "cannot write the prepared zoo to" in result.stdout
    assert "(File too large); free some space, or choose another folder" in result.stdout
    assert not list((tmp_path / "data").rglob("dataset_info.json"))
    assert not list((tmp_path / "data").rglob("*array_record*"))


def test_what_a_killed_preparation_leaves_does_not_load(tmp_path):
    published_files.cifar10_gs(tmp_path, 900)
    result = run(
        """
        import os, pathlib, signal, sys
        from probegen_jax.zoo.prepared import builders
        from probegen_jax.zoo.published import loading, small_cnn_zoo
        manual, data = map(pathlib.Path, sys.argv[1:])
        example, seen = small_cnn_zoo.Cifar10Gs._example, []
        def dying(self, item):
            seen.append(item)
            if len(seen) == 90:  # in the second split: the first is written
                os.kill(os.getpid(), signal.SIGKILL)
            return example(self, item)
        small_cnn_zoo.Cifar10Gs._example = dying
        loading.prepared("cifar10_gs", data, request=builders.Request(manual_dir=manual))
        """,
        tmp_path,
        tmp_path / "data",
    )
    assert result.returncode == -signal.SIGKILL
    assert list((tmp_path / "data").rglob("*array_record*"))
    request = Request(manual_dir=tmp_path / "nowhere")
    with pytest.raises(UserError, match="no cifar10_gs zoo here"):
        loading.prepared("cifar10_gs", tmp_path / "data", request=request)
    builder = loading.prepared(
        "cifar10_gs", tmp_path / "data", request=Request(manual_dir=tmp_path)
    )
    assert sum(split.num_examples for split in builder.info.splits.values()) == 100
    assert not list((tmp_path / "data").rglob("incomplete.*"))


def test_two_processes_prepare_once(tmp_path):
    published_files.cifar10_gs(tmp_path, 900)
    code = """
        from probegen_jax.zoo.prepared import builders
        from probegen_jax.zoo.published import loading, small_cnn_zoo
        manual = pathlib.Path(sys.argv[1])
        example = small_cnn_zoo.Cifar10Gs._example
        def counting(self, item):
            hold()
            with (manual / "read").open("a") as file:
                file.write(f"{item}\\n")
            return example(self, item)
        small_cnn_zoo.Cifar10Gs._example = counting
        request = builders.Request(manual_dir=manual)
        builder = loading.prepared("cifar10_gs", manual / "data", request=request)
        print(sum(split.num_examples for split in builder.info.splits.values()))
    """
    first, second = together.run(code, tmp_path)
    assert (first[-1], second[-1]) == ("100", "100")
    assert f"that prepares cifar10_gs in {tmp_path / 'data'}" in second[0]
    assert len((tmp_path / "read").read_text().splitlines()) == 100


def test_two_processes_prepare_two_zoos_of_one_name(tmp_path):
    code = textwrap.dedent(
        """
        import pathlib, sys
        from probegen_jax.zoo.prepared import builders
        from probegen_jax.zoo.published import loading
        manual, data = map(pathlib.Path, sys.argv[1:])
        request = builders.Request(manual_dir=manual)
        print(len(loading.load("cifar10_gs", data, request=request)))
        """
    )
    both = []
    for number in (900, 1800):
        published_files.cifar10_gs(tmp_path / str(number), number)
        command = [sys.executable, "-c", code, tmp_path / str(number), tmp_path / "data"]
        both.append(subprocess.Popen(command, cwd=REPO, stdout=-1, text=True))
    told = [process.communicate()[0].splitlines()[-1] for process in both]
    assert told == ["100", "200"]
    assert len(list((tmp_path / "data").rglob("dataset_info.json"))) == 2


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make the folder .*data_dir=DIR"):
        loading.prepared("cifar10_gs", tmp_path / "file" / "data")


def test_a_splits_file_that_is_not_there_is_told(tmp_path):
    request = Request(manual_dir=tmp_path, splits_file=tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"no splits file at .*none\.csv; correct"):
        loading.prepared("cifar10_gs", tmp_path / "data", request=request)
