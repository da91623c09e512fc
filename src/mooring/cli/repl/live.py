"""The chat's backend for real: a server, and the store where it is our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mooring.cli.client import path_of
from mooring.cli.invocation import Invocation
from mooring.cli.models import find_or_fetch, model_fields
from mooring.cli.progress import show_progress
from mooring.cli.repl.backend import ModelCard, ServerBackend
from mooring.cli.repl.session import require_talker
from mooring.cli.server import Connection
from mooring.errors import MooringError

if TYPE_CHECKING:
    from mooring.modelstore.model import Model


class LiveBackend(ServerBackend):
    """``context`` (tokens) and ``keep_alive`` (seconds) are what models are loaded with."""

    def __init__(
        self,
        invocation: Invocation,
        connection: Connection,
        *,
        offline: bool = False,
        context: int | None = None,
        keep_alive: float | None = None,
    ) -> None:
        super().__init__(connection.client)
        self._invocation = invocation
        self._is_local = connection.is_local
        self._offline = offline
        self._context = context
        self._keep_alive = keep_alive

    def load(self, model: str) -> ModelCard:
        """Pull a model that is not there, and load it. Raises MooringError."""
        card = self.prepare(model)
        self.load_prepared(card)
        return card

    def prepare(self, model: str) -> ModelCard:
        """What is known of a model, pulled first if it is not there. Raises MooringError for what cannot chat."""
        card = self._local_card(model) if self._is_local else self._remote_card(model)
        require_talker(card)
        return card

    def load_prepared(self, card: ModelCard) -> None:
        with show_progress(as_json=False, in_bytes=False) as progress:
            self.load_model(card.name, progress, keep_alive=self._keep_alive, context=self._context)

    def _local_card(self, model: str) -> ModelCard:
        settings = self._invocation.settings(offline=self._offline or None)
        with show_progress(as_json=False) as progress:
            return card_of(find_or_fetch(self._invocation, settings, model, progress))

    def _remote_card(self, model: str) -> ModelCard:
        path = path_of("v1", "models", model)
        try:
            known = self.client.get(path)
        except MooringError as error:
            if error.status != 404:
                raise
            with show_progress(as_json=False) as progress:
                self.pull_model(model, progress)
            known = self.client.get(path)
        fields = ("architecture", "quantization", "context_length", "format")
        return ModelCard(
            name=known["id"],
            capabilities=frozenset(known["capabilities"]),
            fields=tuple((name.replace("_", " "), str(known[name])) for name in fields if known.get(name)),
        )


def card_of(model: Model) -> ModelCard:
    """What the chat must know of a stored model."""
    return ModelCard(
        name=model.name.short,
        capabilities=frozenset(model.capabilities),
        fields=tuple(
            (name, value) for name, value in model_fields(model) if value and name != "capabilities"
        ),
        parameters=model.parameters,
        system=model.system,
        template=model.info.chat_template or model.template,
        license=model.license,
    )
