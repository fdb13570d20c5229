#!/usr/bin/env bash
# Trains on a Slurm cluster; each task of the array is one job of several processes.
#
#   sbatch scripts/slurm.sh --config=configs/mnist.py
#   sbatch --array=0-2 --nodes=2 scripts/slurm.sh --config=configs/mnist.py      the grid below
#   sbatch --test-only scripts/slurm.sh --config=configs/mnist.py                would it start?
#
# What follows `scripts/slurm.sh` goes to `probegen_jax.train`. Submit from the root of the
# repository: the run folder `runs/` is made there, and must be on a disk that all nodes share.
# Options on sbatch's command line win over those below; your cluster may want --partition and
# --account too.
#
#SBATCH --job-name=probegen
#SBATCH --nodes=1
# One process to a node, which uses all of the node's GPUs. For one process to a GPU set this to
# the number of GPUs, and leave --gpus-per-task and --gpu-bind alone: each process must see them all
# to find its own.
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --output=slurm-%A_%a.out
# Preempted jobs are queued again by Slurm itself; two minutes before the time is up the processes
# get the same signal, save, and end with 75, and are queued again below.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "usage: sbatch [OPTIONS] scripts/slurm.sh --config=FILE [FLAGS of probegen_jax.train]" >&2
  exit 2
fi

# The grid: task I of an array trains with the I-th of these; a job that is no array with none.
grid=(
  "--config.num_probes=64"
  "--config.num_probes=128"
  "--config.method=vanilla --config.num_probes=128"
)
setting=()
if [[ -n "${SLURM_ARRAY_TASK_ID:-}" ]]; then
  if (( SLURM_ARRAY_TASK_ID >= ${#grid[@]} )); then
    echo "error: task $SLURM_ARRAY_TASK_ID, but the grid in scripts/slurm.sh has ${#grid[@]}" >&2
    exit 2
  fi
  read -r -a setting <<< "${grid[SLURM_ARRAY_TASK_ID]}"
fi

# Activate your environment here, if it is not active where you submit:
# source venv/bin/activate

# The batch script gets no signal (there is no B: above), but must outlive the processes.
trap '' TERM
code=0
srun --kill-on-bad-exit=0 python -m probegen_jax.train "$@" "${setting[@]}" || code=$?

case $code in
  0) ;;
  # Asked to stop; another process has ended; jax ended this one because of another; or was killed.
  75 | 76 | 134 | 137 | 143)
    echo "ended with $code; queued again, and the run goes on from its last checkpoint"
    scontrol requeue "$SLURM_JOB_ID" # of an array, this task only
    ;;
  *) exit "$code" ;;
esac
