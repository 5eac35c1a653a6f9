"""Requests of clients: OpenAI's parameters that this server supports, and the errors for everything else."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException

from patch_compile import Generator, Sampling

_TYPES = {429: "rate_limit_error", 500: "server_error", 504: "timeout_error"}
_NAMED = 8  # unsupported parameters that an error names
_UNSUPPORTED = "unsupported_parameter"


class ApiError(HTTPException):
    """An error in OpenAI's format. param: name of the wrong parameter; code: machine-readable error code."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Any = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        """Returns `{"error": …}`."""
        kind = _TYPES.get(self.status_code, "invalid_request_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}


class _Body(BaseModel):
    """Part of a request. null counts as absent, and so does an unknown parameter whose value is empty or false."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        unknown = [name for name, value in given.items() if value and name not in cls.model_fields]
        if unknown:
            raise PydanticCustomError(_UNSUPPORTED, "not supported", {"names": unknown[:_NAMED]})
        return {name: value for name, value in given.items() if value is not None}


class _StreamOptions(_Body):
    include_usage: bool = False


class _Generation(_Body):
    """Common part of completions and chats. `top_k` and `repetition_penalty` are not OpenAI's."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = None
    # After each token the end of the text is compared with the beginnings of each stop string.
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1000)]],
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    ] = Field([], max_length=4)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()

    @property
    def asked_tokens(self) -> int | None:
        """Requested number of new tokens; `max_tokens` is the older name of the parameter."""
        return self.max_completion_tokens or self.max_tokens

    def sampling(self, default: Sampling) -> Sampling:
        """Returns the client's settings; `default`, of the model's generation_config.json, supplies the missing ones."""
        names = "temperature", "top_p", "top_k", "repetition_penalty", "presence_penalty", "frequency_penalty"
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        # OpenAI's API allows negative seeds, numpy does not.
        return replace(default, **given, seed=None if self.seed is None else self.seed % 2**64)


class CompletionRequest(_Generation):
    """POST /v1/completions."""

    prompt: str | list[int]
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def asked_logprobs(self) -> int | None:
        """Number of most likely tokens whose log probabilities are asked for; None for no log probabilities."""
        return self.logprobs

    def encode(self, generator: Generator) -> list[int]:
        """Returns the token ids of the prompt. Raises PatchCompileError for a prompt that can't be continued."""
        return generator.encode(self.prompt)


class _Message(_Body):
    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(_Generation):
    """POST /v1/chat/completions."""

    messages: list[_Message] = Field(min_length=1, fail_fast=True)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)

    @property
    def asked_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs else None

    def encode(self, generator: Generator) -> list[int]:
        """Returns the token ids of the conversation, as the model's chat template writes it."""
        return generator.encode_chat([message.model_dump() for message in self.messages])


GenerationRequest = CompletionRequest | ChatRequest


def parse(kind: type[GenerationRequest], body: bytes) -> GenerationRequest:
    """Returns the request in a body of JSON. Raises ApiError for its first mistake."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == _UNSUPPORTED:
        names = [".".join([*place, name]) for name in first["ctx"]["names"]]
        raise ApiError(400, f"not supported by this server: {', '.join(names)}", names[0], _UNSUPPORTED)
    said, param = first["msg"].removeprefix("Value error, "), ".".join(place) or None
    raise ApiError(400, f"{param}: {said}" if param else said, param, "invalid_value")
