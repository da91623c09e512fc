#!/usr/bin/env bash
# Installs into .venv at the pinned versions: scripts/install.sh -e '.[dev]'
# By uv, which is quick; by pip where uv cannot reach the package index that pip is configured for.
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
export UV_PYTHON="$PWD/$python" UV_NO_PROGRESS=1 PIP_DISABLE_PIP_VERSION_CHECK=1

if [ ! -x .venv/bin/uv ]; then
  "$python" -m pip install --quiet --constraint constraints.txt uv
fi
if ! .venv/bin/uv pip install --compile-bytecode --constraint constraints.txt "$@"; then
  echo 'install.sh: uv could not install; trying pip' >&2
  "$python" -m pip install --constraint constraints.txt "$@"
fi
