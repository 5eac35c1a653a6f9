#!/usr/bin/env bash
# build-wheel.sh FOLDER: builds the wheel of this checkout in the environment that `make` created.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec .venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$1" .
