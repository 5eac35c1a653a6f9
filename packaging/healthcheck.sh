#!/usr/bin/env bash
# healthcheck.sh URL: fails unless the URL answers with status 200.
set -euo pipefail
# -P: ignore modules of the current folder.
exec python3 -P -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=3)' "$1"
