"""The commands that work on the store itself."""

from __future__ import annotations

import json
from pathlib import Path

from cli.line import CommandLine
from mooring.cli.exit_codes import ExitCode


def test_list_shows_what_is_here(stocked: CommandLine) -> None:
    output = stocked("list").stdout
    assert "tiny:latest" in output
    assert "chat" in output
    assert stocked.json("list")[0]["name"] == "tiny:latest"


def test_an_empty_list_says_how_to_begin(mooring: CommandLine) -> None:
    assert "mooring pull" in mooring("list").stdout
    assert mooring.json("list") == []


def test_list_warns_of_a_damaged_model_and_shows_the_others(stocked: CommandLine) -> None:
    damaged = stocked.home / "store/manifests/registry.ollama.ai/library/broken"
    damaged.mkdir(parents=True)
    (damaged / "latest").write_text("{")
    result = stocked("list")
    assert result.exit_code == 0
    assert "tiny:latest" in result.stdout
    assert "broken" in result.stderr


def test_the_catalogue_tells_what_can_be_pulled(mooring: CommandLine) -> None:
    assert "smollm2:135m *" in mooring("list", "--catalogue").stdout
    assert any(entry["name"] == "all-minilm:l6-v2" for entry in mooring.json("list", "--catalogue"))


def test_show_tells_architecture_and_template(stocked: CommandLine) -> None:
    assert "llama" in stocked("show", "tiny").stdout
    assert "message.role" in stocked("show", "tiny", "--template").stdout
    assert "FROM" in stocked("show", "tiny", "--modelfile").stdout
    assert stocked.json("show", "tiny")["capabilities"] == ["chat", "completion"]


def test_an_unknown_name_shows_the_nearest_of_store_and_catalogue(stocked: CommandLine) -> None:
    assert "tiny:latest" in stocked("show", "tinny").stderr
    assert "smollm2:135m" in stocked("show", "smolm2").stderr


def test_cp_and_rm(stocked: CommandLine) -> None:
    assert stocked("cp", "tiny", "mine:v1").exit_code == 0
    assert {model["name"] for model in stocked.json("list")} == {"tiny:latest", "mine:v1"}
    assert stocked("rm", "mine:v1").exit_code == 0
    assert stocked("rm", "mine:v1").exit_code == ExitCode.NOT_FOUND
    assert [model["name"] for model in stocked.json("list")] == ["tiny:latest"]


def test_rm_removes_none_when_one_name_is_unknown(stocked: CommandLine) -> None:
    assert stocked("rm", "tiny", "nope").exit_code == ExitCode.NOT_FOUND
    assert len(stocked.json("list")) == 1


def test_rm_without_a_name_removes_nothing(stocked: CommandLine) -> None:
    assert stocked("rm").exit_code == ExitCode.USAGE
    assert stocked("rm", "--leftovers").exit_code == 0
    assert len(stocked.json("list")) == 1


def test_pull_of_a_local_file_uses_it_where_it_lies(stocked: CommandLine) -> None:
    result = stocked("pull", str(stocked.home / "tiny.gguf"), "--name", "local", "--offline")
    assert result.exit_code == 0, result.output
    assert "local:latest is ready" in result.stdout
    assert stocked.json("show", "local")["by_reference"] is True


def test_pull_reports_ndjson_and_ends_with_the_model(stocked: CommandLine) -> None:
    result = stocked("pull", str(stocked.home / "tiny.gguf"), "--name", "local", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert all("status" in line for line in lines)
    assert [line["status"] for line in lines].count("success") == 1
    assert lines[-1]["model"]["name"] == "local:latest"


def test_pull_offline_says_that_it_may_not(mooring: CommandLine) -> None:
    result = mooring("pull", "smollm2", "--offline")
    assert result.exit_code == ExitCode.FAILURE
    assert "offline" in result.stderr


def test_create_from_a_modelfile(stocked: CommandLine) -> None:
    modelfile = stocked.home / "Modelfile"
    modelfile.write_text('FROM tiny\nSYSTEM """Be brief."""\nPARAMETER temperature 0.5\n')
    assert stocked("create", "brief", "-f", str(modelfile)).exit_code == 0
    shown = stocked.json("show", "brief")
    assert shown["system"] == "Be brief."
    assert shown["parameters"] == {"temperature": 0.5}


def test_create_reads_stdin_and_names_a_missing_file(stocked: CommandLine) -> None:
    assert stocked("create", "piped", "-f", "-", stdin="FROM tiny\n").exit_code == 0
    result = stocked("create", "other", "-f", str(stocked.home / "none"))
    assert result.exit_code == ExitCode.USAGE
    assert "none" in result.stderr


def test_a_bundle_carries_models_to_another_home(stocked: CommandLine, tmp_path: Path) -> None:
    bundle = tmp_path / "models.bundle"
    assert stocked("export", "tiny", "-o", str(bundle)).exit_code == 0
    elsewhere = CommandLine(tmp_path / "elsewhere")
    assert elsewhere("import", str(bundle)).exit_code == 0
    assert elsewhere.json("list")[0]["name"] == "tiny:latest"


def test_a_cut_bundle_is_refused_in_words(stocked: CommandLine, tmp_path: Path) -> None:
    bundle = tmp_path / "models.bundle"
    stocked("export", "tiny", "-o", str(bundle))
    bundle.write_bytes(bundle.read_bytes()[:1000])
    elsewhere = CommandLine(tmp_path / "elsewhere")
    result = elsewhere("import", str(bundle))
    assert result.exit_code == ExitCode.FAILURE
    assert "Unexpected" not in result.stderr
    assert elsewhere.json("list") == []


def test_fit_tells_what_a_model_needs(stocked: CommandLine) -> None:
    (stocked.home / "mooring.yaml").unlink()
    assert "fits" in stocked("fit", "tiny").stdout
    one, four = (stocked.json("fit", "tiny", "--ctx", "256", "--slots", slots) for slots in ("1", "4"))
    assert 0 < one["kv_cache"] < four["kv_cache"]


def test_fit_of_a_catalogue_model_goes_by_its_size(mooring: CommandLine) -> None:
    fitted = mooring.json("fit", "smollm2")
    assert fitted["stored"] is False
    assert fitted["weights"] >= 90_000_000


def test_fit_refuses_what_cannot_fit(mooring: CommandLine) -> None:
    (mooring.home / "mooring.yaml").write_text("memory_limit: 64MiB\n")
    result = mooring("fit", "smollm2")
    assert result.exit_code == ExitCode.REFUSED


def test_a_key_is_shown_once_and_can_be_revoked(mooring: CommandLine) -> None:
    made = mooring.json("key", "create", "--name", "me", "--role", "admin", "--expires", "30d")
    assert made["secret"].startswith("sk-mrg-")
    assert made["secret"] not in mooring("key", "list").stdout
    assert mooring("key", "revoke", made["id"]).exit_code == 0
    assert "revoked" in mooring("key", "list").stdout
    assert mooring("key", "revoke", "key_none").exit_code == ExitCode.NOT_FOUND


def test_a_key_that_would_be_expired_is_refused(mooring: CommandLine) -> None:
    assert mooring("key", "create", "--name", "me", "--expires", "0").exit_code == ExitCode.USAGE
    assert mooring("key", "create", "--name", "me", "--expires", "soon").exit_code == ExitCode.USAGE


def test_version_names_the_engine(mooring: CommandLine) -> None:
    assert mooring.json("version")["engines"]["llamacpp"]
