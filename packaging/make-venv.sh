#!/usr/bin/env bash
# make-venv.sh VENV WHEEL [EXTRA…]: creates an environment for `patch-compile run` and the server, with the wheel and the packages
# that it and the extras require. A plain installation has no torch: that is in the extra `build`. Packages come by hash from
# EXTRA.lock (`make lock` writes it) where there is one. `tensorrt` has none, because NVIDIA's own index has its libraries.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
venv=$1 wheel=$2
shift 2
python3 -m venv --without-pip "$venv"
install() { python3 -m pip --disable-pip-version-check --python "$venv/bin/python" install --quiet "$@"; }
for extra in "$@"; do
  [ ! -f "$here/$extra.lock" ] || install --no-deps --require-hashes --requirement "$here/$extra.lock"
done
extras=$(IFS=, && echo "$*")
install "$wheel${extras:+[$extras]}"
