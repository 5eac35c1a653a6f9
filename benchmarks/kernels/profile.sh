#!/usr/bin/env bash
# Nsight Compute over one kernel, on the GPU that is here: profile.sh decode|int4|prefill [FOLDER]
set -euo pipefail
what=${1:-} folder=$(realpath -m "${2:-profiles}")
case $what in
  decode) launch="16 --share 0.9" ;;
  int4) launch="1 --share 0.9 --weights int4" ;;
  prefill) launch="2048 --share 1" ;;
  *) echo "usage: profile.sh decode|int4|prefill [FOLDER]" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/../.."
command -v ncu >/dev/null || { echo "ncu is missing: it comes with Nsight Compute" >&2; exit 1; }
mkdir -p "$folder"
# shellcheck disable=SC2086 # words of `launch`
ncu --set full --import-source yes --clock-control none --kernel-name 'regex:patch_(stream|tiles)' --launch-skip 2 \
  --launch-count 1 --force-overwrite --export "$folder/$what" python3 benchmarks/kernels/launch_once.py $launch
ncu --import "$folder/$what.ncu-rep" --page details > "$folder/$what.txt"
