# shellcheck shell=bash
# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
#
# Sourced by dist_train.sh and dist_test.sh: one process per GPU, by torchrun.
#
# Variables:
#   NNODES=1               machines
#   NODE_RANK=0            this machine's number, from 0 to NNODES - 1
#   MASTER_ADDR=127.0.0.1  address of machine 0
#   PORT=29500             port there; on a single machine a free one
#   PYTHON=python          the interpreter
set -euo pipefail

PYTHON="${PYTHON:-python}"
NNODES="${NNODES:-1}"
TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# The comment at the top of the script that was called.
usage() {
  sed -n '/^# Usage/,/^$/s/^# \{0,1\}//p' "$0"
}

# check_launch GPUS: before anything starts
check_launch() {
  local name
  for name in NNODES NODE_RANK; do
    if [[ ! ${!name:-0} =~ ^[0-9]+$ ]]; then
      echo "error: $name must be a number, got '${!name}'" >&2
      exit 2
    fi
  done
  if [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "error: GPUS must be a number of at least 1, got '$1'" >&2
    exit 2
  fi
  if ((NNODES > 1)) && [[ -z ${MASTER_ADDR:-} || -z ${NODE_RANK:-} ]]; then
    echo "error: NNODES=$NNODES needs MASTER_ADDR, the address of machine 0," \
      "and NODE_RANK, the number of this machine" >&2
    exit 2
  fi
}

free_port() {
  "$PYTHON" -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])'
}

# launch GPUS SCRIPT [ARGUMENT...]
launch() {
  local gpus=$1 script=$2 port=${PORT:-}
  shift 2
  if [[ -z $port ]]; then
    if ((NNODES == 1)); then port=$(free_port); else port=29500; fi
  fi
  export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
  exec "$PYTHON" -m torch.distributed.run \
    --nnodes="$NNODES" \
    --node_rank="${NODE_RANK:-0}" \
    --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="$port" \
    "$TOOLS/$script" "$@" --launcher pytorch
}
