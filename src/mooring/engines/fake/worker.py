"""The fake worker: ``python -m mooring.engines.fake.worker``."""

from __future__ import annotations

import time

from mooring.engines.fake.options import FakeOptions
from mooring.engines.fake.service import FakeService
from mooring.engines.http import create_app, serve
from mooring.engines.process import ParentPipe
from mooring.errors import InvalidModelFile, MooringError


def main() -> None:
    pipe = ParentPipe()
    spec = pipe.read_spec()
    pipe.loading(0.0)
    try:
        options = FakeOptions.parse(spec.options)
        if options.fail:
            raise InvalidModelFile(options.fail)
    except MooringError as error:
        pipe.failed(error)
        raise SystemExit(1) from error
    time.sleep(options.load_time)
    held = bytearray(b"\x01") * options.memory
    serve(create_app(spec, FakeService(spec, options).routes()), pipe)
    del held


if __name__ == "__main__":
    main()
