"""JSON schemas as llama.cpp compiles them to grammars (its common/json-schema-to-grammar.cpp).

The compiler ignores what it cannot express. That is OpenAI's "best effort" of a schema that is not strict;
a strict one is a promise, so there every keyword that would be ignored is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mooring.errors import InvalidParameter

_ONE = ("items", "additionalProperties")
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions")
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_ENFORCED = frozenset(
    {"$ref", "type", "enum", "const", "required", "minItems", "maxItems", "minLength", "maxLength"}
)
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated"}
)
_FORMATS = frozenset({"uuid", "date", "time", "date-time"})


def check_strict(schema: Any, param: str) -> None:
    """Raises InvalidParameter naming the first keyword that the grammar could not enforce."""
    if not isinstance(schema, dict):
        return
    known = _ENFORCED | _ANNOTATIONS | {*_ONE, *_SEVERAL, *_NAMED}
    for keyword, value in schema.items():
        if keyword in known or _special_is_enforced(keyword, value, schema):
            continue
        raise InvalidParameter(
            param,
            f"the JSON schema keyword '{keyword}' ({value!r}) cannot be enforced; "
            "remove it or set 'strict' to false",
        )
    for child in _children(schema):
        check_strict(child, param)


def _special_is_enforced(keyword: str, value: Any, schema: dict[str, Any]) -> bool:
    if keyword in _BOUNDS:
        return schema.get("type") == "integer"
    if keyword == "format":
        return value in _FORMATS
    if keyword == "pattern" and isinstance(value, str):
        anchored = value.startswith("^") and value.endswith("$")
        return anchored and "(?" not in value.replace("(?:", "")
    return False


def _children(schema: dict[str, Any]) -> Iterator[Any]:
    for keyword in _ONE:
        yield schema.get(keyword)
    for keyword in _SEVERAL:
        yield from schema.get(keyword) or ()
    for keyword in _NAMED:
        yield from (schema.get(keyword) or {}).values()


class Definitions:
    """Gathers several schemas as the ``$defs`` of one, their local references rewritten.

    Every target of a reference gets a flat name of its own: the compiler names a rule after the last part
    of a pointer, so two tools with a ``$defs/Item`` each would share one rule.
    """

    def __init__(self) -> None:
        self.defs: dict[str, Any] = {}

    def add(self, name: str, schema: dict[str, Any], param: str) -> dict[str, str]:
        """A reference to ``schema``, now ``name``. Raises InvalidParameter on a reference it cannot follow."""
        names = {"#": name}
        waiting = ["#"]

        def rename(pointer: str) -> str:
            if pointer not in names:
                names[pointer] = f"{name}x{len(names)}"
                waiting.append(pointer)
            return f"#/$defs/{names[pointer]}"

        def rewrite(node: Any) -> Any:
            if isinstance(node, list):
                return [rewrite(item) for item in node]
            if not isinstance(node, dict):
                return node
            target = node.get("$ref")
            if isinstance(target, str):
                return node | {"$ref": rename(target)}
            return {key: rewrite(value) for key, value in node.items()}

        while waiting:
            pointer = waiting.pop()
            found = _resolve(schema, pointer, param)
            if pointer == "#":
                found = {key: value for key, value in schema.items() if key not in ("$defs", "definitions")}
            self.defs[names[pointer]] = rewrite(found)
        return {"$ref": f"#/$defs/{name}"}


def _resolve(root: Any, pointer: str, param: str) -> Any:
    """RFC 6901 within ``root``."""
    if pointer.split("/", 1)[0] != "#":
        raise InvalidParameter(param, f"$ref '{pointer}' is not local; put its target under '$defs'")
    node = root
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        try:
            node = node[int(key)] if isinstance(node, list) else node[key]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise InvalidParameter(
                param, f"$ref '{pointer}' points nowhere; define its target under '$defs'"
            ) from error
    return node
