"""The workers' own figures beside the server's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mooring.api.metrics import merge


def test_a_worker_may_end_its_page_or_comment_as_it_likes() -> None:
    worker: Any = SimpleNamespace(id="w1", spec=SimpleNamespace(model="tiny:latest"))
    page = '# HELP x Things.\n# TYPE x gauge\n#\n# by hand\nx{a="b"} 1\n# EOF\n'
    assert merge([(worker, page)]).decode().splitlines() == [
        "# HELP x Things.",
        "# TYPE x gauge",
        'x{a="b",model="tiny:latest",worker="w1"} 1',
    ]
