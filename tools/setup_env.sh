#!/usr/bin/env bash
# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
#
# Usage: bash tools/setup_env.sh
#
# Makes the Python environment that tools/demo.sh and tools/test.sh run in, or
# checks one that exists. Both source this file and call setup_env, which sets
#   PYTHON             the environment's interpreter
#   SN_MM_CPU_ONLY     1 if there is a GPU that mmcv's operators cannot use
#
# Environment variables, all optional:
#   SN_MM_STACK           which pinned set of requirements/ to install:
#                         official (default), onedl or classic
#   SN_MM_PYTHON          interpreter to base the environment on
#   SN_MM_ENV             use this environment, which has torch and mmcv,
#                         instead of making one: its folder, its interpreter,
#                         or 'current' for the python on PATH
#   SN_MM_TORCH_PIP_ARGS  more arguments for 'pip install torch', for example
#                         '--index-url https://download.pytorch.org/whl/cpu'
#
# The environment is .venv/STACK-cpXY. A file in it, written last, holds a key
# of everything it was made from: one whose key differs, or that was cut off,
# is made anew; one whose key agrees costs no call to pip.

SN_MM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SN_MM_WHEELS=${XDG_CACHE_HOME:-$HOME/.cache}/sn_mm/wheels
# Raise when this file installs something else from the same requirements.
SN_MM_RECIPE=1
SN_MM_PIP=pip==26.0.1

# shellcheck source=tools/build_mmcv.sh
source "$SN_MM_ROOT/tools/build_mmcv.sh"

say() { printf '%s\n' "$*"; }

fail() {
  printf '\nerror: %s\n' "$*" >&2
  exit 1
}

# Prints the comment that opens FILE, without its licence line.
usage() { # FILE
  sed -n '3,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p;}' "$1" | sed '1{/^$/d;}'
}

# --- which interpreter ------------------------------------------------------

# Prints the Python versions of a set, the preferred one first.
stack_versions() { # STACK
  case $1 in
    official) echo '3.11 3.12 3.10 3.9' ;;
    onedl) echo '3.11 3.12 3.10' ;;
    classic) echo '3.10 3.9 3.11' ;;
    *) fail "SN_MM_STACK is '$1'; choose official, onedl or classic." ;;
  esac
}

# Prints X.Y, or fails where the command does not run (as pyenv's shims of
# versions that are not active do).
python_version() { # PYTHON
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' \
    2>/dev/null </dev/null
}

can_make_venv() { # PYTHON
  "$1" -c 'import ensurepip, venv' 2>/dev/null </dev/null
}

contains_word() { # WORDS WORD
  case " $1 " in *" $2 "*) return 0 ;; esac
  return 1
}

# Prints every interpreter worth trying for a set, one a line: by version, on
# PATH and then among pyenv's. The python3 in use comes first, but not for the
# classic set, whose mmcv is most often built for Python 3.10.
python_candidates() { # STACK
  local version python versions pyenv=${PYENV_ROOT:-$HOME/.pyenv}/versions
  versions=$(stack_versions "$1")
  if [ "$1" != classic ]; then type -aP python3 || true; fi
  for version in $versions; do
    type -aP "python$version" || true
    for python in "$pyenv/$version".*/bin/python; do
      if [ -x "$python" ]; then printf '%s\n' "$python"; fi
    done
  done
  type -aP python3 || true
}

# Prints the interpreter to base the environment on.
find_python() { # STACK
  local versions version python
  versions=$(stack_versions "$1")
  if [ -n "${SN_MM_PYTHON:-}" ]; then
    version=$(python_version "$SN_MM_PYTHON") ||
      fail "SN_MM_PYTHON=$SN_MM_PYTHON does not run."
    contains_word "$versions" "$version" ||
      fail "SN_MM_PYTHON=$SN_MM_PYTHON is Python $version;" \
        "the $1 set needs one of: $versions."
    can_make_venv "$SN_MM_PYTHON" ||
      fail "SN_MM_PYTHON=$SN_MM_PYTHON lacks the modules venv and ensurepip" \
        "(Debian, Ubuntu: apt install python$version-venv)."
    printf '%s\n' "$SN_MM_PYTHON"
    return
  fi
  while IFS= read -r python; do
    if version=$(python_version "$python") &&
      contains_word "$versions" "$version" && can_make_venv "$python"; then
      printf '%s\n' "$python"
      return
    fi
  done < <(python_candidates "$1")
  fail "found no Python that runs, can make virtual environments and is one" \
    "of $versions, which the $1 set needs. Install one (Debian, Ubuntu: apt" \
    "install python3 python3-venv python3-dev) or name it in SN_MM_PYTHON."
}

