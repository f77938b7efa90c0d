#!/usr/bin/env bash
# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
#
# Usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [ARGUMENT...]
#
# Trains on a cluster that slurm manages, with one task per GPU. ARGUMENTs are
# those of tools/train.py; WORK_DIR may be left out, or come as --work-dir:
#   GPUS=16 bash tools/slurm_train.sh dev sn_r50 CONFIG work_dirs/sn_r50
#   GPUS=4 GPUS_PER_NODE=4 SRUN_ARGS='--time=12:00:00' \
#     bash tools/slurm_train.sh dev sn_r50 CONFIG --resume
# If one task fails, slurm ends all of them.
#
# Variables: GPUS (8), GPUS_PER_NODE (8, or GPUS if that is less),
# CPUS_PER_TASK (5), SRUN_ARGS and PY_ARGS (more arguments, split at blanks),
# MASTER_PORT (29500; two jobs on one machine need two), PYTHON (python).

set -euo pipefail

PYTHON="${PYTHON:-python}"
GPUS="${GPUS:-8}"
CPUS_PER_TASK="${CPUS_PER_TASK:-5}"
TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
  sed -n '/^# Usage/,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage
  exit 0
elif (($# < 3)); then
  usage >&2
  exit 2
fi
partition=$1
job_name=$2
config=$3
shift 3

for name in GPUS GPUS_PER_NODE CPUS_PER_TASK; do
  if [[ ! ${!name:-1} =~ ^[1-9][0-9]*$ ]]; then
    echo "error: $name must be a number of at least 1, got '${!name}'" >&2
    exit 2
  fi
done
GPUS_PER_NODE="${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}"
if ((GPUS % GPUS_PER_NODE)); then
  echo "error: GPUS=$GPUS is no multiple of GPUS_PER_NODE=$GPUS_PER_NODE" >&2
  exit 2
fi

work_dir=()
if [[ -n ${1:-} && $1 != -* ]]; then
  work_dir=(--work-dir "$1")
  shift
fi
read -ra srun_args <<<"${SRUN_ARGS:-}"
read -ra py_args <<<"${PY_ARGS:-}"

export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
exec srun \
  --partition="$partition" \
  --job-name="$job_name" \
  --gres="gpu:$GPUS_PER_NODE" \
  --ntasks="$GPUS" \
  --ntasks-per-node="$GPUS_PER_NODE" \
  --cpus-per-task="$CPUS_PER_TASK" \
  --kill-on-bad-exit=1 \
  ${srun_args[@]+"${srun_args[@]}"} \
  "$PYTHON" -u "$TOOLS/train.py" "$config" \
  ${work_dir[@]+"${work_dir[@]}"} \
  --launcher slurm \
  ${py_args[@]+"${py_args[@]}"} "$@"
