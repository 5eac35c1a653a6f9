#!/usr/bin/env bash
# compute-sanitizer over every configuration of the kernels, on the GPU that is here.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is missing: it comes with the CUDA toolkit" >&2; exit 1; }
rows=$(mktemp -d)
trap 'rm -rf "$rows"' EXIT
for tool in memcheck racecheck synccheck; do
  echo "== $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 9 \
    python benchmarks/kernels/run.py --check-only --out "$rows/$tool.jsonl"
done
