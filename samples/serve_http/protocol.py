"""The requests of OpenAI's API, as far as this server takes them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from patch_compile.runtime import Generator, Sampling

__all__ = ["ChatRequest", "CompletionRequest", "GenerationRequest"]

# Values of parameters that the server lacks, with which they ask for nothing: clients send them as their defaults.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),  # 0 asks a completion for those of its own tokens
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (False, True),
    "presence_penalty": (0, 0.0),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "top_logprobs": (0,),
}


def _is_neutral(name: str, value: Any) -> bool:
    """Whether a parameter asks for nothing; True is not 1 here."""
    return value is None or any(type(value) is type(one) and value == one for one in _NEUTRAL.get(name, ()))


class _Body(BaseModel):
    """A part of a request. null is as good as absent, and what is neither known nor neutral is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if not _is_neutral(name, value)}


def _encodable(text: str) -> str:
    """JSON can write half of a character (\\ud800), which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"no character at {error.start}, but half of one") from None
    return text


def _stops(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


def _prompts(given: Any) -> list[str | list[int]]:
    """One prompt or many, texts or token ids: a list of prompts."""
    if isinstance(given, str) or (isinstance(given, list) and given and all(map(_is_token, given))):
        return [given if isinstance(given, list) else _encodable(given)]
    if isinstance(given, list) and given:
        if all(isinstance(one, str) for one in given):
            return [_encodable(text) for text in given]
        if all(isinstance(one, list) and all(map(_is_token, one)) for one in given):
            return given
    raise ValueError("it is a text, a list of texts, a list of token ids or a list of such lists, not empty")


def _is_token(given: Any) -> bool:
    return type(given) is int


def _text(given: Any) -> str:
    """The content of a message: a text, or parts that are all texts."""
    if isinstance(given, str):
        return _encodable(given)
    if not isinstance(given, list) or not given:
        raise ValueError("it is a text or a list of parts")
    texts = []
    for part in given:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("only parts of type text are supported")
        texts.append(_encodable(part["text"]))
    return "\n".join(texts)


class StreamOptions(_Body):
    """include_usage: a last chunk with the numbers of tokens."""

    include_usage: bool = False


class GenerationRequest(_Body):
    """What completions and chats have in common. `top_k` and `repetition_penalty` are not OpenAI's; `user` is unused."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0)
    seed: int | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_stops)] = Field(
        [], max_length=4
    )
    n: int = Field(1, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    prompt_name: ClassVar[str]

    @model_validator(mode="after")
    def _consistent(self) -> GenerationRequest:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is only allowed where stream is true")
        return self

    @property
    @abstractmethod
    def prompts(self) -> int:
        """How many there are."""

    @abstractmethod
    def encode(self, generator: Generator) -> list[list[int]]:
        """Token ids of each prompt. Raises PatchCompileError for one that can't be continued."""

    @property
    def asked_tokens(self) -> int | None:
        """New tokens that the client asks for; `max_tokens` is the older name."""
        return self.max_completion_tokens or self.max_tokens

    def sampling(self, default: Sampling) -> Sampling:
        """What the client gives, and for the rest what the model's authors sample with."""
        names = ("temperature", "top_p", "top_k", "repetition_penalty")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        # A seed may be negative in OpenAI's API; numpy takes none below 0.
        return replace(default, **given, seed=None if self.seed is None else self.seed % 2**64)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt_name = "prompt"
    prompt: Annotated[
        list[str | list[int]],
        PlainValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
    ]

    @property
    def prompts(self) -> int:
        """See `GenerationRequest`."""
        return len(self.prompt)

    def encode(self, generator: Generator) -> list[list[int]]:
        """See `GenerationRequest`."""
        return [generator.encode(prompt) for prompt in self.prompt]


class Message(_Body):
    """One of a conversation; templates know `system`, and not its newer name `developer`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, PlainValidator(_text, json_schema_input_type=str | list[dict[str, str]])]


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    prompt_name = "messages"
    messages: list[Message] = Field(min_length=1)

    @property
    def prompts(self) -> int:
        """See `GenerationRequest`."""
        return 1

    def encode(self, generator: Generator) -> list[list[int]]:
        """See `GenerationRequest`."""
        roles = ("system" if m.role == "developer" else m.role for m in self.messages)
        pairs = zip(roles, self.messages, strict=True)
        return [generator.encode_chat([{"role": role, "content": m.content} for role, m in pairs])]
