"""Every command: its name, the module that holds it, and its line in ``mooring --help``."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    name: str
    module: str
    help: str


class Section(NamedTuple):
    title: str
    entries: tuple[Entry, ...]


def _entry(name: str, help_: str, module: str = "") -> Entry:
    return Entry(name, f"mooring.cli.commands.{module or name}", help_)


SECTIONS = (
    Section(
        "Chat and serve",
        (
            _entry("run", "Chat with a model in the terminal, or answer one prompt."),
            _entry("serve", "Serve models behind one OpenAI-compatible API."),
            _entry("ps", "Show the models that are loaded."),
            _entry("stop", "Unload a model, or stop the server."),
            _entry("logs", "Show the log of a model's worker."),
        ),
    ),
    Section(
        "Models",
        (
            _entry("pull", "Fetch a model into the store."),
            _entry("push", "Upload a model to a registry."),
            _entry("list", "List the models in the store, or those that can be pulled."),
            _entry("show", "Show what is known of a model."),
            _entry("rm", "Remove models from the store."),
            _entry("cp", "Give a model a second name."),
            _entry("create", "Make a model from a Modelfile."),
            _entry("export", "Write models into one file, for hosts without a network."),
            _entry("import", "Read models from an exported file.", "import_"),
            _entry("fit", "Predict the memory that a model needs here."),
        ),
    ),
    Section(
        "Administration",
        (
            _entry("key", "Create, list and revoke API keys."),
            _entry("doctor", "Check this machine and say what to mend."),
            _entry("version", "Show the versions of Mooring and its engines."),
        ),
    ),
)
