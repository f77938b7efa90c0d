#!/usr/bin/env bash
# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
#
# Usage: bash tools/test.sh [--all] [PYTEST_ARGUMENT...]
#
# Sets up the environment where that is not done yet (1 to 5 minutes) and runs
# the test suite, or the part of it that the arguments name. Tests marked slow
# repeat at length what others see; they run too where --all comes first.
#   bash tools/test.sh
#   bash tools/test.sh --all
#   bash tools/test.sh tests/unit/test_layers -k sync -x
#   SN_MM_STACK=onedl bash tools/test.sh
#   SN_MM_MMCV=compiled bash tools/test.sh
#   SN_MM_ENV=current bash tools/test.sh
# The exit status is pytest's. tools/setup_env.sh explains the variables.
set -euo pipefail

# shellcheck source=tools/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

case ${1:-} in
  -h | --help)
    usage "${BASH_SOURCE[0]}"
    exit 0
    ;;
  --all)
    shift
    every_test=(-m '') # in place of pyproject.toml's -m "not slow"
    ;;
esac

# Adds what only tests need to an environment of ours; into somebody's own
# nothing is installed, and tests that lack something are skipped.
add_test_libraries() {
  local files="$SN_MM_ROOT/requirements" prefix stamp pip
  prefix="$("$PYTHON" -c 'import sys; print(sys.prefix)')"
  stamp="$prefix/sn_mm.tests"
  export SN_MM_OLD_TRITON="$prefix/old_triton"
  cmp -s <(test_requirements) "$stamp" && return
  echo '  installing libraries of the tests (half a minute)'
  pip=("$PYTHON" -m pip install -qq --no-compile --no-deps)
  "${pip[@]}" -r "$files/tests.txt"
  "$PYTHON" -c 'import triton' 2>/dev/null ||
    "${pip[@]}" -r "$files/triton.txt"
  rm -rf "$SN_MM_OLD_TRITON"
  "${pip[@]}" -r "$files/old_triton.txt" --target "$SN_MM_OLD_TRITON"
  keep_byte_code_of_tests
  test_requirements >"$stamp"
}

# What takes longest to compile of what the tests import, beside what
# keep_byte_code does: else the processes of a run would compile it at once.
keep_byte_code_of_tests() {
  PYTHONDONTWRITEBYTECODE='' "$PYTHON" - <<'PYTHON' >/dev/null 2>&1 || true
import contextlib
import importlib

for name in ('torch._dynamo', 'torch._inductor.compile_fx', 'torch.export',
             'onnx', 'onnxscript', 'triton', 'sklearn.datasets', 'pytest'):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
PYTHON
}

test_requirements() {
  cat "$SN_MM_ROOT"/requirements/{tests,triton,old_triton}.txt
}

setup_env
if [ -z "${SN_MM_ENV:-}" ]; then
  add_test_libraries
  # what else is imported is compiled once, not by every process of a test
  export PYTHONDONTWRITEBYTECODE=''
fi
print_versions

# one thread: the tests' tensors are too small for more to help
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export MPLBACKEND="${MPLBACKEND:-Agg}"
cd "$SN_MM_ROOT"
if [ $# -eq 0 ] && "$PYTHON" -c 'import xdist' 2>/dev/null; then
  # the whole suite on all cores; a file's tests share what they prepare, and
  # the long files of tests/integration come first
  set -- -n "$(getconf _NPROCESSORS_ONLN)" --dist loadfile \
    --no-loadscope-reorder
fi
exec "$PYTHON" -m pytest ${every_test[@]+"${every_test[@]}"} "$@"
