#!/usr/bin/env bash
# From nothing to the first result on your own images: the commands of docs/tutorials/own_images.md,
# each with the time that it took, and the time of a core (two cores may do two seconds in one).
#
#   bash examples/own_images.sh IMAGES OUT [REPOSITORY]
#
# IMAGES: a folder with images and labels.csv; OUT: a new folder; REPOSITORY: what is cloned, if not
# this one. docs/tutorials/own_images.md has what it took.
set -euo pipefail
images=$(realpath "${1:?IMAGES is missing: bash examples/own_images.sh IMAGES OUT}")
out=$(realpath -m "${2:?OUT is missing: bash examples/own_images.sh IMAGES OUT}")
repository=${3:-$(cd "$(dirname "$0")/.." && pwd)}
[ -f "$images/labels.csv" ] || { echo "error: $images has no labels.csv" >&2; exit 2; }
[ ! -e "$out" ] || { echo "error: $out is there already; name a new folder" >&2; exit 2; }

step() { # NAME COMMAND…
  TIMEFORMAT="== $1: %0R s (%0U s of a core)"
  time "${@:2}"
}
install() { python3 -m venv venv && venv/bin/pip install -q -e clone; }

mkdir -p "$out" && cd "$out"
SECONDS=0
step "clone" git clone -q "$repository" clone
step "install" install
PATH=$out/venv/bin:$PATH
cd clone
step "build" python -m data_builders.build image_folder --name=mine --manual_dir="$images" \
  --labels_csv="$images/labels.csv" --data_dir=data
step "pretrain" python run.py --config=configs/simclr.py:cpu --config.data.name=mine --workdir=runs/mine
step "transfer" python run.py --config=configs/transfer.py --config.encoder=runs/mine \
  --config.dataset=mine --workdir=runs/mine_transfer
echo "== from clone to $out/clone/runs/mine_transfer/report.html: $SECONDS s"
