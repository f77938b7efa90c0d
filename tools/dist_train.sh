#!/usr/bin/env bash
# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
#
# Usage: bash tools/dist_train.sh CONFIG GPUS [ARGUMENT...]
#
# Trains with one process on each of GPUS GPUS (or, on a machine without any,
# with GPUS processes on its CPU). ARGUMENTs are those of tools/train.py:
#   bash tools/dist_train.sh CONFIG 8
#   bash tools/dist_train.sh CONFIG 8 --resume --work-dir DIR
# On several machines, run it on each:
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash tools/dist_train.sh CONFIG 8
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 bash tools/dist_train.sh CONFIG 8
# If one process fails, all of them end, and so does the command with an error.
#
# Variables: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (29500;
# on a single machine any free one), PYTHON (python).

# shellcheck source=tools/dist_launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/dist_launch.sh"

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage
  exit 0
elif (($# < 2)); then
  usage >&2
  exit 2
fi
check_launch "$2"
launch "$2" train.py "$1" "${@:3}"
