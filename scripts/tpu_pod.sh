#!/usr/bin/env bash
# Trains on a Cloud TPU pod slice: the same command on every worker, until it is done.
#
#   TPU_NAME=my-slice ZONE=us-central2-b scripts/tpu_pod.sh --config=configs/mnist.py \
#     --workdir=/mnt/shared/runs/mnist --config.data_dir=/mnt/zoos
#
# Needs gcloud, logged in, and on the workers this repository in REPOSITORY (a home folder's
# `probegen_jax` by default) with `pip install -r requirements.txt "jax[tpu]"` done. The run folder
# must be seen by all workers, as on a mounted share. --config.data_dir may be a disk of each
# worker's own.
set -euo pipefail

: "${TPU_NAME:?set TPU_NAME to the name of the slice}"
: "${ZONE:?set ZONE to the zone of the slice}"
repository=${REPOSITORY:-probegen_jax}
tries=${TRIES:-100}

if [[ $# -eq 0 ]]; then
  echo "usage: TPU_NAME=... ZONE=... $0 --config=FILE [FLAGS of probegen_jax.train]" >&2
  exit 2
fi

# Quoted once more, for the shell of the workers.
printf -v arguments ' %q' "$@"
printf -v folder '%q' "$repository"
command="cd $folder && python3 -m probegen_jax.train --distributed=on$arguments"

for ((try = 1; try <= tries; try++)); do
  code=0
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="$command" ||
    code=$?
  case $code in
    0) exit 0 ;;
    # A mistake in the command, or Ctrl-C: trying again would not help.
    2 | 130) exit "$code" ;;
  esac
  echo "ended with $code; trying again in 30 s ($try of $tries)" >&2
  sleep 30
done
exit "$code"
