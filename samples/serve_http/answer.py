"""Sends the tokens of a job to its client, whole or as server-sent events, and ends the job when the client leaves."""

from __future__ import annotations

import json

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from patch_compile import Piece
from samples.serve_http.api_error import ApiError
from samples.serve_http.replies import JsonObject, Reply, Usage
from samples.serve_http.scheduler import Job, Scheduler

__all__ = ["Answer"]

_DONE = b"data: [DONE]\n\n"
_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Answer(Response):
    """HTTP response to one job.

    A stream's headers are sent with its first token, so that an error before that still gets its own status.
    """

    def __init__(self, scheduler: Scheduler, job: Job, reply: Reply, usage: Usage, *, stream: bool) -> None:
        super().__init__()
        self._scheduler, self._job, self._reply, self._usage = scheduler, job, reply, usage
        self._stream = stream
        self._began = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, as ASGI defines it."""
        async with anyio.create_task_group() as group:
            group.start_soon(_until_gone, receive, group.cancel_scope)
            try:
                await self._answer(scope, receive, send)
            finally:
                self._scheduler.end(self._job)
            group.cancel_scope.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._stream:
                await self._send_stream(send)
            else:
                whole = await self._whole()
                await JSONResponse(whole)(scope, receive, send)
        except ApiError as error:
            if not self._began:
                await error.response()(scope, receive, send)
            else:
                await _send(send, _event(error.body()) + _DONE, last=True)

    async def _whole(self) -> JsonObject:
        pieces = [list[Piece]() for _ in range(self._reply.rows)]
        async for piece in self._job.pieces():
            self._usage.completion_tokens += 1
            pieces[piece.row].append(piece)
        return self._reply.whole(pieces, self._usage)

    async def _send_stream(self, send: Send) -> None:
        async for piece in self._job.pieces():
            if not self._began:
                self._began = True
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                for opening in self._reply.openings():
                    await _send(send, _event(opening))
            self._usage.completion_tokens += 1
            chunk = self._reply.chunk(piece)
            if chunk is not None:
                await _send(send, _event(chunk))
        usage = _event(self._reply.usage_chunk(self._usage)) if self._reply.show_usage else b""
        await _send(send, usage + _DONE, last=True)


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """Wait until the client leaves, then cancel the answer."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _send(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})


def _event(data: JsonObject) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
