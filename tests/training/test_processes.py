"""Several real processes on this machine, which exchange through Gloo."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import QUICK_FLAGS, REPO

from probegen_jax.errors import EXIT_PEER_ENDED, EXIT_STOPPED, UserError
from probegen_jax.training.job.cluster import Cluster, find_cluster

pytestmark = pytest.mark.optimized

# Quick to compile; two seeds, and a batch that is not full.
SMALL = (
    f"--config={REPO}/configs/digits.py:16",
    "--config.num_epochs=12",
    "--config.num_seeds=2",
    "--config.head_depth=2",
    "--config.head_width=32",
    "--config.learning_rate=2e-4",  # so that rounding does not grow much in so many steps
    "--config.eval_every=40",
    "--config.checkpoint_every=90",
    "--config.report=False",
)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def started(commands, quick=False):
    """Processes, gone at the end whatever happens; `quick` to compile where no figures count."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu"}
    if quick:
        environment |= {"XLA_FLAGS": QUICK_FLAGS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "True"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "probegen_jax.train", *command],
            cwd=REPO,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def job(count, workdir, *arguments, only=None, each=lambda process: ()):
    """Command lines of a job's processes, or of some of them."""
    where = f"--coordinator=127.0.0.1:{free_port()}"
    return [
        [
            *SMALL,
            f"--workdir={workdir}",
            *arguments,
            where,
            f"--num_processes={count}",
            f"--process_id={process}",
            *each(process),
        ]
        for process in (range(count) if only is None else only)
    ]


def finish(processes):
    """Waits for all of them: their exit codes and outputs."""
    outputs = [process.communicate(timeout=600) for process in processes]
    return [process.returncode for process in processes], outputs


def scores(workdir):
    result = json.loads((workdir / "result.json").read_text())
    return [
        entry[which][split]
        for entry in result["seeds"]
        for which in ("last", "best")
        for split in ("val", "test")
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, digits_dir):
    """The run of one process."""
    workdir = tmp_path_factory.mktemp("alone")
    with started([[*SMALL, f"--workdir={workdir}", f"--config.data_dir={digits_dir}"]]) as run:
        codes, outputs = finish(run)
    assert codes == [0], outputs
    return workdir


def check_against(alone, workdir):
    logs = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (alone, workdir)
    ]
    for ours, theirs in zip(*logs, strict=True):
        assert ours["step"] == theirs["step"]
        np.testing.assert_allclose(ours["train_loss"], theirs["train_loss"], rtol=0.02)
    # Of 120 and 240 networks a few lie on the edge between two classes.
    np.testing.assert_allclose(scores(alone), scores(workdir), atol=0.05)


@pytest.mark.slow
def test_two_processes_train_as_one_and_go_on_after_a_death(tmp_path, digits_dir, alone):
    workdir, data = tmp_path / "run", f"--config.data_dir={digits_dir}"
    with started(job(2, workdir, data)) as processes:
        wait_for(lambda: saved_steps(workdir), processes)
        processes[1].kill()
        began = time.monotonic()
        codes, outputs = finish(processes)
        seconds = time.monotonic() - began
    assert codes[0] == EXIT_PEER_ENDED, outputs[0]
    assert "error: process 1 of 2 has given no sign of life" in outputs[0][1]
    assert "start the job again with the same command" in outputs[0][1]
    assert seconds < 60 or os.getloadavg()[0] > os.cpu_count()
    # Not all processes need be back in the same number.
    with started(job(2, workdir, data)) as processes:
        codes, outputs = finish(processes)
    assert codes == [0, 0], outputs
    assert "resuming" in outputs[0][0]
    check_against(alone, workdir)
    # Only process 0 speaks (but for Gloo's own line), and each has its own file.
    assert [line for line in outputs[1][0].splitlines() if "[Gloo]" not in line] == []
    logs = [(workdir / "logs" / f"process-{n}.log").read_text() for n in (0, 1)]
    assert all("resuming" in text and "test accuracy" in text for text in logs)


@pytest.mark.slow
def test_four_processes_train_as_one(tmp_path, digits_dir, alone):
    with started(job(4, tmp_path / "run", f"--config.data_dir={digits_dir}")) as processes:
        codes, outputs = finish(processes)
    assert codes == [0] * 4, outputs
    check_against(alone, tmp_path / "run")


