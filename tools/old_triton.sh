#!/usr/bin/env bash
# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
#
# Usage: bash tools/old_triton.sh FOLDER [PYTHON]
#
# Makes an environment with PyTorch 2.1 and the Triton that belongs to it, of
# which tests/unit/test_kernels/test_compiled.py compiles the kernels too:
#   export SN_MM_OLD_TRITON=$(bash tools/old_triton.sh /tmp/old_triton)
# PYTHON is one of 3.9 to 3.11, default python3.10. About 5 GB on disk.
set -euo pipefail

case ${1:--h} in
  -h | --help)
    sed -n '4,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac

folder=$(realpath -m "$1")
"${2:-python3.10}" -m venv "$folder"
# Triton 2 needs no more of numpy than that PyTorch finds one
"$folder/bin/python" -m pip install -q torch==2.1.2 triton==2.1.0 \
  'numpy<2' >&2
echo "$folder/bin/python"
