"""The one error tree. ``api/errors.py`` maps it to wire formats, ``cli`` to exit codes.

MooringError
├── BadRequest 400
│   ├── InvalidParameter        a field of the request is wrong; names it
│   ├── UnsupportedCapability   the model or engine cannot do this; names it
│   ├── ContextLengthExceeded   the prompt does not fit; names both numbers
│   └── ModelTooLarge           never fits this machine; names the numbers and what would fit
├── Unauthorized 401
├── PermissionDenied 403
├── NotFound 404
│   └── ModelNotFound           names the nearest known models
├── Conflict 409
├── PayloadTooLarge 413
├── TooManyRequests 429         carries retry_after
├── UpstreamFailed 502          a worker or a source answered wrongly or went away
├── Unavailable 503             try again later; carries retry_after
│   ├── WorkerFailed            carries the last lines of the worker's log
│   └── MemoryBusy              would fit, but what is loaded is in use
└── StoreError 500              the model store
    ├── DigestMismatch          what was downloaded is not what was promised
    ├── DiskFull 507
    ├── InvalidModelFile 400    not a GGUF / safetensors file, or a damaged one
    ├── BrokenReference 409     a model by reference whose file moved or changed
    ├── SourceError 502         a source refused or could not be reached
    └── OfflineError 403        the way out is closed by --offline

Every message says what is wrong and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence


class MooringError(Exception):
    """Base of all errors meant for a user.

    ``status`` is the HTTP status, ``code`` a stable machine-readable word, ``kind`` OpenAI's error type.
    """

    status = 500
    code = "internal_error"
    kind = "server_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class BadRequest(MooringError):
    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"


class InvalidParameter(BadRequest):
    code = "invalid_parameter"

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"'{param}': {problem}", param=param)


class UnsupportedCapability(BadRequest):
    """``what`` names the parameter or endpoint, ``why`` says what to use instead."""

    code = "unsupported"

    def __init__(self, model: str, what: str, why: str) -> None:
        super().__init__(f"Model '{model}' does not support {what}: {why}", param="model")


class ContextLengthExceeded(BadRequest):
    """Units are tokens."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_length: int, *, param: str = "messages") -> None:
        super().__init__(
            f"This model's maximum context length is {context_length} tokens, but the prompt has "
            f"{prompt_tokens} tokens. Shorten the prompt, or load the model with a larger context "
            f"(x-mooring-context header, or --ctx).",
            param=param,
        )
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class ModelTooLarge(BadRequest):
    code = "model_too_large"


class Unauthorized(MooringError):
    status = 401
    code = "invalid_api_key"
    kind = "authentication_error"


class PermissionDenied(MooringError):
    status = 403
    code = "permission_denied"
    kind = "permission_error"


class NotFound(MooringError):
    status = 404
    code = "not_found"
    kind = "invalid_request_error"


class ModelNotFound(NotFound):
    code = "model_not_found"

    def __init__(self, name: str, nearest: Sequence[str] = (), *, hint: str = "") -> None:
        guess = f" Did you mean {', '.join(nearest)}?" if nearest else ""
        super().__init__(
            f"Model '{name}' not found.{guess} {hint or 'Run `mooring pull MODEL` first; `mooring list` shows what is here.'}",
            param="model",
        )
        self.name = name
        self.nearest = tuple(nearest)


class Conflict(MooringError):
    status = 409
    code = "conflict"
    kind = "invalid_request_error"


class PayloadTooLarge(MooringError):
    status = 413
    code = "request_too_large"
    kind = "invalid_request_error"


class TooManyRequests(MooringError):
    status = 429
    code = "queue_full"
    kind = "rate_limit_error"


class UpstreamFailed(MooringError):
    status = 502
    code = "upstream_failed"
    kind = "server_error"


class Unavailable(MooringError):
    status = 503
    code = "unavailable"
    kind = "server_error"


class WorkerFailed(Unavailable):
    code = "worker_failed"

    def __init__(
        self, message: str, *, log_tail: Sequence[str] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.log_tail = tuple(log_tail)


class MemoryBusy(Unavailable):
    code = "memory_busy"


class StoreError(MooringError):
    code = "store_error"


class DigestMismatch(StoreError):
    status = 502
    code = "digest_mismatch"


class DiskFull(StoreError):
    status = 507
    code = "disk_full"


class InvalidModelFile(StoreError):
    status = 400
    code = "invalid_model_file"
    kind = "invalid_request_error"


class BrokenReference(StoreError):
    status = 409
    code = "broken_reference"


class SourceError(StoreError):
    status = 502
    code = "source_error"


class OfflineError(StoreError):
    status = 403
    code = "offline"
    kind = "permission_error"
