"""From `mooring run` to the first token: process start, server start, model load and prefill together.

python bench/first_token.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report import environment, table

COMMAND = [sys.executable, "-m", "mooring", "run", "smollm2:135m", "Say hello."]


def once(command: list[str]) -> tuple[float, float]:
    """(seconds to the first byte on stdout, seconds to the end)."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as run:
        assert run.stdout is not None
        run.stdout.read(1)
        first = time.perf_counter() - began
        run.stdout.read()
        run.wait()
    return first, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    subprocess.run(
        [sys.executable, "-m", "mooring", "pull", "smollm2:135m"], check=True, stdout=subprocess.DEVNULL
    )
    samples = [once(COMMAND) for _ in range(rounds + 1)][1:]
    firsts, totals = zip(*samples, strict=True)
    rows = [
        ["first token", f"{statistics.median(firsts):.2f}", f"{min(firsts):.2f}", f"{max(firsts):.2f}"],
        ["whole command", f"{statistics.median(totals):.2f}", f"{min(totals):.2f}", f"{max(totals):.2f}"],
    ]
    print(f"{environment('xllamacpp')}; `{' '.join(['mooring', *COMMAND[3:]])}` without a running server,")
    print(f"{rounds} rounds\n\n{table(['seconds to', 'median', 'min', 'max'], rows)}")


if __name__ == "__main__":
    main()
