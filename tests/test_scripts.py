"""The launchers, as far as they can be checked without a cluster: linted, validated, and run
against stand-ins for the cluster's own commands."""

import os
import pathlib
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from conftest import REPO

SCRIPTS = REPO / "scripts"
SHELL = sorted(SCRIPTS.glob("*.sh"))


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


def test_the_kubernetes_job_is_valid_and_consistent():
    service, job = yaml.safe_load_all((SCRIPTS / "k8s-job.yaml").read_text())
    for document in (service, job):
        kubernetes_validate.validate(document, "1.31", strict=True)
    pod = job["spec"]["template"]["spec"]
    environment = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}
    name = job["metadata"]["name"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    assert environment["JAX_NUM_PROCESSES"] == str(job["spec"]["completions"])
    assert environment["JAX_COORDINATOR_ADDRESS"].startswith(f"{name}-0.{pod['subdomain']}:")
    assert service["spec"]["selector"] == {"job-name": name}
    assert service["metadata"]["name"] == pod["subdomain"]


def run(script, folder, commands, *arguments, **environment):
    """Runs a script with stand-ins, each of which writes down how it was called."""
    folder.mkdir(exist_ok=True)
    for name, body in commands.items():
        path = folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {folder}/calls\n{body}\n')
        path.chmod(0o755)
    done = subprocess.run(
        [SCRIPTS / script, *arguments],
        env={"PATH": f"{folder}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    calls = folder / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (76, True), (2, False)])
def test_slurm_queues_again_what_can_go_on(tmp_path, code, requeued):
    commands = {"srun": f"exit {code}", "scontrol": ""}
    environment = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    done, calls = run("slurm.sh", tmp_path / "bin", commands, "--config=c.py", **environment)
    assert done.returncode == (code if code == 2 else 0), done.stderr
    assert calls[0].endswith(
        "-m probegen_jax.train --config=c.py --config.method=vanilla --config.num_probes=128"
    )
    assert calls[1:] == (["scontrol requeue 7"] if requeued else [])


def test_slurm_refuses_a_task_outside_the_grid(tmp_path):
    environment = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    done, calls = run("slurm.sh", tmp_path / "bin", {"srun": ""}, "--config=c.py", **environment)
    assert (done.returncode, calls) == (2, [])
    assert "grid in scripts/slurm.sh has 3" in done.stderr


def test_tpu_pod_tries_again_until_done_and_keeps_quoting(tmp_path):
    count = tmp_path / "count"
    gcloud = f"echo >> {count}; [[ $(wc -l < {count}) -gt 1 ]] || exit 75"
    commands = {"gcloud": gcloud, "sleep": ""}
    arguments = ["--config=c.py", "--workdir=a b"]
    environment = {"TPU_NAME": "slice", "ZONE": "z"}
    done, calls = run("tpu_pod.sh", tmp_path / "bin", commands, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    expected = (
        "gcloud compute tpus tpu-vm ssh slice --zone=z --worker=all --command=cd probegen_jax && "
        "python3 -m probegen_jax.train --distributed=on --config=c.py --workdir=a\\ b"
    )
    assert calls == [expected, "sleep 30", expected]


def test_tpu_pod_does_not_repeat_a_mistake(tmp_path):
    environment = {"TPU_NAME": "slice", "ZONE": "z"}
    done, calls = run("tpu_pod.sh", tmp_path / "bin", {"gcloud": "exit 2"}, "-x", **environment)
    assert (done.returncode, len(calls)) == (2, 1)