def saved_steps(workdir):
    return [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]


def wait_for(condition, processes):
    deadline = time.monotonic() + 500
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def test_sigterm_to_one_process_stops_both_with_all_saved(tmp_path, digits_dir):
    workdir, data = tmp_path / "run", f"--config.data_dir={digits_dir}"
    more = (data, "--config.num_epochs=300", "--config.checkpoint_every=5000")
    with started(job(2, workdir, *more), quick=True) as processes:
        log = workdir / "metrics.jsonl"
        wait_for(lambda: log.exists() and log.read_text(), processes)
        processes[1].send_signal(signal.SIGTERM)
        codes, outputs = finish(processes)
    assert codes == [EXIT_STOPPED] * 2, outputs
    assert "stopped by SIGTERM; the same command continues from here" in outputs[0][1]
    (saved,) = saved_steps(workdir)
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert last <= saved < 5000


@pytest.mark.slow
def test_processes_with_different_commands_refuse_each_other(tmp_path):
    def each(process):
        return [f"--config.learning_rate={0.1 * (process + 1)}"]

    with started(job(2, tmp_path / "run", each=each)) as processes:
        codes, outputs = finish(processes)
    assert codes == [2, 2]
    for _, errors in outputs:
        assert "process 1 on" in errors
        assert "learning_rate (0.2 there, 0.1 in process 0); start all processes with" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (1, r"no connection to the other processes through 127.0.0.1:\d+ within 3 s; is process 0"),
        (0, r"not all of 2 processes have come to 127.0.0.1:\d+ within 3 s"),
    ],
)
def test_a_process_that_finds_no_other_says_so_in_time(tmp_path, process, message):
    commands = job(2, tmp_path / "run", "--connect_timeout=3", only=[process])
    with started(commands) as processes:
        codes, outputs = finish(processes)
    assert codes == [2]
    (line,) = [line for line in outputs[0][1].splitlines() if line.startswith("error: ")]
    assert re.search(message, line)


SLURM = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "4"}


@pytest.mark.parametrize(
    ("mode", "given", "environment", "expected"),
    [
        ("auto", (None, None, None), {}, None),
        ("off", ("host:1", 2, 0), SLURM, None),
        ("auto", ("host:1", 2, 1), {}, Cluster("host:1", 2, 1)),
        ("on", (None, None, None), {}, Cluster()),
        ("auto", (None, None, None), SLURM, Cluster()),
        ("auto", (None, None, None), SLURM | {"SLURM_NTASKS": "1"}, None),
        (
            "auto",
            (None, None, None),
            SLURM | {"SLURM_GPUS_ON_NODE": "2"},
            Cluster(local_device_ids=(0, 1)),
        ),
        (
            "auto",
            (None, None, None),
            SLURM | {"SLURM_GPUS_ON_NODE": "2", "SLURM_NNODES": "2"},
            Cluster(),
        ),
        ("auto", (None, None, None), {"OMPI_COMM_WORLD_SIZE": "2"}, Cluster()),
        ("auto", (None, None, None), {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ("auto", (None, None, None), {"TPU_WORKER_HOSTNAMES": "a,b"}, Cluster()),
        (
            "auto",
            (None, None, None),
            {
                "JAX_COORDINATOR_ADDRESS": "host:1",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "1",
            },
            Cluster("host:1", 2, 1),
        ),
    ],
)
def test_a_job_is_found_where_there_is_one(mode, given, environment, expected):
    assert find_cluster(mode, *given, environment) == expected


@pytest.mark.parametrize(
    ("mode", "given", "environment", "message"),
    [
        ("maybe", (None, None, None), {}, "distributed is 'maybe'; choose auto, on or off"),
        ("auto", ("host:1", None, None), {}, "num_processes, process_id missing"),
        ("auto", ("host", 2, 0), {}, "coordinator is 'host'; give HOST:PORT"),
        ("auto", ("host:1", 2, 2), {}, "process_id is 2, but processes are numbered 0 to 1"),
        ("auto", (None, None, None), {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'"),
    ],
)
def test_half_a_job_is_refused(mode, given, environment, message):
    with pytest.raises(UserError, match=message):
        find_cluster(mode, *given, environment)
