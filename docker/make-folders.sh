#!/usr/bin/env bash
# make-folders.sh USER FOLDER…: folders that USER (a number) may write to.
set -euo pipefail
owner=$1
shift
install --directory --owner="$owner" --group="$owner" "$@"
