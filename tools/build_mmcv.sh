# shellcheck shell=bash
# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
#
# Part of tools/setup_env.sh: gets a wheel of mmcv with compiled operators,
# from the user's cache or by compiling mmcv's source distribution into it.
#
# PyPI has no wheels of mmcv, and one that fits must agree with the version of
# PyTorch, of Python and, with CUDA operators, of the GPU. The cache's folders
# are named after all of these, so that a wheel is never used where it does
# not fit:
#   ~/.cache/sn_mm/wheels/mmcv-2.1.0-torch2.13.0+cpu-cp311-linux_x86_64/
# From setup_env.sh come say, fail, step, try_step, $log and clean_up.

# shellcheck disable=SC2154  # log

has_gpu() {
  case $(nvidia-smi -L 2>/dev/null || true) in GPU*) return 0 ;; esac
  return 1
}

# Prints the folder of a CUDA toolkit that can compile, or fails. A wrapper
# script in /usr/local/bin is not one, so the headers have to be there.
cuda_home() {
  local nvcc home
  nvcc=$(command -v nvcc || true)
  for home in "${CUDA_HOME:-}" "${CUDA_PATH:-}" "${nvcc%/bin/nvcc}" \
    /usr/local/cuda; do
    if [ -n "$home" ] && [ -f "$home/include/cuda_runtime.h" ] &&
      "$home/bin/nvcc" --version >/dev/null 2>&1; then
      printf '%s\n' "$home"
      return
    fi
  done
  return 1
}

# Prints the X.Y of a CUDA toolkit.
cuda_release() { # CUDA_HOME
  "$1/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'
}

# Prints the compute capabilities to compile for, as torch takes them.
cuda_archs() {
  if [ -n "${TORCH_CUDA_ARCH_LIST:-}" ]; then
    printf '%s\n' "$TORCH_CUDA_ARCH_LIST"
  else
    nvidia-smi --query-gpu=compute_cap --format=csv,noheader | sort -u |
      tr -d ' \r' | paste -s -d ';' -
  fi
}

# Prints how mmcv's operators can be compiled: 'cpu', or 'cuXX.Y-smLIST' with
# a GPU and a CUDA compiler of the major version that torch was built with.
mmcv_kind() { # PYTHON
  local home release built_with
  if has_gpu && home=$(cuda_home); then
    release=$(cuda_release "$home")
    built_with=$("$1" -c 'import torch; print(torch.version.cuda or "")')
    if [ -n "$built_with" ] && [ "${release%%.*}" = "${built_with%%.*}" ]; then
      printf 'cu%s-sm%s\n' "$release" "$(cuda_archs | tr ';+ ' '___')"
      return
    fi
  fi
  echo cpu
}

# Prints mmcv's requirement of a set, 'NAME==VERSION'.
mmcv_requirement() { # STACK
  sed -e 's/#.*//' -e '/^ *$/d' "$SN_MM_ROOT/requirements/$1/mmcv.txt"
}

# Prints 'cp311-linux_x86_64'.
platform_tag() { # PYTHON
  "$1" -c 'import re, sys, sysconfig
print("cp%d%d-%s" % (*sys.version_info[:2],
                     re.sub("[-.]", "_", sysconfig.get_platform())))'
}

# Prints the folder name of a wheel in the cache.
wheel_key() { # REQUIREMENT TORCH_VERSION PLATFORM_TAG KIND
  local key=${1/==/-}-torch$2-$3
  if [ "$4" != cpu ]; then key=$key-$4; fi
  printf '%s\n' "$key"
}

# Prints the wheel that a folder of the cache holds, if it does.
cached_wheel() { # KEY
  local wheel
  for wheel in "$SN_MM_WHEELS/$1"/*.whl; do
    if [ -f "$wheel" ]; then printf '%s\n' "$wheel"; fi
  done
}

# Compiles a file that includes what mmcv's sources do.
compiler_works() { # PYTHON
  local include
  include=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  printf '#include <Python.h>\n#include <vector>\n' |
    "${CXX:-c++}" -std=c++17 -fsyntax-only "-I$include" -x c++ - \
      >/dev/null 2>&1
}

require_compiler() { # PYTHON
  compiler_works "$1" || fail \
    "mmcv has to be compiled, and '${CXX:-c++}' cannot compile C++17 against" \
    "the headers of $1. Install a compiler and Python's headers (Debian," \
    "Ubuntu: apt install g++ python3-dev; macOS: xcode-select --install), or" \
    "name an environment that has torch and mmcv in SN_MM_ENV."
}

# Ends a set-up that could not compile mmcv before it spends minutes on
# PyTorch. Which wheel fits is known only after that, so any near one counts.
check_compiler_early() { # STACK PYTHON
  local near
  near=$(wheel_key "$(mmcv_requirement "$1")" '*' "$(platform_tag "$2")" cpu)
  if [ -z "$(compgen -G "$SN_MM_WHEELS/$near*/*.whl")" ]; then
    require_compiler "$2"
  fi
}

