#!/usr/bin/env bash
# A tool of compute-sanitizer over one configuration of the kernels, on the GPU that is here: sanitize.sh TOOL CONFIG [FOLDER]
# TOOL: memcheck, racecheck or synccheck.  CONFIG: a name of plugins/kernels/config.h, or "dense path".  Rows and
# what the tool says are in FOLDER then ("sanitized").  Only kernels of ours are watched: those of libraries take minutes.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: sanitize.sh TOOL CONFIG [FOLDER]" >&2; exit 2; }
tool=$1 config=$2 folder=$(realpath -m "${3:-sanitized}")
cd "$(dirname "$0")/../.."
command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is missing: it comes with the CUDA toolkit" >&2; exit 1; }
case $(compute-sanitizer --help) in
  *--kernel-regex*) filter=--kernel-regex ;;
  *--kernel-name*) filter=--kernel-name ;; # of older versions
  *) echo "this compute-sanitizer has no filter of kernels" >&2; exit 1 ;;
esac
mkdir -p "$folder"
compute-sanitizer --tool "$tool" --error-exitcode 9 $filter kns=patch_ \
  python3 benchmarks/kernels/run.py --check-only "$config" --out "$folder/$tool.jsonl" 2>&1 |
  tee "$folder/$tool-${config// /-}.txt"