# --- steps with a log -------------------------------------------------------

# Repeats how long a step has taken and its log's last line, or how many files
# are compiled: in place on a terminal, else every half a minute.
heartbeat() { # LOG
  local last pause=30
  if [ -t 1 ]; then pause=1; fi
  SECONDS=0
  # sleep holds no output open, so that a pipe after us ends when we do
  while sleep "$pause" >/dev/null 2>&1 && kill -0 "$$" 2>/dev/null; do
    last=$(awk '/^==>/ {file = ""} /^ *\[[0-9]+\/[0-9]+\]/ {file = $0}
      {line = $0} END {print (file ? file : line)}' "$1" |
      tr -d '\r' | cut -c 1-60)
    if [ -t 1 ]; then
      printf '\r\033[K    %d s  %s' "$SECONDS" "$last"
    else
      printf '    %d s  %s\n' "$SECONDS" "$last"
    fi
  done
}

stop_heartbeat() {
  if [ -n "${heartbeat_pid:-}" ]; then
    kill "$heartbeat_pid" 2>/dev/null || true
    wait "$heartbeat_pid" 2>/dev/null || true
    heartbeat_pid=
    if [ -t 1 ]; then printf '\r\033[K'; fi
  fi
}

# Runs a command with its output in $log; says how it went, returns its status.
try_step() { # TITLE COMMAND...
  local title=$1 status=0 start=$SECONDS
  shift
  say "  $title"
  printf '\n==> %s\n' "$title: $*" >>"$log"
  heartbeat "$log" &
  heartbeat_pid=$!
  "$@" >>"$log" 2>&1 </dev/null || status=$?
  stop_heartbeat
  if [ "$status" -eq 0 ]; then say "    done in $((SECONDS - start)) s"; fi
  return "$status"
}

# The same, but a failure ends everything.
step() { # TITLE COMMAND...
  try_step "$@" && return
  tail -n 25 "$log" >&2
  fail "$1: failed. The end of the log is above, all of it in $log." \
    'Running the same command again starts over.'
}

# --- a new environment ------------------------------------------------------

