"""Mooring's server against the very same llama.cpp worker asked directly.

    python bench/serving.py [--rounds 15] [--streams 1,4,8] [--tokens 64]

Both sides ask one worker process, in alternating rounds, with the same prompts; so the ratio is what the
gateway costs. Goals: at least 0.95 of the tokens/s, under 2 ms added to the first token at the median.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import orjson
import uvicorn

sys.path.insert(0, str(Path(__file__).parent))
from mooring.api.app import create_app
from mooring.api.services import open_services
from mooring.config import DeploymentSettings, Settings, load_settings
from mooring.egress import Egress
from mooring.modelstore.pull import pull
from mooring.modelstore.store import ModelStore
from report import environment, table

MODEL = "smollm2:135m"


@dataclass(frozen=True)
class Side:
    name: str
    url: str
    key: str


async def _server(home: Path, pipe: Connection, slots: int) -> None:
    wish = DeploymentSettings(context=1024, slots=slots, replicas_min=1)
    async with open_services(Settings(home=home), {MODEL: wish}) as services:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(services), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        deployment, _ = services.controller.resolve(MODEL)
        lease = await services.dispatcher.acquire(deployment, tenant="bench")
        replica = lease.replica
        lease.release()
        pipe.send((f"http://127.0.0.1:{listener.getsockname()[1]}", replica.url, replica.spec.api_key))
        await asyncio.to_thread(pipe.recv)
        server.should_exit = True
        await task


def _serve(home: Path, pipe: Connection, slots: int) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_server(home, pipe, slots))


async def _stream(
    session: aiohttp.ClientSession, side: Side, number: int, tokens: int, *, cached: bool = False
) -> tuple[float, int]:
    """(seconds to the first byte of the answer, tokens generated); ``cached``: the engine may reuse the prompt."""
    body = {
        "model": MODEL,
        "messages": [
            {"role": "user", "content": f"Story number {number}: tell me about the sea and its ships."}
        ],
        "max_tokens": tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": cached,
        "ignore_eos": True,
    }
    headers = {"authorization": f"Bearer {side.key}", "content-type": "application/json"}
    began, first, last = time.perf_counter(), 0.0, b""
    async with session.post(
        f"{side.url}/v1/chat/completions", data=orjson.dumps(body), headers=headers
    ) as response:
        response.raise_for_status()
        async for line in response.content:
            first = first or time.perf_counter() - began
            if line.startswith(b"data: {") and b'"usage"' in line:
                last = line
    return first, orjson.loads(last[6:])["usage"]["completion_tokens"]


async def _round(side: Side, streams: int, tokens: int, number: int) -> tuple[float, list[float]]:
    """(tokens per second over all streams, seconds to first token of each)."""
    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        done = await asyncio.gather(
            *(_stream(session, side, number * 100 + k, tokens) for k in range(streams))
        )
        elapsed = time.perf_counter() - began
    return sum(count for _, count in done) / elapsed, [first for first, _ in done]


async def measure(sides: list[Side], streams: int, rounds: int, tokens: int) -> list[str]:
    speed: dict[str, list[float]] = {side.name: [] for side in sides}
    firsts: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(-1, rounds):
        for side in sides if number % 2 else reversed(sides):
            rate, first = await _round(side, streams, tokens, number)
            if number >= 0:
                speed[side.name].append(rate)
                firsts[side.name] += first
    ours, direct = (statistics.median(speed[side.name]) for side in sides)
    pairs = zip(*(speed[side.name] for side in sides), strict=True)
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    our_first, direct_first = (statistics.median(firsts[side.name]) * 1000 for side in sides)
    return [
        str(streams),
        f"{direct:.1f}",
        f"{ours:.1f}",
        f"{ratio:.3f}",
        f"{direct_first:.1f}",
        f"{our_first:.1f}",
        f"{our_first - direct_first:+.2f}",
    ]


async def _added_by_gateway(sides: list[Side], pairs: int) -> str:
    """One stream at a time, its prompt in the engine's cache, turn about: little but the gateway remains.

    Each on a connection of its own, since llama.cpp's server closes one after some requests.
    """
    firsts: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(-5, pairs):
        for side in sides if number % 2 else list(reversed(sides)):
            async with aiohttp.ClientSession() as session:
                first, _ = await _stream(session, side, 7000, 1, cached=True)
            if number >= 0:
                firsts[side.name].append(first * 1000)
    mine, theirs = (firsts[side.name] for side in sides)
    added = statistics.median(a - b for a, b in zip(mine, theirs, strict=True))
    return (
        f"First token of {pairs} pairs of single streams whose prompt is cached: direct "
        f"{statistics.median(theirs):.2f} ms, Mooring {statistics.median(mine):.2f} ms (medians); median of the "
        f"pairs' differences {added:+.2f} ms."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--streams", default="1,4,8")
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.streams.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        asyncio.run(_fetch(home))
        here, there = multiprocessing.Pipe()
        child = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(home, there, max(counts)), daemon=True
        )
        child.start()
        url, worker_url, key = here.recv()
        sides = [Side("mooring", url, "unused"), Side("direct", worker_url, key)]
        rows = [asyncio.run(measure(sides, count, arguments.rounds, arguments.tokens)) for count in counts]
        added = asyncio.run(_added_by_gateway(sides, 200))
        here.send("stop")
        child.join()
    heads = [
        "streams",
        "direct tok/s",
        "Mooring tok/s",
        "ratio",
        "direct TTFT ms",
        "Mooring TTFT ms",
        "added ms",
    ]
    print(f"{environment('xllamacpp', 'uvicorn', 'aiohttp')}; {MODEL}, {arguments.tokens} tokens a stream,")
    print(
        f"medians of {arguments.rounds} alternating rounds; ratio: the median of the pairs of rounds\n\n{table(heads, rows)}\n\n{added}"
    )


async def _fetch(home: Path) -> None:
    """The models of the user's own store are used where they are there."""
    own = load_settings().store_dir
    if own.is_dir():
        (home / "store").symlink_to(own.resolve(), target_is_directory=True)
    settings = Settings(home=home)
    async with Egress(settings) as egress:
        await pull(ModelStore(settings.store_dir), egress, settings, MODEL)


if __name__ == "__main__":
    main()
