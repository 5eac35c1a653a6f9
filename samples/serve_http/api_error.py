"""Errors in the format of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

__all__ = ["ApiError", "from_validation"]

_TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error", 504: "timeout_error"}


class ApiError(Exception):
    """An error response. param: name of the wrong parameter; code: machine-readable error code."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Returns `{"error": …}`."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        param = None if self.param is None else _whole(self.param)
        return {"error": {"message": _whole(self.message), "type": kind, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Returns the HTTP response."""
        return JSONResponse(self.body(), self.status, self.headers)


def from_validation(error: RequestValidationError) -> ApiError:
    """Returns an error for the first problem of a body, or one that names all unsupported parameters."""
    found = error.errors()
    extra = [_param(one["loc"]) for one in found if one["type"] == "extra_forbidden"]
    if extra:
        are = "is" if len(extra) == 1 else "are"
        message = f"{', '.join(extra)} {are} not supported by this server."
        return ApiError(400, message, param=extra[0], code="unsupported_parameter")
    first = found[0]
    if first["type"] == "json_invalid":
        return ApiError(
            400, f"The body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}."
        )
    param = _param(first["loc"])
    said = first["msg"].removeprefix("Value error, ")
    if not param and first["type"] == "value_error":  # of two parameters that do not go together
        return ApiError(400, f"{said}.", code="invalid_value")
    if not param:
        return ApiError(400, "The body is not a JSON object with the content type application/json.")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{param}: {said}", param=param, code=code)


def _whole(text: str) -> str:
    """Escapes surrogates, which a client's JSON may contain but UTF-8 can't encode."""
    return text.encode(errors="backslashreplace").decode()


def _param(location: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in location[1:])
