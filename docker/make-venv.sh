#!/usr/bin/env bash
# make-venv.sh VENV WHEEL [EXTRA…]: creates an environment for `patch-compile run` and the server. It has the packages that the
# wheel and the extras require, without those for learning and compiling (docker/left-out.txt): torch and most of the bytes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$1 wheel=$2
shift 2
python3 -m venv --without-pip "$venv"
python3 "$here/requirements.py" "$wheel" "$@" <"$here/left-out.txt" >"$venv/requirements.txt"
pip=(python3 -m pip --disable-pip-version-check --python "$venv/bin/python" install --quiet)
"${pip[@]}" --requirement "$venv/requirements.txt"
"${pip[@]}" --no-deps "$wheel"
