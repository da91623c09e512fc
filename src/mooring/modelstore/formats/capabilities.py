"""What a model can do, by what its files say."""

from __future__ import annotations

import re

from mooring.types import Capability

_TOOLS = re.compile(r"\btools\b")


def capabilities_of(*, causal: bool, pooling: str, chat_template: str) -> frozenset[Capability]:
    """The rule: pooling makes an embedding model (``rank`` a reranker), and so does an encoder without it;
    any other model completes text, and chats if it has a Jinja template (with tools if that mentions them).
    """
    if pooling == "rank":
        return frozenset({Capability.RERANK})
    if not causal or pooling not in ("", "none"):
        return frozenset({Capability.EMBEDDING})
    found = {Capability.COMPLETION}
    if chat_template:
        found.add(Capability.CHAT)
        if _TOOLS.search(chat_template):
            found.add(Capability.TOOLS)
    return frozenset(found)
