"""Readers of what clients send to the sample server, behind its reading of JSON."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from masklearn.base.safe_read import parse_json
from patch_compile import Sampling
from samples.serve_http.protocol import ChatRequest, CompletionRequest
from tests.attacks.fuzz.mutations import change_json
from tests.attacks.fuzz.reader import Reader


def _request(data: bytes, folder: Path) -> None:
    """Check a body as the kind of request that it looks like; the server answers a ValidationError by its fields."""
    kind = ChatRequest if b'"messages"' in data else CompletionRequest
    request = kind.model_validate(parse_json(data, finite=False))
    request.sampling(Sampling())
    assert request.prompts >= 1 and (request.asked_tokens or 1) >= 1
    assert (request.asked_logprobs or 0) <= 20


READERS = (Reader("request", _request, change_json, refuses=(ValueError, ValidationError)),)
