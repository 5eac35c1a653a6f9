"""The service: routes, limits, and the way of a request from its body to its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from patch_compile import Continuation, Generator, PatchCompileError
from samples.serve_http.batch import Batcher, Job
from samples.serve_http.protocol import ApiError, ChatRequest, CompletionRequest, GenerationRequest, parse
from samples.serve_http.replies import Reply, event

_ROWS = 16  # sequences of a batch, unless the user or the engine says otherwise
_COMPLETION_TOKENS = 16  # OpenAI's default of max_tokens for completions; a chat has no such default
_DONE = b"data: [DONE]\n\n"
_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


@dataclass
class Service:
    """Serves a generator as `model`, within limits that `server.py` describes. Times are in seconds."""

    generator: Generator
    model: str
    queue: int
    timeout: float
    client_timeout: float
    max_body: int
    max_batch: int | None
    max_prompt: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        taken = self.generator.decoder.limits.batch
        rows = self.max_batch or taken or _ROWS
        self._batcher = Batcher(self.generator, min(rows, taken or rows), self.queue, self.max_prompt)
        # One request at a time: encoding is CPU work, and a client with many texts must not occupy all threads.
        self._encoding = asyncio.Lock()

    def app(self) -> Starlette:
        """Returns the application, which generates from its start to its end."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            self._batching = asyncio.create_task(self._batcher.run())
            yield
            self._batching.cancel()

        routes = [
            Route("/v1/completions", partial(self._generate, CompletionRequest), methods=["POST"]),
            Route("/v1/chat/completions", partial(self._generate, ChatRequest), methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._models),
            Route("/health", self._health),
        ]
        handlers: Any = {HTTPException: _refused, Exception: _unexpected}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)

    async def _models(self, request: Request) -> Response:
        """The model of a name, or the list of all models, which has one entry."""
        model = {"id": self.model, "object": "model", "created": 0, "owned_by": "patch-compile"}
        if "name" in request.path_params:
            self._check_model(request.path_params["name"])
            return JSONResponse(model)
        return JSONResponse({"object": "list", "data": [model]})

    async def _health(self, _: Request) -> Response:
        state = {"ready": not self._batching.done(), "runs_on": self.generator.decoder.name}
        return JSONResponse(state | self._batcher.counts, 200 if state["ready"] else 503)

    async def _generate(self, kind: type[GenerationRequest], request: Request) -> Response:
        """Queue a request and return its answer. Only a valid request waits for the batch."""
        deadline = asyncio.get_running_loop().time() + self.timeout
        body = parse(kind, await self._read(request))
        if body.model is not None:
            self._check_model(body.model)
        rows, most = body.prompts * body.n, self._batcher.rows
        if rows > most:
            said = f"{body.prompts} prompts with n={body.n} are {rows} sequences; at most {most} run at once."
            raise ApiError(400, said, body.prompt_name if body.n == 1 else "n")
        self._batcher.check_room()
        try:
            async with self._encoding:
                prompts = await asyncio.to_thread(body.encode, self.generator)
        except PatchCompileError as error:
            raise ApiError(400, str(error), body.prompt_name) from None
        job = self._batcher.submit(self._within_limits(body, prompts, rows))
        reply = Reply(body, self.model, rows, sum(map(len, prompts)), self.generator.tokenizer)
        return _Answer(self._batcher, job, reply, deadline, stream=body.stream)

    async def _read(self, request: Request) -> bytes:
        """Returns the body. Raises ApiError if it is too large, which its header may say first, or comes too slowly."""
        body, limit = bytearray(), self.max_body
        too_large = ApiError(413, f"The body is larger than the limit of {limit}.", code="body_too_large")
        if int(request.headers.get("content-length", 0)) > limit:
            raise too_large
        try:
            async with asyncio.timeout(self.client_timeout):
                async for part in request.stream():
                    body += part
                    if len(body) > limit:
                        raise too_large
        except (TimeoutError, ClientDisconnect):
            raise ApiError(408, f"The body did not arrive within {self.client_timeout:g} s.") from None
        return bytes(body)

    def _check_model(self, name: str) -> None:
        if name != self.model:
            said = f"The model {name} does not exist; this server has {self.model}."
            raise ApiError(404, said, "model", "model_not_found")

    def _within_limits(self, body: GenerationRequest, prompts: list[list[int]], rows: int) -> Continuation:
        longest, asked, most = max(map(len, prompts)), body.asked_tokens, self.max_new_tokens
        if asked is not None and asked > most:
            raise ApiError(400, f"{asked} new tokens are more than the limit of {most}.", "max_tokens")
        code = "context_length_exceeded"
        if rows * longest > self.max_prompt:
            said = f"{rows} sequences of {longest} tokens are more than {self.max_prompt}, which are read at once."
            raise ApiError(400, said, body.prompt_name, code)
        total = self.generator.decoder.limits.total
        default = most if isinstance(body, ChatRequest) else min(_COMPLETION_TOKENS, most)
        room = default if total is None else total - longest
        try:
            return self.generator.request(
                [prompt for prompt in prompts for _ in range(body.n)],
                body.sampling(self.generator.sampling),
                new_tokens=asked or max(1, min(default, room)),
                stop=body.stop,
                logprobs=body.asked_logprobs,
            )
        except PatchCompileError as error:
            raise ApiError(400, str(error), body.prompt_name, code) from None


class _Answer(Response):
    """The response to a job, which ends when its client leaves.

    A stream's headers are sent with its first token, so that an error before that still gets its own status.
    """

    def __init__(self, batcher: Batcher, job: Job, reply: Reply, deadline: float, *, stream: bool) -> None:
        super().__init__()
        self._batcher, self._job, self._reply, self._stream = batcher, job, reply, stream
        self._pieces = job.pieces(deadline)
        self._began = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, as ASGI defines it."""
        watch = asyncio.create_task(_until_gone(receive, self._job))
        try:
            if self._stream:
                await self._send_stream(send)
            else:
                await JSONResponse(await self._reply.whole(self._pieces))(scope, receive, send)
        except ApiError as error:
            if self._began:
                await _send(send, event(error.body()) + _DONE, last=True)
            else:
                await _response(error)(scope, receive, send)
        finally:
            watch.cancel()
            self._batcher.leave(self._job)

    async def _send_stream(self, send: Send) -> None:
        async for data in self._reply.events(self._pieces):
            if not self._began:
                self._began = True
                await send({"type": "http.response.start", "status": 200, "headers": _STREAM})
            await _send(send, data)
        await _send(send, _DONE, last=True)


async def _until_gone(receive: Receive, job: Job) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    job.end()  # uvicorn drops answers to a client that has left


async def _send(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})


def _response(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status_code, error.headers)


async def _refused(_: Request, error: HTTPException) -> Response:
    return _response(error if isinstance(error, ApiError) else ApiError(error.status_code, error.detail))


async def _unexpected(_: Request, error: Exception) -> Response:
    return _response(ApiError(500, repr(error)))
