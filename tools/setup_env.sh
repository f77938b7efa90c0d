#!/usr/bin/env bash
# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
#
# Usage: bash tools/setup_env.sh
#
# Makes the Python environment that tools/demo.sh and tools/test.sh run in,
# .venv/STACK-cpXY, or checks one that exists. Both source this file and call
# setup_env, which sets PYTHON to the environment's interpreter.
#
# Environment variables, all optional:
#   SN_MM_STACK           which pinned set of requirements/ to install:
#                         official (default), onedl or classic
#   SN_MM_MMCV            lite (default): mmcv without compiled operators, in
#                         whose place sn_mm's are used; or compiled: built
#                         from source, which takes 8 to 25 minutes on 2 cores
#   SN_MM_PYTHON          interpreter to base the environment on
#   SN_MM_ENV             use this environment instead of making one: its
#                         folder, its interpreter, or 'current' for the
#                         python on PATH; nothing is installed into it
#   SN_MM_TORCH_PIP_ARGS  more arguments for 'pip install torch', for example
#                         '--index-url https://download.pytorch.org/whl/cpu'
#
# An environment that was made from other requirements, or was not finished,
# is made anew; one that agrees costs no call to pip.

SN_MM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  printf '\nerror: %s\n' "$*" >&2
  exit 1
}

# Prints the comment that opens FILE, without its licence line.
usage() { # FILE
  sed -n '3,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p;}' "$1" | sed '1{/^$/d;}'
}

# Runs a command, says what for and how long it took; a failure ends all.
step() { # TITLE COMMAND...
  local title=$1 start=$SECONDS
  shift
  printf '  %s\n' "$title"
  "$@" </dev/null || fail "$title: failed; the lines above say why." \
    'Running the same command again starts over.'
  printf '    done in %d s\n' "$((SECONDS - start))"
}

# --- which interpreter ------------------------------------------------------

# Prints X.Y of an interpreter that runs and can make environments.
usable_version() { # PYTHON
  "$1" -c 'import ensurepip, sys, venv
print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null
}

# Prints the interpreter to base the environment on: SN_MM_PYTHON, or the
# first that fits of python3, pythonX.Y on PATH, and pyenv's.
find_python() { # STACK VERSIONS
  local version python found
  if [ -n "${SN_MM_PYTHON:-}" ]; then
    found=$(usable_version "$SN_MM_PYTHON") || fail "SN_MM_PYTHON=$SN_MM_PYTHON" \
      "does not run, or lacks venv and ensurepip (Debian, Ubuntu: apt install" \
      "python3-venv)."
    case " $2 " in *" $found "*) ;; *) fail "SN_MM_PYTHON=$SN_MM_PYTHON is" \
      "Python $found; the $1 set needs one of: $2." ;; esac
    printf '%s\n' "$SN_MM_PYTHON"
    return
  fi
  for version in 3 $2; do
    for python in "python$version" \
      "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
      found=$(usable_version "$python") || continue
      case " $2 " in *" $found "*) ;; *) continue ;; esac
      printf '%s\n' "$python"
      return
    done
  done
  fail "found no Python that runs, can make virtual environments and is one" \
    "of $2, which the $1 set needs. Install one (Debian, Ubuntu: apt install" \
    "python3 python3-venv) or name it in SN_MM_PYTHON."
}

# --- an environment of our own ----------------------------------------------

