"""The canonical requests: OpenAI's shapes with the extensions that local engines understand.

Sources: https://platform.openai.com/docs/api-reference (chat, completions, embeddings), Jina and Cohere for
rerank, vLLM for tokenize/detokenize. Unknown fields are refused by name, so that nothing is ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mooring.config import parse_duration
from mooring.errors import BadRequest, InvalidParameter, UnsupportedCapability
from mooring.types import Capability

Unit = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1)]


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool = False


class CommonRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """What every request may carry. ``keep_alive`` and ``num_ctx`` (Ollama's) are for Mooring: how long the
    model stays loaded, and the least context, in tokens, that it is to be loaded with.
    """

    model: Annotated[str, Meta(min_length=1, max_length=512)]
    user: str | None = None
    keep_alive: float | str | None = None
    num_ctx: Annotated[int, Meta(ge=16)] | None = None


class SampledRequest(CommonRequest, kw_only=True):
    """Sampling parameters that chat and text completions share."""

    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    presence_penalty: Penalty | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Unit | None = None
    # Extensions of local engines (llama.cpp's names and vLLM's).
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Unit | None = None
    typical_p: Unit | None = None
    repeat_penalty: Annotated[float, Meta(ge=0)] | None = None
    repeat_last_n: Annotated[int, Meta(ge=-1)] | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    ignore_eos: bool | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    cache_prompt: bool | None = None


class ChatRequest(SampledRequest, kw_only=True):
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_completion_tokens: Count | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CompletionRequest(SampledRequest, kw_only=True):
    prompt: str | list[Any]
    best_of: Count | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    suffix: str | None = None


class EmbeddingRequest(CommonRequest, kw_only=True):
    input: str | list[Any]
    dimensions: Count | None = None
    encoding_format: Literal["float", "base64"] | None = None


class RerankRequest(CommonRequest, kw_only=True):
    query: str
    documents: Annotated[list[str | dict[str, Any]], Meta(min_length=1, max_length=4096)]
    top_n: Count | None = None
    return_documents: bool | None = None


class TokenizeRequest(CommonRequest, kw_only=True):
    """vLLM's: either ``prompt`` or ``messages``."""

    prompt: str | UnsetType = UNSET
    messages: list[dict[str, Any]] | UnsetType = UNSET
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(CommonRequest, kw_only=True):
    tokens: list[Annotated[int, Meta(ge=0)]]


# Fields that are for Mooring alone, or mean nothing to an engine: they do not go upstream.
LOCAL_FIELDS = frozenset({"keep_alive", "num_ctx", "user", "metadata", "store", "service_tier"})

REQUESTS: dict[str, type[CommonRequest]] = {
    "chat/completions": ChatRequest,
    "completions": CompletionRequest,
    "embeddings": EmbeddingRequest,
    "rerank": RerankRequest,
    "tokenize": TokenizeRequest,
    "detokenize": DetokenizeRequest,
}

NEEDS: dict[str, Capability] = {
    "chat/completions": Capability.CHAT,
    "completions": Capability.COMPLETION,
    "embeddings": Capability.EMBEDDING,
}

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def validate(endpoint: str, body: Any) -> CommonRequest:
    """Check ``body`` (parsed JSON) and return its typed view. Raises InvalidParameter naming the field."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    try:
        request = msgspec.convert(body, REQUESTS[endpoint])
    except msgspec.ValidationError as error:
        raise _explain(error) from None
    if request.keep_alive is not None:
        try:
            parse_duration(request.keep_alive)
        except ValueError as error:
            raise InvalidParameter("keep_alive", str(error)) from None
    if isinstance(request, ChatRequest):
        _check_chat(request)
    elif isinstance(request, CompletionRequest):
        _check_prompt(request.prompt)
    elif isinstance(request, EmbeddingRequest):
        _check_input(request.input)
    elif isinstance(request, RerankRequest):
        _check_documents(request.documents)
    elif isinstance(request, TokenizeRequest) and (request.prompt is UNSET) == (request.messages is UNSET):
        raise InvalidParameter("prompt", "give either 'prompt' or 'messages'")
    return request


def _explain(error: msgspec.ValidationError) -> InvalidParameter:
    """msgspec says ``Expected `int`, got `str` - at `$.max_tokens` ``."""
    problem, _, path = str(error).partition(" - at ")
    param = path.strip("`").removeprefix("$").removeprefix(".")
    if problem.startswith("Object contains unknown field"):
        field = problem.split("`")[1]
        return InvalidParameter(f"{param}.{field}".lstrip("."), "unknown parameter; remove it")
    if problem.startswith("Object missing required field"):
        field = problem.split("`")[1]
        return InvalidParameter(f"{param}.{field}".lstrip("."), "is required")
    return InvalidParameter(param or "body", problem.replace("`", "'"))


def _check_chat(request: ChatRequest) -> None:
    for index, message in enumerate(request.messages):
        _check_message(message, f"messages[{index}]")
    if request.store:
        raise InvalidParameter("store", "answers are not stored here; leave it out or send false")
    if request.top_logprobs and not request.logprobs:
        raise InvalidParameter("top_logprobs", "needs 'logprobs': true")
    names = _check_tools(request.tools or [])
    _check_tool_choice(request.tool_choice, names)
    if request.response_format is not None:
        _check_response_format(request.response_format)


def _check_message(message: dict[str, Any], where: str) -> None:
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidParameter(f"{where}.role", f"must be one of {', '.join(sorted(_ROLES))}")
    content = message.get("content")
    if content is None:
        if role != "assistant" or not (message.get("tool_calls") or message.get("function_call")):
            raise InvalidParameter(f"{where}.content", "is required")
    elif isinstance(content, list):
        for number, part in enumerate(content):
            _check_part(part, f"{where}.content[{number}]")
    elif not isinstance(content, str):
        raise InvalidParameter(f"{where}.content", "must be a string or a list of parts")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise InvalidParameter(f"{where}.tool_call_id", "is required for role 'tool'")
    calls = message.get("tool_calls")
    if calls is not None:
        if role != "assistant" or not isinstance(calls, list):
            raise InvalidParameter(f"{where}.tool_calls", "must be a list, in a message of role 'assistant'")
        for number, call in enumerate(calls):
            _check_call(call, f"{where}.tool_calls[{number}]")


def _check_part(part: Any, where: str) -> None:
    if not isinstance(part, dict):
        raise InvalidParameter(where, "must be an object with a 'type'")
    kind = part.get("type")
    if kind in ("text", "refusal"):
        if not isinstance(part.get(kind), str):
            raise InvalidParameter(f"{where}.{kind}", "must be a string")
    elif kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else None
        if not isinstance(url, str) or not url.startswith("data:image/"):
            raise InvalidParameter(
                f"{where}.image_url.url",
                "must be a data: URL (data:image/png;base64,…); send the image itself",
            )
    else:
        raise InvalidParameter(f"{where}.type", f"'{kind}' is not supported; use 'text' or 'image_url'")


def _check_call(call: Any, where: str) -> None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidParameter(f"{where}.function.name", "is required")
    if not isinstance(function.get("arguments"), str):
        raise InvalidParameter(f"{where}.function.arguments", "must be a string holding JSON")


def _check_tools(tools: list[dict[str, Any]]) -> set[str]:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if tool.get("type") != "function":
            raise InvalidParameter(f"{where}.type", "must be 'function'")
        function = tool.get("function")
        if (
            not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
            or not function["name"]
        ):
            raise InvalidParameter(f"{where}.function.name", "is required")
        if not isinstance(function.get("parameters", {}), dict):
            raise InvalidParameter(f"{where}.function.parameters", "must be a JSON schema object")
        if function["name"] in names:
            raise InvalidParameter(f"{where}.function.name", f"'{function['name']}' is given twice")
        names.add(function["name"])
    return names


def _check_tool_choice(choice: str | dict[str, Any] | None, names: set[str]) -> None:
    if choice is None:
        return
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise InvalidParameter("tool_choice", "must be none, auto, required or a named function")
        if choice == "required" and not names:
            raise InvalidParameter("tool_choice", "'required' needs 'tools'")
        return
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if choice.get("type") != "function" or not isinstance(name, str) or name not in names:
        known = ", ".join(sorted(names)) or "none given"
        raise InvalidParameter("tool_choice", f"must name one of the functions in 'tools' ({known})")


def _check_response_format(wanted: dict[str, Any]) -> None:
    kind = wanted.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise InvalidParameter("response_format.type", "must be text, json_object or json_schema")
    if kind == "json_schema":
        schema = wanted.get("json_schema")
        if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
            raise InvalidParameter("response_format.json_schema.schema", "must be a JSON schema object")


def _check_prompt(prompt: str | list[Any]) -> None:
    if isinstance(prompt, str):
        return
    if not prompt:
        raise InvalidParameter("prompt", "is an empty list")
    if not _same(prompt, str) and not _token_ids(prompt) and not all(_token_ids(item) for item in prompt):
        raise InvalidParameter("prompt", "must be a string, token ids, or a list of either")


def _check_input(given: str | list[Any]) -> None:
    if isinstance(given, str):
        if not given:
            raise InvalidParameter("input", "is empty")
        return
    if not given:
        raise InvalidParameter("input", "is an empty list")
    if len(given) > 2048 and not _token_ids(given):
        raise InvalidParameter("input", f"has {len(given)} items; send at most 2048 at a time")
    texts = _same(given, str) and all(given)
    if not texts and not _token_ids(given) and not all(_token_ids(item) for item in given):
        raise InvalidParameter("input", "must be non-empty strings, token ids, or a list of either")


def _check_documents(documents: list[str | dict[str, Any]]) -> None:
    for index, document in enumerate(documents):
        if isinstance(document, dict) and not isinstance(document.get("text"), str):
            raise InvalidParameter(f"documents[{index}].text", "is required, as a string")


def _same(items: Any, kind: type) -> bool:
    return isinstance(items, list) and all(isinstance(item, kind) for item in items)


def _token_ids(items: Any) -> bool:
    return bool(items) and isinstance(items, list) and all(type(item) is int and item >= 0 for item in items)


def check_capability(
    endpoint: str, request: CommonRequest, model: str, capabilities: frozenset[Capability]
) -> None:
    """Raises UnsupportedCapability when the model cannot answer this request at all."""
    can = ", ".join(sorted(capabilities)) or "nothing this server runs"
    needed = NEEDS.get(endpoint)
    if needed is not None and needed not in capabilities:
        raise UnsupportedCapability(model, f"/v1/{endpoint}", f"it can do: {can}. Use another model.")
    if endpoint == "rerank" and not capabilities & {Capability.RERANK, Capability.EMBEDDING}:
        raise UnsupportedCapability(
            model, "/v1/rerank", f"it can do: {can}. Use a rerank or embedding model."
        )
    if isinstance(request, ChatRequest) and Capability.VISION not in capabilities:
        for message in request.messages:
            parts = message.get("content")
            if isinstance(parts, list) and any(part.get("type") == "image_url" for part in parts):
                raise UnsupportedCapability(model, "images", "use a model with the 'vision' capability.")
