"""Limits and timeouts of the server."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Settings"]


class Settings(BaseModel):
    """Settings of the server, validated at its start. Times are in seconds.

    model: name of the model in the API; workers: batches that run at the same time; queue: further requests that may
    wait; timeout: from the arrival of a request to its last token; grace: from SIGTERM until unanswered requests get an
    error; client_timeout: for a request to arrive, and for a client to read what was sent; connections: open at the same
    time; max_body: bytes of a request; max_batch: sequences of a batch, and so of a request (prompts × n), None means the
    engine's limit, else 16; max_prompt: tokens that are read at once (the longest prompt × sequences); max_new_tokens:
    per sequence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    workers: int = Field(1, ge=1)
    queue: int = Field(64, ge=0)
    timeout: float = Field(300, gt=0)
    grace: float = Field(30, ge=0)
    client_timeout: float = Field(30, gt=0)
    connections: int = Field(512, ge=1)
    max_body: int = Field(1 << 20, ge=1)
    max_batch: int | None = Field(None, ge=1)
    max_prompt: int = Field(4096, ge=1)
    max_new_tokens: int = Field(4096, ge=1)
