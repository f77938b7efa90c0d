#!/usr/bin/env bash
# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
#
# Usage: bash tools/demo.sh
#
# From nothing to a detector: sets up the environment, makes the demo data,
# trains Faster R-CNN + FPN with SN in backbone, neck and head on it (on the
# GPU if there is one, else on the CPU), evaluates it with the COCO metric and
# draws its detections. Run again, it goes to the training at once.
#
# tools/setup_env.sh explains the variables that choose the environment;
# SN_MM_DEMO_DATA=FOLDER puts the data elsewhere than in data/demo.
set -euo pipefail

# shellcheck source=tools/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

config=configs/demo/faster-rcnn_r18_fpn_sn-all_demo.py
data=${SN_MM_DEMO_DATA:-$SN_MM_ROOT/data/demo}
case $data in /*) ;; *) data=$PWD/$data ;; esac
export SN_MM_DEMO_DATA="$data"
work=work_dirs/demo/faster-rcnn_r18_fpn_sn-all_demo

print_plan() {
  cat <<EOF
The demo's steps:
  1. environment   1 to 5 minutes the first time, then none
  2. data          about 15 seconds the first time, into $data
  3. training      2 to 4 minutes, on a GPU or on 2 CPU cores
  4. evaluation    and pictures, about 20 seconds

EOF
}

# Threads that wait for cores which other programs use make each step many
# times slower, so on a machine that is busy before we start, one must do.
choose_threads() {
  local load
  if [ -n "${OMP_NUM_THREADS:-}" ]; then return; fi
  load=$(uptime | sed -n 's/.*load averages\{0,1\}: *\([0-9]*\).*/\1/p')
  if [ "${load:-0}" -ge "$(getconf _NPROCESSORS_ONLN)" ]; then
    export OMP_NUM_THREADS=1
    echo 'Other programs keep this machine busy, so the training uses one' \
      'thread and takes longer (OMP_NUM_THREADS=N chooses otherwise).'
  fi
}

title() { printf '\n=== %s\n' "$*"; }

# Prints the box AP of the newest evaluation under a folder.
print_ap() { # FOLDER
  "$PYTHON" - "$1" <<'PYTHON'
import json
import sys
from pathlib import Path

files = [path for path in Path(sys.argv[1]).glob('*/*.json')]
if not files:
    sys.exit('no evaluation was written')
scores = json.loads(max(files, key=lambda path: path.stat().st_mtime)
                    .read_text().splitlines()[-1])
print(f'AP     {scores["coco/bbox_mAP"]:.3f}   (COCO: IoU 0.50 to 0.95)')
print(f'AP50   {scores["coco/bbox_mAP_50"]:.3f}   (IoU 0.50)')
PYTHON
}

main() {
  local checkpoint count
  print_plan
  choose_threads
  # setuptools says so at every import of mmengine
  export PYTHONWARNINGS="${PYTHONWARNINGS:-ignore:pkg_resources is deprecated}"

  title '1. environment'
  setup_env
  print_versions
  # the configs and the tools are run from the repository
  cd "$SN_MM_ROOT"

  title '2. data'
  "$PYTHON" tools/make_demo_data.py "$data" ||
    fail 'making the demo data failed; the lines above say why.'

  title '3. training'
  "$PYTHON" tools/train.py "$config" --work-dir "$work" ||
    fail 'training failed; the lines above say why.'

  title '4. evaluation'
  checkpoint=$(cat "$work/last_checkpoint")
  rm -rf "$work/pictures"
  "$PYTHON" tools/test.py "$config" "$checkpoint" --work-dir "$work/test" \
    --show-dir "$work/pictures" ||
    fail 'evaluation failed; the lines above say why.'

  title 'Faster R-CNN + FPN with SN, validation images'
  print_ap "$work/test" || fail "found no AP in $work/test."
  echo "model      $checkpoint"
  echo "pictures   $SN_MM_ROOT/$work/pictures"
  count=$(find "$work/pictures" -type f | wc -l | tr -d ' ')
  echo "  ($count files; left the truth, right the detections)"
}

case ${1:-} in
  '') main ;;
  -h | --help) usage "${BASH_SOURCE[0]}" ;;
  *) fail "unknown argument: $1. This takes none; see --help." ;;
esac
