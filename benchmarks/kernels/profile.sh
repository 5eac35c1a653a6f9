#!/usr/bin/env bash
# Nsight Compute over a decode and a prefill kernel, on the GPU that is here: profile.sh [FOLDER]
set -euo pipefail
folder=$(realpath -m "${1:-profiles}")
cd "$(dirname "$0")/../.."
command -v ncu >/dev/null || { echo "ncu is missing: it comes with Nsight Compute" >&2; exit 1; }
mkdir -p "$folder"
for tokens in 16 2048; do
  ncu --set full --import-source yes --clock-control none --kernel-name 'regex:patch_(stream|tiles)' --launch-skip 2 \
    --launch-count 1 --force-overwrite --export "$folder/tokens-$tokens" \
    python benchmarks/kernels/launch_once.py "$tokens"
  ncu --import "$folder/tokens-$tokens.ncu-rep" --page details > "$folder/tokens-$tokens.txt"
done
