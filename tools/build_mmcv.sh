# shellcheck shell=bash
# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
#
# Part of tools/setup_env.sh: mmcv with compiled operators, for
# SN_MM_MMCV=compiled. PyPI has no wheels of it, and one that fits must agree
# with the versions of PyTorch and Python, and with the GPU. It is compiled
# once and kept in a folder of the user's cache that is named after these.

# Prints the CUDA options of mmcv's build: operators for GPUs where there is
# a GPU and a CUDA compiler of the major version that PyTorch was built with.
mmcv_options() { # PYTHON
  "$1" - <<'PYTHON'
import re
import subprocess

import torch
from torch.utils.cpp_extension import CUDA_HOME

release = ''
if torch.cuda.is_available() and CUDA_HOME:
    nvcc = [f'{CUDA_HOME}/bin/nvcc', '--version']
    text = subprocess.run(nvcc, capture_output=True, text=True).stdout
    release = ''.join(re.findall(r'release (\d+)', text)[:1])
if release and release == (torch.version.cuda or '').split('.')[0]:
    archs = {torch.cuda.get_device_capability(i)
             for i in range(torch.cuda.device_count())}
    archs = ';'.join('%d.%d' % arch for arch in sorted(archs))
    print(f'FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST={archs}')
else:
    print('FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=-1')
PYTHON
}

install_compiled_mmcv() { # PYTHON REQUIREMENT
  local options key cache log
  # no pipe: a compiler that does not read it to its end would break it
  "${CXX:-c++}" -std=c++17 -fsyntax-only -x c++ - "-I$("$1" -c \
    'import sysconfig; print(sysconfig.get_path("include"))')" \
    <<<$'#include <Python.h>\n#include <vector>' ||
    fail "'${CXX:-c++}' cannot compile C++17 against the headers of $1." \
      "Install a compiler and Python's headers (Debian, Ubuntu: apt install" \
      'g++ python3-dev; macOS: xcode-select --install), or leave SN_MM_MMCV' \
      'out, which needs neither.'
  options=$(mmcv_options "$1")
  key=$2-$("$1" -c 'import sysconfig, sys, torch
print(torch.__version__, sys.implementation.cache_tag,
      sysconfig.get_platform(), sep="-")')-${options//[ ;]/_}
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/sn_mm/wheels/$key
  if ! compgen -G "$cache/*.whl" >/dev/null; then
    mkdir -p "$cache.building"
    log=$cache.building/log
    echo "  compiling $2 (8 to 25 minutes on 2 cores, once; log: $log)"
    # PATH: ninja lies in the environment; a compiler takes up to 2 GB
    env MMCV_WITH_OPS=1 "MAX_JOBS=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)}" \
      "PATH=$(dirname "$1"):$PATH" ${options:+$options} \
      "$1" -m pip wheel -v --no-cache-dir --no-deps --no-build-isolation \
      --no-binary :all: --wheel-dir "$cache.building" "$2" >"$log" 2>&1 || {
      tail -n 25 "$log" >&2
      fail "compiling $2 failed. The end of the log is above, all of it in" \
        "$log. Without SN_MM_MMCV=compiled nothing is compiled."
    }
    rm -rf "$cache"
    mv "$cache.building" "$cache"
  fi
  step "$2 from $cache" "$1" -m pip install -qq --no-deps --no-index \
    --force-reinstall "$cache"/*.whl
}
