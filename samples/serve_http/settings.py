"""What the server lets its clients do, and how long it waits."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Settings"]


class Settings(BaseModel):
    """Checked once, at the start; times are seconds.

    model: the name that clients call it by; workers: batches that are continued at once; queue: requests that wait
    beyond those; timeout: from a request's arrival to its last token; grace: from SIGTERM to the end of what is
    unanswered; max_body: bytes; max_batch: sequences of a request, prompts times n, None for
    what the engine takes, or 16; max_new_tokens: of each of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    workers: int = Field(1, ge=1)
    queue: int = Field(64, ge=0)
    timeout: float = Field(300, gt=0)
    grace: float = Field(30, ge=0)
    max_body: int = Field(1 << 20, ge=1)
    max_batch: int | None = Field(None, ge=1)
    max_new_tokens: int = Field(4096, ge=1)
