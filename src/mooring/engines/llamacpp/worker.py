"""The llama.cpp worker: ``python -m mooring.engines.llamacpp.worker``."""

from __future__ import annotations

import os

from mooring.engines.process import ParentPipe
from mooring.errors import MooringError


def main() -> None:
    pipe = ParentPipe()
    spec = pipe.read_spec()
    pipe.loading(0.0)
    try:
        from mooring.engines.llamacpp.server import load

        server = load(spec)
    except MooringError as error:
        pipe.failed(error)
        raise SystemExit(1) from error
    pipe.ready(server.listening_address)
    pipe.wait()
    os._exit(0)  # the kernel takes the memory back at once; tearing llama.cpp down saves nothing


if __name__ == "__main__":
    main()