# Prints a key of everything an environment is made from, its place included:
# a virtual environment does not survive being moved.
env_key() { # STACK PYTHON
  local files="$SN_MM_ROOT/requirements"
  {
    printf '%s\n' "$SN_MM_RECIPE" "$SN_MM_PIP" "$SN_MM_ROOT" "$1" \
      "${SN_MM_TORCH_PIP_ARGS:-}"
    "$2" -c 'import sys; print(sys.version_info[:2])'
    cat "$files/libraries.txt" "$files/$1"/*.txt
  } | "$2" -c 'import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

# Prints the value of NAME in the environment's own record of itself.
env_record() { # VENV NAME
  sed -n "s/^$2=//p" "$1/sn_mm.env" 2>/dev/null || true
}

write_env_record() { # VENV LINE...
  local venv=$1
  shift
  printf '%s\n' "$@" >"$venv/sn_mm.env.tmp"
  mv -f "$venv/sn_mm.env.tmp" "$venv/sn_mm.env"
}

# Holds off a second set-up of the same environment; a lock whose process is
# gone counts for nothing.
lock_env() { # VENV
  local owner told=
  until mkdir "$1.lock" 2>/dev/null; do
    owner=$(cat "$1.lock/pid" 2>/dev/null || true)
    if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
      rm -rf "$1.lock"
      continue
    fi
    if [ -z "$told" ]; then
      say "Waiting for another set-up of $1 (process ${owner:-unknown}; if" \
        "there is none, remove $1.lock)."
      told=1
    fi
    sleep 2
  done
  lock=$1.lock
  echo "$$" >"$lock/pid"
}

clean_up() {
  stop_heartbeat
  if [ -n "${build_dir:-}" ]; then rm -rf "$build_dir"; fi
  if [ -n "${lock:-}" ]; then rm -rf "$lock"; fi
  build_dir='' lock=''
}

# Removes a folder in the background, for an environment can take minutes; what
# an earlier call left behind goes too. It has no output, or whoever reads ours
# through a pipe would wait for it.
discard() { # FOLDER
  if [ -e "$1" ]; then mv "$1" "$1.old.$$"; fi
  rm -rf "$1".old.* >/dev/null 2>&1 &
}

# Libraries first: torch then finds its dependencies, pinned, and whatever
# index it comes from needs to hold nothing else.
make_env() { # STACK BASE_PYTHON VENV KEY
  local stack=$1 venv=$3 wanted python="$3/bin/python"
  local files="$SN_MM_ROOT/requirements/$1" torch_args=()
  read -r -a torch_args <<<"${SN_MM_TORCH_PIP_ARGS:-}"
  say "Setting up $venv (log: $log)"
  discard "$venv"
  step 'making a virtual environment' "$2" -m venv "$venv"
  step 'updating pip' "$python" -m pip install "$SN_MM_PIP"
  step 'installing libraries (about 1 minute)' \
    "$python" -m pip install --no-deps -r "$files/libraries.txt"
  step 'installing PyTorch (1 to 5 minutes; 3 GB where it is for GPUs)' \
    "$python" -m pip install \
    ${torch_args[@]+"${torch_args[@]}"} -r "$files/torch.txt"
  step 'installing the OpenMMLab toolboxes' "$python" -m pip install \
    --no-deps --no-build-isolation -r "$files/toolboxes.txt"
  wanted=$(mmcv_kind "$python")
  install_mmcv "$stack" "$python" "$wanted"
  step 'installing sn_mm, editable' "$python" -m pip install \
    --no-deps --no-build-isolation -e "$SN_MM_ROOT"
  step 'trying the toolboxes' "$python" -c 'import mmdet.apis, mmseg.apis'
  write_env_record "$venv" "key=$4" "mmcv=$mmcv_built" "wanted=$wanted"
}

# Compiles mmcv anew where a CUDA compiler turned up since the environment was
# made. The other way round nothing is lost: CUDA operators run on CPU too.
refresh_mmcv() { # STACK VENV
  local wanted
  wanted=$(mmcv_kind "$2/bin/python")
  case $wanted in cpu | "$(env_record "$2" wanted)") return ;; esac
  install_mmcv "$1" "$2/bin/python" "$wanted"
  write_env_record "$2" "key=$(env_record "$2" key)" "mmcv=$mmcv_built" \
    "wanted=$wanted"
}

use_own_env() {
  local stack=${SN_MM_STACK:-official} base version venv key
  stack_versions "$stack" >/dev/null
  base=$(find_python "$stack")
  version=$(python_version "$base")
  venv=$SN_MM_ROOT/.venv/$stack-cp${version/./}
  PYTHON=$venv/bin/python
  key=$(env_key "$stack" "$base")
  mkdir -p "$SN_MM_ROOT/.venv"
  lock_env "$venv"
  log=$venv.log
  if [ "$(env_record "$venv" key)" != "$key" ] ||
    ! python_version "$PYTHON" >/dev/null; then
    : >"$log"
    check_compiler_early "$stack" "$base"
    make_env "$stack" "$base" "$venv" "$key"
  elif has_gpu; then
    refresh_mmcv "$stack" "$venv"
  fi
  if has_gpu && [ "$(env_record "$venv" mmcv)" = cpu ]; then
    explain_cpu_only "$PYTHON"
    SN_MM_CPU_ONLY=1
  fi
}

# --- an environment that exists ---------------------------------------------

# Prints the interpreter that SN_MM_ENV means.
given_python() { # SN_MM_ENV
  local python version
  if [ "$1" = current ]; then
    python=$(command -v python || command -v python3) ||
      fail 'SN_MM_ENV=current, but there is no python on PATH.'
  elif [ -d "$1" ]; then
    python=$1/bin/python
  else
    python=$1
  fi
  version=$(python_version "$python") ||
    fail "SN_MM_ENV=$1 is no environment: $python does not run. Give a" \
      "folder that holds bin/python, an interpreter, or 'current'."
  case $version in
    3.9 | 3.1[0-9]) ;;
    *) fail "SN_MM_ENV=$1 is Python $version; 3.9 or newer is needed." ;;
  esac
  # an absolute path, because callers change folder
  case $python in
    */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;;
  esac
  printf '%s\n' "$python"
}

# Imports what the demo and the tests need and ends with what is missing and
# the commands that add it; nothing is installed. Prints 'cpu-only' where a
# GPU cannot be used by mmcv's operators.
check_given_env() { # PYTHON
  PYTHONWARNINGS=ignore "$1" - <<'PYTHON'
import importlib
import sys
from importlib.util import find_spec

# module: what pip calls it; mmcv is not pip's to install
PACKAGES = {'torch': None, 'mmengine': 'mmengine==0.10.7',
            'mmcv.ops': None, 'mmdet': 'mmdet==3.3.0', 'ftfy': 'ftfy',
            'mmseg': 'mmsegmentation==1.2.2', 'sklearn': 'scikit-learn',
            'pycocotools': 'pycocotools', 'pytest': 'pytest'}
MIM = '"{0}" -m pip install -U openmim "setuptools<81"\n' \
      '  "{0}" -m mim install "mmcv==2.1.0"\n' \
      '  (prebuilt for torch 2.1 and older; with a newer torch, unset ' \
      'SN_MM_ENV\n  and mmcv is compiled for you)'

if find_spec('torch') is None:
    sys.exit('  torch is not installed. SN_MM_ENV is for an environment that '
             'has torch\n  and mmcv; unset it and one is made for you.')
broken = {}
for module in PACKAGES:
    if find_spec(module.split('.')[0]) is None:
        broken[module] = 'missing'
    elif not broken:  # else the reason may be one that is named already
        try:
            importlib.import_module(module)
        except Exception as error:  # mmdet and mmseg assert mmcv's version
            first_line = (str(error).strip().splitlines() or [''])[0]
            broken[module] = f'does not import: {first_line}'
if broken:
    lines = [f'  {module}: {reason}' for module, reason in broken.items()]
    packages = [PACKAGES[module] for module in broken if PACKAGES[module]]
    lines.append('To fix:')
    if 'mmcv.ops' in broken:
        lines.append('  ' + MIM.format(sys.executable))
    if packages:
        lines.append(f'  "{sys.executable}" -m pip install '
                     + ' '.join(packages))
    sys.exit('\n'.join(lines))

import torch
from mmcv.ops import get_compiling_cuda_version

if (torch.cuda.is_available()
        and get_compiling_cuda_version() == 'not available'):
    print('cpu-only')
PYTHON
}

use_given_env() { # SN_MM_ENV
  local report status=0
  PYTHON=$(given_python "$1")
  report=$(check_given_env "$PYTHON" 2>&1) || status=$?
  if [ "$status" -ne 0 ]; then
    fail "SN_MM_ENV=$1 lacks something. Nothing was installed."$'\n'"$report"
  fi
  case $report in
    *cpu-only*)
      explain_cpu_only "$PYTHON"
      SN_MM_CPU_ONLY=1
      ;;
  esac
  # sn_mm itself is not installed into somebody's environment
  export PYTHONPATH="$SN_MM_ROOT${PYTHONPATH:+:$PYTHONPATH}"
}

