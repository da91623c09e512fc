"""Predicted against measured memory of llama.cpp workers: ``python bench/memory.py [MODEL.gguf ...]``.

Starts a real worker per line, fills its batch and its slots with requests, and compares the resident size
of the process with ``mooring.cluster.footprint.estimate``. Without arguments it measures random models of
several shapes; give the paths of real GGUF files to measure those too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from mooring.cluster.footprint import MIB, MemoryEstimate, embeds, estimate  # noqa: E402
from mooring.config import worker_environment  # noqa: E402
from mooring.engines.base import WorkerSpec  # noqa: E402
from mooring.modelstore.convert.bert import convert_bert  # noqa: E402
from mooring.modelstore.formats import inspect  # noqa: E402
from mooring.types import ModelInfo  # noqa: E402
from support.tiny_models import LlamaShape, write_bert_folder, write_llama  # noqa: E402

_BLOCKS = LlamaShape(
    layers=12, embedding=1024, feed_forward=4096, heads=16, heads_kv=8, context=32768, vocab=32000
)
_WIDE_VOCABULARY = LlamaShape(
    layers=4, embedding=512, feed_forward=1024, heads=8, heads_kv=8, context=32768, vocab=128000, merges=True
)


@dataclass(frozen=True)
class Case:
    label: str
    path: Path
    info: ModelInfo
    context: int
    slots: int


def random_models(folder: Path) -> Iterator[tuple[str, Path]]:
    for dtype in ("F16", "Q8_0", "Q4_0", "Q4_1"):
        shape = replace(_BLOCKS, dtype=dtype, tied=dtype != "Q8_0")
        yield f"random 0.2B {dtype}", write_llama(folder / f"{dtype}.gguf", shape)
    shape = replace(_WIDE_VOCABULARY, dtype="Q8_0")
    yield "random, vocabulary 128k", write_llama(folder / "vocabulary.gguf", shape)
    convert_bert(write_bert_folder(folder / "bert"), folder / "bert.gguf")
    yield "random tiny BERT", folder / "bert.gguf"


def cases(label: str, path: Path) -> Iterator[Case]:
    info = inspect(path)
    if embeds(info):
        sizes = [(info.context_length, 1), (info.context_length, 4), (info.context_length // 2, 2)]
    else:
        sizes = [(512, 1), (2048, 1), (2048, 4), (8192, 2)]
    for context, slots in sizes:
        if context <= info.context_length:
            yield Case(label, path, info, context, slots)


def measure(case: Case) -> int:
    """Resident bytes of a worker that has filled its batch and its slots."""
    spec = WorkerSpec(
        engine="llamacpp",
        model="measured",
        worker_id="bench",
        weights=case.path,
        api_key="bench",
        capabilities=case.info.capabilities,
        context=case.context,
        slots=case.slots,
        threads=psutil.cpu_count(logical=False) or 1,
        pooling=case.info.pooling,
    )
    worker: subprocess.Popen[str] = subprocess.Popen(
        [sys.executable, "-m", "mooring.engines.llamacpp.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=worker_environment(),
    )
    try:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(spec.to_json() + "\n")
        worker.stdin.flush()
        url = _wait_until_ready(worker.stdout)
        with ThreadPoolExecutor(case.slots) as pool:
            list(pool.map(lambda seed: _fill(case, url, seed), range(case.slots)))
        return int(psutil.Process(worker.pid).memory_info().rss)
    finally:
        worker.kill()
        worker.wait()


def _wait_until_ready(lines: Any) -> str:
    for line in lines:
        event = json.loads(line)
        if event["event"] == "ready":
            return str(event["url"])
        if event["event"] == "failed":
            raise SystemExit(f"the worker failed: {event}")
    raise SystemExit("the worker ended before it was ready")


def _fill(case: Case, url: str, seed: int) -> None:
    """One request as long as a batch; tokens differ, so that no prefix is reused."""
    body: dict[str, Any]
    if embeds(case.info):
        path, body = "/v1/embeddings", {"input": "a " * (case.context - 2)}
    else:
        length = min(case.context - 32, 520)
        prompt = [3 + (7 * i + 13 * seed) % 250 for i in range(length)]
        path, body = "/v1/completions", {"prompt": prompt, "max_tokens": 16, "temperature": 0}
    request = urllib.request.Request(
        url + path,
        json.dumps({"model": "measured", **body}).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer bench"},
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        answer.read()


def report(case: Case, predicted: MemoryEstimate, measured: int) -> str:
    mib = [
        f"{part / MIB:.0f}"
        for part in (predicted.weights, predicted.kv_cache, predicted.compute, predicted.runtime)
    ]
    total = predicted.ram_total
    cells = [
        case.label,
        f"{case.context} × {case.slots}",
        *mib,
        f"{total / MIB:.0f}",
        f"{measured / MIB:.0f}",
        f"{total / measured:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="GGUF files to measure besides the random ones")
    parser.add_argument("--only", action="store_true", help="measure the given files only")
    options = parser.parse_args()
    print(
        f"xllamacpp {version('xllamacpp')}, Python {platform.python_version()}, {platform.platform()}, ",
        end="",
    )
    print(f"{os.cpu_count()} CPUs; MiB; GPU terms were not run\n")
    print("| model | context × slots | weights | KV | compute | runtime | predicted | measured RSS | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        named = [(path.stem, path) for path in options.models]
        for label, path in [*named, *(() if options.only else random_models(Path(folder)))]:
            for case in cases(label, path):
                predicted = estimate(case.info, context=case.context, slots=case.slots)
                print(report(case, predicted, measure(case)), flush=True)


if __name__ == "__main__":
    main()
