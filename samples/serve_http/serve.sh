#!/usr/bin/env bash
# serve.sh OUT [--port N] [more options: --help]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
# exec: signals reach the server itself. -P: ignore a folder named `samples` in the current directory.
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -P -m samples.serve_http.server "$@"
