#!/usr/bin/env bash
# Half an hour on a GPU in five steps. Each ends by itself, may be repeated, and goes on from the rows of earlier ones.
#
#   half_hour.sh prepare [ARCH]  on a machine with the internet: build the kernels for ARCH (sm_90) into build/gpu, and say how
#                                many MiB travel from here to a GPU's machine that has neither the internet nor this package
#   half_hour.sh one             8 minutes at most: a first launch, every kernel against float64, the plugin's class, and the
#                                sweep of 1 and 16 tokens; of 1 also without early launches, into in-turn.jsonl
#   half_hour.sh two             6: products beside cuBLAS and cuSPARSELt
#   half_hour.sh three           4: the sweep of more tokens
#   half_hour.sh four            4: compute-sanitizer over six kernels
#   half_hour.sh five            2: Nsight Compute over three kernels
#   half_hour.sh --dry-run       all steps without a GPU: no kernel runs
#
# What a step writes is in the folder OUT (build/gpu): gpu.jsonl with all rows, log.txt, profiles.tgz. Where OUT is another
# folder, copy its gpu.jsonl into build/gpu before the next step.
set -uo pipefail
cd "$(dirname "$0")/../.."
kernels=benchmarks/kernels library=$PWD/build/gpu/libpatch_plugin_driver.so most_mib=40 failed=0
export PYTHONUNBUFFERED=1

prepare() {
  python3 $kernels/build_library.py --arch "$1" -o build/gpu || return
  local files libraries mib
  files=$(git ls-files -z --cached --others --exclude-standard | du -cb --files0-from=- | tail -n 1 | cut -f 1)
  libraries=$(du -sb build/gpu | cut -f 1)
  mib=$(((files + libraries) >> 20))
  echo "$mib MiB travel: this checkout without what git ignores, and build/gpu. $most_mib are allowed."
  [ $mib -le $most_mib ]
}

part() { # SECONDS COMMAND...: stop the command after so many, or when the step's time is over
  local seconds=$(($1 < limit - SECONDS ? $1 : limit - SECONDS))
  shift
  echo "== $*"
  if [ $seconds -le 0 ]; then echo "left out: the time of this step is over" && failed=1 && return 1; fi
  timeout -k 10 $seconds "$@" && return
  echo "exit code $?"
  failed=1
  return 1
}

bench() { # MINUTES STAGE [OPTION...]: a row that is being measured when the minutes are over may take 90 seconds
  part $(($1 * 60 + 90)) python3 $kernels/run.py --out "$out/${rows:-gpu.jsonl}" --minutes "$1" --stages "${@:2}"
}

one() {
  limit=480
  nvidia-smi -q -d CLOCK,POWER,PERFORMANCE
  uname -r
  nvcc --version | tail -n 2
  part 60 python3 $kernels/launch_once.py 16 || return # what can't start at all shall not take minutes
  bench 3 check
  part 120 python3 $kernels/plugin_on_gpu.py
  bench 2 sweep --tokens 1 16
  rows=in-turn.jsonl PATCH_PDL=0 bench 1 sweep --tokens 1
}

two() {
  limit=360
  bench 4 products
}

three() {
  limit=240
  bench 2 sweep --tokens 64 256 2048
}

four() {
  limit=240
  for config in decode-128 int4-decode-64 w8a8-prefill-128 all-decode-64 mid-64 prefill-128; do
    for tool in memcheck racecheck; do
      part 45 bash $kernels/sanitize.sh $tool "$config" "$work/found"
    done
  done
}

five() {
  limit=120
  for what in decode int4 prefill; do
    part 60 bash $kernels/profile.sh "$what" "$work/found"
  done
  tar -czf "$out/profiles.tgz" -C "$work/found" .
}

step() { # NAME
  SECONDS=0
  echo "=== step $1, $(date -u +%FT%TZ)"
  "$1"
  echo "=== step $1 ended after $SECONDS s with code $failed"
  return $failed
}

play() { # stand-ins for everything that needs a GPU, in front of PATH
  out=${OUT:-build/dry-run} library=$work/library.so
  rm -f "$out/gpu.jsonl" "$out/in-turn.jsonl"
  echo "of no GPU" >"$library"
  printf '#!/usr/bin/env bash\nexec %q %q "$@"\n' "$(command -v python3)" "$PWD/$kernels/dry_run.py" >"$work/python3"
  # A tool of NVIDIA: it answers, or starts the program behind its own arguments.
  cat >"$work/ncu" <<'END'
#!/usr/bin/env bash
case $1 in --help) echo --kernel-regex ;; esac
while [ $# -gt 0 ]; do [ "$1" != python3 ] || exec "$@"; shift; done
END
  for tool in compute-sanitizer nvidia-smi nvcc; do cp "$work/ncu" "$work/$tool"; done
  chmod +x "$work"/{python3,ncu,compute-sanitizer,nvidia-smi,nvcc}
  export PATH="$work:$PATH"
}

usage() {
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

[ $# -ge 1 ] || usage
[ ! -x .venv/bin/python3 ] || export PATH="$PWD/.venv/bin:$PATH"
work=$(mktemp -d) out=${OUT:-build/gpu} steps=("$1")
trap 'rm -rf "$work"' EXIT
mkdir "$work/found"
case $1 in
  prepare) prepare "${2:-sm_90}"; exit ;;
  one | two | three | four | five) [ -z "${2:-}" ] || usage ;;
  --dry-run) play; steps=(one two three four five) ;;
  *) usage ;;
esac
mkdir -p "$out"
[ "$1" = --dry-run ] || [ -e "$out/gpu.jsonl" ] || [ ! -e build/gpu/gpu.jsonl ] || cp build/gpu/gpu.jsonl "$out"
if [ -e "$library" ] && python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$library"; then
  export PATCH_BENCH_LIBRARY=$library
fi
for name in "${steps[@]}"; do step "$name"; done 2>&1 | tee -a "$out/log.txt"
exit "${PIPESTATUS[0]}"