# Prints a key of all that an environment is made from, its place included: a
# virtual environment does not survive being moved. Raise the number when this
# file installs something else from the same requirements.
env_key() { # PYTHON STACK MMCV
  {
    printf '%s\n' 4 "$SN_MM_ROOT" "$2" "$3" "${SN_MM_TORCH_PIP_ARGS:-}"
    "$1" -VV
    cat "$SN_MM_ROOT/requirements/libraries.txt" \
      "$SN_MM_ROOT/requirements/$2"/*.txt
  } | cksum
}

# Libraries first: torch then finds its dependencies, pinned, and whatever
# index it comes from needs to hold nothing else. Most of what is installed is
# never imported, so byte code is made of what is (see keep_byte_code), not by
# pip of everything.
make_env() { # BASE_PYTHON VENV STACK MMCV
  local python="$2/bin/python" pip torch_args
  local files="$SN_MM_ROOT/requirements/$3"
  pip=("$python" -m pip --disable-pip-version-check install -qq --no-compile)
  read -r -a torch_args <<<"${SN_MM_TORCH_PIP_ARGS:-}"
  echo "Setting up $2"
  rm -rf "$2"
  step 'making a virtual environment' "$1" -m venv "$2"
  step 'libraries (up to 1 minute)' \
    "${pip[@]}" --no-deps -r "$files/libraries.txt"
  # before PyTorch: where that is installed, onedl's mmcv compiles its
  # operators; and a wheel of it that pip kept may have them
  [ "$4" = compiled ] ||
    MMCV_WITH_OPS=0 step 'mmcv without compiled operators' \
      "${pip[@]}" --no-cache-dir --no-deps --no-build-isolation \
      -r "$files/mmcv-lite.txt"
  step 'PyTorch (1 to 5 minutes; 3 GB where it is for GPUs)' \
    "${pip[@]}" ${torch_args[@]+"${torch_args[@]}"} -r "$files/torch.txt"
  step 'the OpenMMLab toolboxes' \
    "${pip[@]}" --no-deps --no-build-isolation -r "$files/toolboxes.txt"
  if [ "$4" = compiled ]; then
    # shellcheck source=tools/build_mmcv.sh
    source "$SN_MM_ROOT/tools/build_mmcv.sh"
    install_compiled_mmcv "$python" "$(cat "$files/mmcv.txt")"
  fi
  step 'sn_mm, editable' \
    "${pip[@]}" --no-deps --no-build-isolation -e "$SN_MM_ROOT"
  step "sn_mm's operators for mmcv" "$python" -m sn_mm.doctor --install-ops
  step 'byte code of what is used' keep_byte_code "$python"
}

# Without byte code every start takes 10 seconds instead of 4, and where
# PYTHONDONTWRITEBYTECODE is set no start would leave any.
keep_byte_code() { # PYTHON
  PYTHONDONTWRITEBYTECODE='' "$1" -c '
import matplotlib.pyplot, mmengine.runner, sn_mm
import mmdet.apis, mmdet.datasets, mmdet.models
import mmseg.apis, mmseg.datasets, mmseg.models
'
}

# Holds off a second set-up of the same environment.
lock_env() { # VENV
  until mkdir "$1.lock" 2>/dev/null; do
    if ! kill -0 "$(cat "$1.lock/pid" 2>/dev/null || echo 0)" 2>/dev/null; then
      rm -rf "$1.lock" # its process is gone
      continue
    fi
    [ -n "${waiting:-}" ] || echo "Waiting for another set-up of $1."
    waiting=1
    sleep 2
  done
  # first of all: on a full disk the next line fails
  trap "rm -rf $(printf %q "$1.lock")" EXIT
  echo "$$" >"$1.lock/pid"
}

use_own_env() {
  local stack=${SN_MM_STACK:-official} mmcv=${SN_MM_MMCV:-lite}
  local versions base venv key
  case $stack in
    official) versions='3.11 3.12 3.10 3.13 3.9' ;;
    onedl) versions='3.11 3.12 3.10' ;;
    classic) versions='3.10 3.9 3.11' ;;
    *) fail "SN_MM_STACK is '$stack'; choose official, onedl or classic." ;;
  esac
  case $mmcv in
    lite | compiled) ;;
    *) fail "SN_MM_MMCV is '$mmcv'; choose lite or compiled." ;;
  esac
  base=$(find_python "$stack" "$versions")
  venv=$SN_MM_ROOT/.venv/$stack-cp$(usable_version "$base" | tr -d .)
  key=$(env_key "$base" "$stack" "$mmcv")
  PYTHON=$venv/bin/python
  mkdir -p "$SN_MM_ROOT/.venv"
  lock_env "$venv"
  if [ "$(cat "$venv/sn_mm.env" 2>/dev/null)" != "$key" ] ||
    ! usable_version "$PYTHON" >/dev/null; then
    make_env "$base" "$venv" "$stack" "$mmcv"
    printf '%s\n' "$key" >"$venv/sn_mm.env" # last: it is finished
    echo "To enter it: source ${venv#"$PWD/"}/bin/activate"
  fi
  rm -rf "$venv.lock"
  trap - EXIT
}

# --- an environment that exists ---------------------------------------------

use_given_env() { # SN_MM_ENV
  local page
  case $1 in
    current) PYTHON=$(command -v python || command -v python3 || true) ;;
    *) if [ -d "$1" ]; then PYTHON=$1/bin/python; else PYTHON=$1; fi ;;
  esac
  PYTHON=$("$PYTHON" -c 'import sys; print(sys.executable)' 2>/dev/null) ||
    fail "SN_MM_ENV=$1 is no environment: give a folder that holds" \
      "bin/python, an interpreter, or 'current'."
  # sn_mm itself is not installed into somebody's environment
  export PYTHONPATH="$SN_MM_ROOT${PYTHONPATH:+:$PYTHONPATH}"
  page=$("$PYTHON" -m sn_mm.doctor --packages mmdet mmseg 2>&1) || {
    printf '%s\n' "$page" >&2
    fail "SN_MM_ENV=$1 lacks something; the page above says what. Nothing" \
      'was installed.'
  }
}

# --- all of it --------------------------------------------------------------

# Prints the interpreter and the versions of what matters, importing nothing.
print_versions() {
  "$PYTHON" - <<'PYTHON'
import platform
import sys
from importlib.metadata import distributions

names = ('torch torchvision numpy mmengine mmcv mmcv-lite mmdet '
         'mmdetection mmsegmentation mmpretrain').split()
have = {d.metadata['Name']: d.version for d in distributions()}
found = [f'{n} {have[n]}' for name in names for n in (name, f'onedl-{name}')
         if n in have]
print(sys.executable)
print(', '.join([f'Python {platform.python_version()}', *found]), flush=True)
PYTHON
}

setup_env() {
  if [ -n "${SN_MM_ENV:-}" ]; then
    use_given_env "$SN_MM_ENV"
  else
    use_own_env
  fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  case ${1:-} in
    '') ;;
    -h | --help) usage "$0" && exit 0 ;;
    *) fail "unknown argument: $1. This takes none; see --help." ;;
  esac
  setup_env
  print_versions
fi
