"""Builds the wheel and uses it as a person would: a fresh environment, `mooring version`, a served page.

Also holds the promises about the base install: no torch, under 300 MB, and `mooring --help` imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")
LIMIT_BYTES = 300 * 1000 * 1000
NOT_INSTALLED = ("torch", "transformers", "ray", "vllm", "triton")
NOT_FOR_HELP = (
    "aiohttp",
    "alembic",
    "fastapi",
    "gguf",
    "numpy",
    "sqlalchemy",
    "torch",
    "uvicorn",
    "xllamacpp",
)
IN_WHEEL = (
    r"mooring/web_dist/index\.html",
    r"mooring/web_dist/assets/.+\.js",
    r"mooring/web_dist/assets/.+\.css",
    r"mooring/modelstore/catalogue\.yaml",
    r"mooring-.+\.dist-info/licenses/LICENSE",
)
START_SECONDS = 60


class CheckFailed(Exception):
    pass


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Standard output; raises CheckFailed with everything the command said."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CheckFailed(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}".strip())
    return done.stdout


def build(folder: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    wheel = next(folder.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    missing = [pattern for pattern in IN_WHEEL if not any(re.fullmatch(pattern, name) for name in names)]
    if missing:
        raise CheckFailed(f"{wheel.name} lacks {', '.join(missing)}; was the page built (make web)?")
    print(f"ok  {wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {len(names)} files")
    return wheel


def install(wheel: Path, venv: Path) -> None:
    run(UV, "venv", "--quiet", "--python", sys.executable, venv)
    constraints = ROOT / "constraints.txt"
    run(UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", venv, "-c", constraints, wheel)
    listed = json.loads(run(UV, "pip", "list", "--python", venv, "--format", "json"))
    heavy = sorted({entry["name"] for entry in listed}.intersection(NOT_INSTALLED))
    if heavy:
        raise CheckFailed(f"the base install brings {', '.join(heavy)}")
    size = sum(file.lstat().st_size for file in venv.rglob("*") if file.is_file())
    if size >= LIMIT_BYTES:
        raise CheckFailed(f"the base install takes {size / 1e6:.0f} MB, over {LIMIT_BYTES / 1e6:.0f} MB")
    print(f"ok  base install: {len(listed)} packages, {size / 1e6:.0f} MB, no torch")


def check_start(venv: Path, work: Path) -> None:
    """The time is shown, not judged: a busy machine is no fault of the code. What is imported is."""
    mooring, python = venv / "bin" / "mooring", venv / "bin" / "python"
    print(f"ok  {run(mooring, 'version', cwd=work).strip()}")
    report = (
        "import sys\nfrom mooring.cli import main\nsys.argv = ['mooring', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', *[name for name in {NOT_FOR_HELP!r} if name in sys.modules])"
    )
    heavy = run(python, "-c", report, cwd=work).splitlines()[-1].split()[1:]
    if heavy:
        raise CheckFailed(f"mooring --help imports {', '.join(heavy)}")
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        run(mooring, "--help", cwd=work)
        seconds.append(time.perf_counter() - began)
    print(f"ok  mooring --help: {min(seconds):.2f} s at best of 5, no heavy import")


@contextlib.contextmanager
def served(venv: Path, work: Path) -> Iterator[str]:
    """A server of the installed wheel on a free port; yields its address."""
    home = work / "home"
    command = [str(venv / "bin" / "mooring"), "serve", "--port", "0"]
    environment = {**os.environ, "MOORING_HOME": str(home)}
    with (work / "serve.log").open("w+") as log:
        server = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield wait_for(server, home / "server.json", work / "serve.log")
        finally:
            server.terminate()
            server.wait(timeout=START_SECONDS)


def wait_for(server: subprocess.Popen[bytes], announced: Path, log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            url = str(json.loads(announced.read_text())["url"]).rstrip("/")
            fetch(f"{url}/health")
            return url
        time.sleep(0.05)
    raise CheckFailed(f"mooring serve did not come up:\n{log.read_text()}")


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def check_page(url: str) -> None:
    page = fetch(f"{url}/")
    assets = re.findall(r'(?:src|href)="\./([^"]+)"', page)
    if "<title>Mooring</title>" not in page or not assets:
        raise CheckFailed(f"{url}/ is not the chat page:\n{page[:300]}")
    for asset in assets:
        fetch(f"{url}/{asset}")
    models = json.loads(fetch(f"{url}/v1/models"))
    print(
        f"ok  {url}/ serves the page and its {len(assets)} files; /v1/models lists {len(models['data'])} models"
    )


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mooring-wheel-") as name:
        work = Path(name)
        try:
            wheel = build(work / "dist")
            install(wheel, work / "venv")
            check_start(work / "venv", work)
            with served(work / "venv", work) as url:
                check_page(url)
        except (CheckFailed, urllib.error.URLError) as error:
            print(f"FAILED  {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
