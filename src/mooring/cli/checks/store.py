"""Checks of the model store: damaged models, files used by reference, half-downloaded files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mooring.cli.checks.finding import Finding, fail, ok, warn
from mooring.cli.output import format_bytes, format_span
from mooring.errors import MooringError

if TYPE_CHECKING:
    from mooring.modelstore.store import ModelStore


def check_models(store: ModelStore) -> Iterator[Finding]:
    """Every model's files: there, of the right size, unchanged where they are used by reference."""
    models = store.list()
    for problem in store.problems:
        yield fail("store", problem, "Pull that model again, or remove it with `mooring rm`.")
    sound = 0
    for model in models:
        try:
            store.check(model)
            sound += 1
        except MooringError as error:
            advice = f"Pull or create it again, or remove it: mooring rm {model.name.short}"
            yield fail("store", f"{model.name.short}: {error.message}", advice)
    if sound:
        yield ok("store", f"{sound} sound model{'s' if sound != 1 else ''}")
    elif not models:
        yield ok("store", "empty; `mooring pull smollm2` fetches a first model")


def check_partials(store: ModelStore) -> Iterator[Finding]:
    """Downloads that did not end."""
    partials = sorted(store.blobs.folder.glob("*-partial"))
    for path in partials:
        stat = path.stat()
        size = stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size
        yield warn(
            "downloads",
            f"{path.name[:19]}… is half downloaded ({format_bytes(size)}, {format_span(time.time() - stat.st_mtime)} old)",
            "Run its `mooring pull` again: it goes on from there. After a week `mooring rm --leftovers` deletes it.",
        )
