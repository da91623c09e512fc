#!/usr/bin/env bash
# Sees to it that the programs that some tests drive are here: scripts/system_packages.sh chromium docker-registry postgresql
# As root on Debian and its kin it installs what is missing; elsewhere it says what is missing (those tests then skip
# by name, or fail in CI).
set -euo pipefail

missing=()
for name in "$@"; do
  command -v "$name" >/dev/null || compgen -G "/usr/lib/$name/*/bin" >/dev/null || missing+=("$name")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
else
  echo "Not here: ${missing[*]}. On Debian: sudo apt-get install ${missing[*]}" >&2
fi
