from __future__ import annotations

from typing import Any

import pytest

from mooring.engines.llamacpp.schema import check_strict
from mooring.errors import InvalidParameter


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "not": {"const": "a"}},
        {"type": "string", "pattern": "a+"},
        {"type": "string", "pattern": "^(?=a).*$"},
        {"type": "number", "minimum": 0},
        {"type": "string", "format": "email"},
        {"anyOf": [{"type": "array", "uniqueItems": True}]},
        {"$defs": {"A": {"items": {"multipleOf": 2}}}},
    ],
)
def test_a_strict_schema_with_a_keyword_that_would_be_ignored_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="cannot be enforced"):
        check_strict(schema, "response_format")


def test_a_strict_schema_as_pydantic_writes_it_is_accepted() -> None:
    check_strict(
        {
            "title": "Trip",
            "type": "object",
            "properties": {
                "not": {"type": "string", "description": "a property may have a keyword's name"},
                "day": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None},
                "nights": {"type": "integer", "minimum": 1},
                "code": {"type": "string", "pattern": "^(?:[A-Z]{3})$"},
                "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}, "maxItems": 3},
            },
            "required": ["not"],
            "additionalProperties": False,
            "$defs": {"Tag": {"enum": ["a", "b"]}},
        },
        "response_format",
    )
