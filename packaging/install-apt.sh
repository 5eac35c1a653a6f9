#!/usr/bin/env bash
# install-apt.sh FILE: installs the Debian packages that FILE lists. Downloads go to cache mounts, so the image needs no clean-up.
set -euo pipefail
apt-get update --quiet
DEBIAN_FRONTEND=noninteractive xargs --arg-file="$1" apt-get install --yes --quiet --no-install-recommends
