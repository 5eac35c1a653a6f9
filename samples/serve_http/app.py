"""The service: routes, limits, and the way of a request from its body to its answer. One request generates at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from collections.abc import Generator as Stream
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from patch_compile import Generator, PatchCompileError, Piece
from samples.serve_http.protocol import ApiError, ChatRequest, CompletionRequest, GenerationRequest, parse
from samples.serve_http.replies import Reply, event

_ROWS, _PROMPT, _BODY = (
    16,
    4096,
    1 << 20,
)  # most sequences, tokens read at once with padding, bytes of a request
_STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
_COMPLETION_TOKENS = 16  # OpenAI's default of max_tokens for completions; a chat has no such default


class _Job:
    """A request that waits or is being continued. over: True once its client needs no more tokens."""

    def __init__(self, stream: Stream[Piece, None, None]) -> None:
        self.stream, self.over = stream, False
        self.items: asyncio.Queue[Piece | ApiError | None] = asyncio.Queue()

    def run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compute the tokens, in a thread of its own."""
        with closing(self.stream):
            while not self.over and (piece := next(self.stream, None)):
                loop.call_soon_threadsafe(self.items.put_nowait, piece)

    async def pieces(self, deadline: float) -> AsyncIterator[Piece]:
        """Yield tokens as they arrive. Raises ApiError for a failure, and after the deadline."""
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    item = await self.items.get()
            except TimeoutError:
                raise ApiError(504, "The request took too long.", code="timeout") from None
            if item is None:
                return
            if isinstance(item, ApiError):
                raise item
            yield item


@dataclass
class Service:
    """Serves a generator as `model`. queue: requests that may wait; timeout: seconds of a request with its wait;
    client_timeout: seconds in which a client sends it; max_new_tokens: most of a request, and a chat's default."""

    generator: Generator
    model: str
    queue: int = 64
    timeout: float = 300.0
    client_timeout: float = 30.0
    max_new_tokens: int = 4096

    def __post_init__(self) -> None:
        self._turn = asyncio.Lock()  # of the request that generates
        self._waiting: set[_Job] = set()

    def app(self) -> Starlette:
        """Returns the application."""
        routes = [
            Route("/v1/completions", partial(self._generate, CompletionRequest), methods=["POST"]),
            Route("/v1/chat/completions", partial(self._generate, ChatRequest), methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/health", self._health),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _refused, Exception: _refused})

    async def _models(self, _: Request) -> Response:
        model = {"id": self.model, "object": "model", "created": 0, "owned_by": "patch-compile"}
        return JSONResponse({"object": "list", "data": [model]})

    async def _health(self, _: Request) -> Response:
        counts = {"running": int(self._turn.locked()), "waiting": len(self._waiting)}
        return JSONResponse({"runs_on": self.generator.decoder.name} | counts)

    async def _generate(self, kind: type[GenerationRequest], request: Request) -> Response:
        """Queue a request and return its answer. Only a valid request waits for its turn."""
        deadline = asyncio.get_running_loop().time() + self.timeout
        body = parse(kind, await self._read(request))
        if body.model not in (None, self.model):
            said = f"The model {body.model} does not exist; this server has {self.model}."
            raise ApiError(404, said, "model", "model_not_found")
        try:
            prompt = await asyncio.to_thread(body.encode, self.generator)
            job = _Job(self._stream(body, prompt))
        except PatchCompileError as error:
            raise ApiError(400, str(error)) from None
        if len(self._waiting) + self._turn.locked() > self.queue:
            raise ApiError(429, "The queue is full.", code="queue_full", headers={"retry-after": "1"})
        self._waiting.add(job)
        reply = Reply(body, self.model, len(prompt), self.generator.tokenizer)
        parts = self._parts(job, request, reply.parts(job.pieces(deadline)))
        first = await anext(parts, b"")  # an error before it gets a status of its own, also in a stream
        if body.stream:
            return StreamingResponse(_rest(first, parts), headers=_STREAM)
        await parts.aclose()
        return Response(first, media_type="application/json")

    async def _read(self, request: Request) -> bytes:
        """Returns the body. Raises ApiError if it is too large, which its header may say first, or comes too slowly."""
        body, too_large = (
            bytearray(),
            ApiError(413, f"The body is larger than {_BODY}.", code="body_too_large"),
        )
        if int(request.headers.get("content-length", 0)) > _BODY:
            raise too_large
        try:
            async with asyncio.timeout(self.client_timeout):
                async for part in request.stream():
                    body += part
                    if len(body) > _BODY:
                        raise too_large
        except (TimeoutError, ClientDisconnect):
            raise ApiError(408, f"The body did not arrive within {self.client_timeout:g} s.") from None
        return bytes(body)

    def _stream(self, body: GenerationRequest, prompt: list[int]) -> Stream[Piece, None, None]:
        """Returns the tokens, of which none is computed yet. Raises ApiError or PatchCompileError beyond a limit."""
        limits, asked, most = self.generator.decoder.limits, body.asked_tokens, self.max_new_tokens
        if asked is not None and asked > most:
            raise ApiError(400, f"{asked} is more than the limit of {most}.", "max_tokens")
        if len(prompt) > _PROMPT:  # memory grows by the square of a prompt's length
            said = f"A prompt of {len(prompt)} tokens is longer than {_PROMPT}."
            raise ApiError(400, said, code="context_length_exceeded")
        default = most if isinstance(body, ChatRequest) else min(_COMPLETION_TOKENS, most)
        room = default if limits.total is None else limits.total - len(prompt)
        sampling = body.sampling(self.generator.sampling)
        new_tokens = asked or max(1, min(default, room))
        return self.generator.stream(
            [prompt], sampling, new_tokens=new_tokens, stop=body.stop, logprobs=body.asked_logprobs
        )

    async def _parts(
        self, job: _Job, request: Request, parts: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        """Let a job take its turn, and yield the parts of its answer."""
        tasks = [asyncio.create_task(work) for work in (self._work(job), self._until_gone(request, job))]
        try:
            async for part in parts:
                yield part
        finally:
            tasks[1].cancel()
            self._leave(job)

    async def _work(self, job: _Job) -> None:
        """Wait for the turn of a job, and continue it in a thread."""
        async with self._turn:
            self._waiting.discard(job)
            try:
                await asyncio.to_thread(job.run, asyncio.get_running_loop())
            except Exception as error:
                if not isinstance(error, PatchCompileError):
                    logging.getLogger(__name__).exception("generation failed")
                job.items.put_nowait(ApiError(500, str(error) or repr(error), code="generation_failed"))
            else:
                job.items.put_nowait(None)

    async def _until_gone(self, request: Request, job: _Job) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._leave(job)

    def _leave(self, job: _Job) -> None:
        job.over = True
        self._waiting.discard(job)
        job.items.put_nowait(None)  # uvicorn drops answers to a client that has left


async def _rest(first: bytes, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for part in parts:
            yield part
    except ApiError as error:
        yield event(error.body())
    yield event("[DONE]")


async def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and not isinstance(error, ApiError):
        error = ApiError(error.status_code, error.detail)
    if not isinstance(error, ApiError):
        error = ApiError(500, repr(error))
    return JSONResponse(error.body(), error.status_code, error.headers)
