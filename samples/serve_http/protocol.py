"""Requests of OpenAI's API that this server supports."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, PlainValidator, model_validator

from patch_compile import Generator, Sampling

__all__ = ["ChatRequest", "CompletionRequest", "GenerationRequest"]

# Unsupported parameters → values that request nothing. Clients send them as defaults, so they are accepted.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),  # for a completion, 0 requests the log probabilities of its own tokens
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (False, True),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "top_logprobs": (0,),
}


# Bounds for what a request makes the server do: pydantic describes each wrong field, and after each token the end of the
# text is compared with the beginnings of each stop string.
_FIELDS = 100
_STOP_LENGTH = 1000


def _is_neutral(name: str, value: Any) -> bool:
    """True if a parameter's value requests nothing. The type must match too: True is not 1."""
    return value is None or any(type(value) is type(one) and value == one for one in _NEUTRAL.get(name, ()))


class _Body(BaseModel):
    """Part of a request. null counts as absent. An unknown field is an error unless its value is neutral."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if len(given) > _FIELDS:
            raise ValueError(f"an object of a request has at most {_FIELDS} fields")
        return {name: value for name, value in given.items() if not _is_neutral(name, value)}


def _encodable(text: str) -> str:
    """Returns the text. Raises ValueError for half a surrogate pair (\\ud800): valid JSON, but no tokenizer accepts it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the character at {error.start} is half of a surrogate pair") from None
    return text


def _stops(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


def _prompts(given: Any) -> list[str | list[int]]:
    """Returns the list of prompts from a text, a list of token ids, or a list of either."""
    if isinstance(given, str) or (isinstance(given, list) and given and all(map(_is_token, given))):
        return [given if isinstance(given, list) else _encodable(given)]
    if isinstance(given, list) and given:
        if all(isinstance(one, str) for one in given):
            return [_encodable(text) for text in given]
        if all(isinstance(one, list) and all(map(_is_token, one)) for one in given):
            return given
    raise ValueError("it must be a text, a list of texts, of token ids or of such lists, and not empty")


def _is_token(given: Any) -> bool:
    return type(given) is int


def _text(given: Any) -> str:
    """Returns the content of a message, which is a text or a list of text parts."""
    if isinstance(given, str):
        return _encodable(given)
    if not isinstance(given, list) or not given:
        raise ValueError("it must be a text or a list of parts")
    texts = []
    for part in given:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("only parts of type text are supported")
        texts.append(_encodable(part["text"]))
    return "\n".join(texts)


class StreamOptions(_Body):
    """Options of a stream. include_usage: send a last chunk with the numbers of tokens."""

    include_usage: bool = False


class GenerationRequest(_Body):
    """Common part of completions and chats. `top_k` and `repetition_penalty` are not OpenAI's; `user` is ignored."""

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
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=_STOP_LENGTH)]], BeforeValidator(_stops)
    ] = Field([], max_length=4)
    n: int = Field(1, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    prompt_name: ClassVar[str]

    @model_validator(mode="after")
    def _consistent(self) -> GenerationRequest:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is only allowed if stream is true")
        return self

    @property
    @abstractmethod
    def prompts(self) -> int:
        """Number of prompts."""

    @abstractmethod
    def encode(self, generator: Generator) -> list[list[int]]:
        """Returns the token ids of each prompt. Raises PatchCompileError for a prompt that can't be continued."""

    @property
    @abstractmethod
    def asked_logprobs(self) -> int | None:
        """Number of most likely tokens whose log probabilities are asked for; None if no log probability is."""

    @property
    def asked_tokens(self) -> int | None:
        """Requested number of new tokens; `max_tokens` is the older name of the parameter."""
        return self.max_completion_tokens or self.max_tokens

    def sampling(self, default: Sampling) -> Sampling:
        """Returns the client's settings. `default` (from the model's generation_config.json) supplies the missing ones."""
        names = (
            "temperature",
            "top_p",
            "top_k",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        # OpenAI's API allows negative seeds, numpy does not.
        return replace(default, **given, seed=None if self.seed is None else self.seed % 2**64)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt_name = "prompt"
    prompt: Annotated[
        list[str | list[int]],
        PlainValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
    ]

    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def prompts(self) -> int:
        return len(self.prompt)

    @property
    def asked_logprobs(self) -> int | None:
        return self.logprobs

    def encode(self, generator: Generator) -> list[list[int]]:
        """See `GenerationRequest`."""
        return [generator.encode(prompt) for prompt in self.prompt]


class Message(_Body):
    """Message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, PlainValidator(_text, json_schema_input_type=str | list[dict[str, str]])]


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    prompt_name = "messages"
    messages: Annotated[list[Message], FailFast()] = Field(min_length=1)

    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _logprobs_before_top(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only allowed if logprobs is true")
        return self

    @property
    def prompts(self) -> int:
        return 1

    @property
    def asked_logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None

    def encode(self, generator: Generator) -> list[list[int]]:
        """See `GenerationRequest`."""
        # `developer` is a newer name of `system`, which chat templates do not know.
        roles = ("system" if m.role == "developer" else m.role for m in self.messages)
        pairs = zip(roles, self.messages, strict=True)
        return [generator.encode_chat([{"role": role, "content": m.content} for role, m in pairs])]
