#!/usr/bin/env bash
# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
#
# Usage: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENT...]
#
# Tests with one process on each of GPUS GPUS (or, on a machine without any,
# with GPUS processes on its CPU). ARGUMENTs are those of tools/test.py:
#   bash tools/dist_test.sh CONFIG work_dirs/NAME/epoch_12.pth 8 --out out.pkl
# Several machines: as for tools/dist_train.sh.
#
# Variables: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (29500;
# on a single machine any free one), PYTHON (python).

# shellcheck source=tools/dist_launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/dist_launch.sh"

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage
  exit 0
elif (($# < 3)); then
  usage >&2
  exit 2
fi
check_launch "$3"
launch "$3" test.py "$1" "$2" "${@:4}"
