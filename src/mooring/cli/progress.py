"""Progress of long operations: bars on a terminal, NDJSON with ``--json``, plain lines elsewhere.

Bars and lines go to stderr; NDJSON is the command's answer and goes to stdout.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mooring.cli.output import error_line, format_bytes, print_json
from mooring.types import Progress, ProgressFn

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_JSON_INTERVAL = 0.2  # seconds between two lines of the same step
_LINE_STEP = 10  # percent between two plain lines of the same step


@contextmanager
def show_progress(*, as_json: bool, in_bytes: bool = True) -> Iterator[ProgressFn]:
    """A callback that shows progress in the way that fits this process's output.

    ``in_bytes`` False: totals are counts (loading reports percent), shown as a share only.
    """
    if as_json:
        yield _but_success(JsonProgress())
    elif sys.stderr.isatty():
        with _bars(in_bytes) as bars:
            yield _but_success(bars)
    else:
        yield _but_success(LineProgress(in_bytes))


def _but_success(show: ProgressFn) -> ProgressFn:
    """Leaves out the last word of a pull: the command says itself how it went, with its result."""

    def report(step: Progress) -> None:
        if step.status != "success":
            show(step)

    return report


class JsonProgress:
    """One object a line, in the shape of Ollama's pull stream; steps that only count are thinned out."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], float] = {}

    def __call__(self, step: Progress) -> None:
        now = time.monotonic()
        key = (step.status, step.digest)
        ended = step.total > 0 and step.completed >= step.total
        if key in self._last and not ended and now - self._last[key] < _JSON_INTERVAL:
            return
        self._last[key] = now
        fields = {"digest": step.digest, "total": step.total, "completed": step.completed}
        print_json({"status": step.status, **{name: value for name, value in fields.items() if value}})


class LineProgress:
    """A line for each step, and one for every tenth of a step whose size is known."""

    def __init__(self, in_bytes: bool = True) -> None:
        self._in_bytes = in_bytes
        self._shown: dict[tuple[str, str], int] = {}

    def __call__(self, step: Progress) -> None:
        key = (step.status, step.digest)
        percent = 100 * step.completed // step.total if step.total else 0
        tenth = percent // _LINE_STEP
        if self._shown.get(key, -1) >= tenth:
            return
        self._shown[key] = tenth
        whole = f" of {format_bytes(step.total)}" if self._in_bytes else ""
        error_line(step.status + (f" {percent} %{whole}" if step.total else ""))


class BarProgress:
    """A bar for each step whose size is known; the others come and go on a line of their own."""

    def __init__(self, bars: Bars, in_bytes: bool) -> None:
        self._bars = bars
        self._in_bytes = in_bytes
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __call__(self, step: Progress) -> None:
        key = (step.status, step.digest)
        task = self._tasks.get(key)
        if task is None:
            self._retire_pending()
            task = self._bars.add_task(step.status, total=step.total or None, amount="")
            self._tasks[key] = task
        self._bars.update(task, completed=step.completed, total=step.total or None, amount=self._amount(step))

    def _amount(self, step: Progress) -> str:
        if not step.total:
            return ""
        if not self._in_bytes:
            return f"{100 * step.completed // step.total} %"
        return f"{format_bytes(step.completed)} of {format_bytes(step.total)}"

    def _retire_pending(self) -> None:
        """Hide the steps without a size: a newer one has begun."""
        for task in self._bars.tasks:
            if task.total is None:
                self._bars.update(task.id, visible=False)


@contextmanager
def _bars(in_bytes: bool) -> Iterator[BarProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    columns = (
        SpinnerColumn(),
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", max_width=36),
        ),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[amount]}", markup=False, table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield BarProgress(bars, in_bytes)
