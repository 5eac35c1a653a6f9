#!/usr/bin/env bash
# make-folders.sh USER FOLDER…: creates folders that belong to USER, a number.
set -euo pipefail
owner=$1
shift
install --directory --owner="$owner" --group="$owner" "$@"
