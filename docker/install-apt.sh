#!/usr/bin/env bash
# install-apt.sh FILE: the Debian packages that FILE lists. Nothing to clean up: what apt downloads is in cache mounts.
set -euo pipefail
apt-get update --quiet
DEBIAN_FRONTEND=noninteractive xargs --arg-file="$1" apt-get install --yes --quiet --no-install-recommends