# --- all of it --------------------------------------------------------------

# Prints the interpreter and the versions of what matters, importing nothing.
print_versions() {
  "$PYTHON" - <<'PYTHON'
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

names = 'torch torchvision numpy mmengine mmcv mmdet mmsegmentation mmpretrain'
found = [f'Python {platform.python_version()}']
for name in names.split():
    for package in (name, 'onedl-' + name.replace('mmdet', 'mmdetection')):
        try:
            found.append(f'{package} {version(package)}')
        except PackageNotFoundError:
            pass
print(f'{sys.executable}\n' + ', '.join(found), flush=True)
PYTHON
}

# shellcheck disable=SC2034  # the scripts that source this file read them
setup_env() {
  PYTHON='' SN_MM_CPU_ONLY=0
  trap clean_up EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 141' PIPE
  trap 'exit 143' TERM
  if [ -n "${SN_MM_ENV:-}" ]; then
    use_given_env "$SN_MM_ENV"
  else
    use_own_env
  fi
  clean_up
  trap - EXIT HUP INT PIPE TERM
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  case $# in
    0) ;;
    *)
      usage "$0"
      case $1 in -h | --help) exit 0 ;; *) fail "unknown argument: $1" ;; esac
      ;;
  esac
  setup_env
  print_versions
fi
