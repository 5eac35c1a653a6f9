#!/usr/bin/env bash
# make-venv.sh VENV WHEEL [EXTRA…]: creates an environment for `patch-compile run` and the server, with the wheel and the packages
# that it and the extras require. A plain installation has no torch: that is in the extra `build`.
set -euo pipefail
venv=$1 wheel=$2
shift 2
extras=$(IFS=, && echo "$*")
python3 -m venv --without-pip "$venv"
python3 -m pip --disable-pip-version-check --python "$venv/bin/python" install --quiet "$wheel${extras:+[$extras]}"
