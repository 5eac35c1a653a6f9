#!/usr/bin/env bash
# build-wheel.sh FOLDER: this checkout's wheel, built in the environment that `make` made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec .venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$1" .
