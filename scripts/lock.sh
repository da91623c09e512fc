#!/usr/bin/env bash
# Writes constraints.txt: the exact versions that `make install` uses, for every platform and Python we support.
# Usage: scripts/lock.sh [--upgrade | --upgrade-package NAME ...]
set -euo pipefail
cd "$(dirname "$0")/.."

uv="$PWD/.venv/bin/uv"
[ -x "$uv" ] || uv="$PWD/.venv/Scripts/uv.exe"

echo 'torch==2.13.0' | "$uv" pip compile pyproject.toml - \
  --universal --python-version 3.11 \
  --extra dev --extra postgres \
  --no-annotate --no-emit-index-url --no-emit-find-links \
  --custom-compile-command 'scripts/lock.sh' \
  --quiet --output-file constraints.txt "$@"

if grep -nEi '^(nvidia-(cu|nc|nv)|triton|torchvision|torchaudio|cuda-)' constraints.txt; then
  echo 'lock.sh: the CUDA packages above must not be in constraints.txt' >&2
  exit 1
fi