# Prints how many compilers memory allows at once: one takes up to 2 GB.
max_jobs() {
  "$1" -c 'import os, psutil
jobs = int(psutil.virtual_memory().available // 2**31)
print(max(1, min(jobs, os.cpu_count() or 1)))'
}

# Compiles a wheel into the cache. It is moved there whole, so a folder that
# has the right name holds a finished wheel. pip's own cache is left out: it
# would return a wheel made for another PyTorch.
build_mmcv() { # PYTHON REQUIREMENT KEY KIND
  local options=(FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=-1) status=0
  require_compiler "$1"
  if [ "$4" != cpu ]; then
    options=(FORCE_CUDA=1 "CUDA_HOME=$(cuda_home)"
      "TORCH_CUDA_ARCH_LIST=$(cuda_archs)")
  fi
  mkdir -p "$SN_MM_WHEELS"
  build_dir=$(mktemp -d "$SN_MM_WHEELS/.build.XXXXXX") ||
    fail "cannot write to the cache $SN_MM_WHEELS (XDG_CACHE_HOME moves it)."
  # PATH: the venv's ninja, which torch's builder looks for there
  try_step "compiling $2 ($4; about 8 minutes on 2 cores, once)" \
    env MMCV_WITH_OPS=1 "MAX_JOBS=${MAX_JOBS:-$(max_jobs "$1")}" \
    "PATH=$(dirname "$1"):$PATH" "${options[@]}" \
    "$1" -m pip wheel -v --no-cache-dir --no-deps --no-build-isolation \
    --no-binary :all: --wheel-dir "$build_dir" "$2" || status=$?
  if [ "$status" -eq 0 ] && [ ! -d "$SN_MM_WHEELS/$3" ]; then
    mv "$build_dir" "$SN_MM_WHEELS/$3"
  fi
  rm -rf "$build_dir"
  build_dir=
  return "$status"
}

# Installs mmcv; sets mmcv_built to the kind it got, for the caller's record.
# Where CUDA operators do not compile, those for the CPU are the next best.
install_mmcv() { # STACK PYTHON KIND
  local requirement torch key wheel
  requirement=$(mmcv_requirement "$1")
  torch=$("$2" -c 'import torch; print(torch.__version__)')
  key=$(wheel_key "$requirement" "$torch" "$(platform_tag "$2")" "$3")
  wheel=$(cached_wheel "$key")
  if [ -z "$wheel" ]; then
    if ! build_mmcv "$2" "$requirement" "$key" "$3"; then
      tail -n 25 "$log" >&2
      if [ "$3" = cpu ]; then
        fail "compiling $requirement failed. The end of the log is above," \
          "all of it in $log."
      fi
      say "Compiling $requirement with CUDA operators failed; the end of the" \
        "log is above. Going on with operators for the CPU."
      install_mmcv "$1" "$2" cpu
      return
    fi
    wheel=$(cached_wheel "$key")
  fi
  step "installing $requirement from $wheel" "$2" -m pip install \
    --no-deps --no-index --force-reinstall "$wheel"
  try_step "trying mmcv's operators" "$2" -c 'import mmcv.ops' || {
    tail -n 25 "$log" >&2
    fail "mmcv's operators do not load. Should the wheel in the cache be to" \
      "blame, this makes a new one: rm -r '$(dirname "$wheel")'"
  }
  # shellcheck disable=SC2034  # setup_env.sh reads it
  mmcv_built=$3
}

explain_cpu_only() { # PYTHON
  cat <<EOF

Note: this machine has a GPU, but mmcv's operators here are CPU-only, because
no CUDA compiler (nvcc) of the major version that PyTorch was built with was
found, or because they did not compile with it.
  What that means: SN and all other layers run on the GPU, but RoIAlign, NMS
  and deformable convolution take CPU tensors only, so detectors cannot train
  there. The demo trains on the CPU.
  The ways to GPU operators: install that CUDA toolkit and run this again
  ($1 -c 'import torch; print(torch.version.cuda)' says which), or use
  OpenMMLab's prebuilt wheels, which end at torch 2.1:
    python3.10 -m venv gpu-env && source gpu-env/bin/activate
    pip install torch==2.1.2 torchvision==0.16.2 'numpy<2' 'setuptools<81' \\
      'opencv-python<4.12' openmim ftfy scikit-learn pytest
    mim install mmengine==0.10.7 mmcv==2.1.0 mmdet==3.3.0 mmsegmentation==1.2.2
    SN_MM_ENV=current bash tools/demo.sh

EOF
}
