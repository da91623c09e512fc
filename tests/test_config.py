"""Settings: precedence, and mistakes that are named instead of ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from mooring.config import ConfigError, load_settings, parse_bytes, parse_duration


def test_arguments_beat_variables_which_beat_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mooring.yaml").write_text("port: 1001\nkeep_alive: 10m\nqueue_size: 7\n")
    monkeypatch.setenv("MOORING_PORT", "1002")
    monkeypatch.setenv("MOORING_KEEP_ALIVE", "1h")
    settings = load_settings(home=tmp_path, port=1003)
    assert (settings.port, settings.keep_alive, settings.queue_size) == (1003, 3600.0, 7)


def test_the_hubs_own_variables_are_known_but_yield_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert load_settings(home=tmp_path).sources.hf_endpoint == "https://mirror.example"
    (tmp_path / "mooring.yaml").write_text("sources:\n  hf_endpoint: https://file.example\n")
    assert load_settings(home=tmp_path).sources.hf_endpoint == "https://file.example"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot: 1", "did you mean 'port'"),
        ("port: many", "'port'"),
        ("keep_alive: soon", "'keep_alive'"),
        ("deployments: {m: {slot: 2}}", "did you mean 'slots'"),
        ("- a", "mapping"),
        ("a: [", "YAML"),
        ("drain_timeout: 0", "greater than 0"),
        ("load_timeout: -1", "'load_timeout'"),
        ("queue_timeout: -5m", "'queue_timeout'"),
        ("deployments: {m: {options: {heat: .nan}}}", "finite"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_key(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "mooring.yaml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        load_settings(home=tmp_path)


def test_an_unknown_variable_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOORING_PROT", "1")
    with pytest.raises(ConfigError, match="MOORING_PORT"):
        load_settings(home=tmp_path)


def test_secrets_do_not_show_in_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in repr(load_settings(home=tmp_path))


def test_durations_and_sizes() -> None:
    assert [parse_duration(v) for v in (300, "90s", "5m", "2h", "-1", "1.5s")] == [
        300,
        90,
        300,
        7200,
        -1,
        1.5,
    ]
    assert [parse_bytes(v) for v in (1, "1KiB", "1K", "1KB", "2GiB", "8 GB")] == [
        1,
        1024,
        1024,
        1000,
        2 * 2**30,
        8 * 10**9,
    ]
    assert [parse_duration(v) for v in ("-5m", 1e308, "99999999999d", 10**400, -(10**400))] == [-1] * 5
    for wrong in (True, "5 minutes", None, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="duration"):
            parse_duration(wrong)


def test_a_variable_with_several_values_takes_commas_or_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MOORING_ALLOWED_ORIGINS", "http://x")
    monkeypatch.setenv("MOORING_ALLOWED_HOSTS", "a.example, b.example")
    monkeypatch.setenv("MOORING_MODEL_ROOTS", '["/m, n"]')
    monkeypatch.setenv("MOORING_SOURCES__INSECURE_REGISTRIES", "r1,r2:5000")
    settings = load_settings(home=tmp_path)
    assert settings.allowed_origins == ("http://x",)
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert settings.model_roots == (Path("/m, n"),)
    assert settings.sources.insecure_registries == ("r1", "r2:5000")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MOORING_DEPLOYMENTS", "tiny"),
        ("MOORING_SOURCES", "{"),
        ("MOORING_ALLOWED_HOSTS", "[a"),
        ("MOORING_PORT", "many"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=rf"(?i){variable}|'{variable.removeprefix('MOORING_')}'"):
        load_settings(home=tmp_path)


def test_a_settings_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "mooring.yaml").write_bytes(b"host: \xff\n")
    with pytest.raises(ConfigError, match=r"mooring\.yaml is not UTF-8"):
        load_settings(home=tmp_path)
    (tmp_path / "b" / "mooring.yaml").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"mooring\.yaml cannot be read"):
        load_settings(home=tmp_path / "b")
