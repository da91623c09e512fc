"""Mooring takes language models from a file to a governed service."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LLM", "__version__"]

if TYPE_CHECKING:
    from mooring.llm import LLM


def __getattr__(name: str) -> Any:
    """Import ``LLM`` on first use, so that ``import mooring`` (and the CLI's help) stays light."""
    if name == "LLM":
        from mooring.llm import LLM

        return LLM
    raise AttributeError(f"module 'mooring' has no attribute {name!r}")
