"""Routes of the server, and the conversion of requests to jobs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from patch_compile import Generator, PatchCompileError
from samples.serve_http.answer import Answer
from samples.serve_http.api_error import ApiError, from_validation
from samples.serve_http.body_limit import BodyLimit
from samples.serve_http.logprobs import Logprobs
from samples.serve_http.metrics import CountResponses
from samples.serve_http.protocol import ChatRequest, CompletionRequest, GenerationRequest
from samples.serve_http.replies import JsonObject, Reply, Usage
from samples.serve_http.scheduler import Scheduler
from samples.serve_http.settings import Settings

__all__ = ["make_app"]

# OpenAI's default of max_tokens for completions. A chat has no such default.
_COMPLETION_TOKENS = 16
_LAST_TOKEN = 10.0  # seconds that a worker has for its current token when the server ends


def make_app(generator: Generator, settings: Settings, scheduler: Scheduler) -> FastAPI:
    """Returns the application. It starts and stops the workers of `scheduler`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await anyio.to_thread.run_sync(scheduler.stop, _LAST_TOKEN)

    # No documentation pages: they load scripts from other hosts.
    app = FastAPI(title="patch-compile", lifespan=lifespan, docs_url=None, redoc_url=None)
    intake = _Intake(generator, settings, scheduler)
    created = int(time.time())
    model = {"id": settings.model, "object": "model", "created": created, "owned_by": "patch-compile"}

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest) -> Response:
        return await intake.answer(body)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatRequest) -> Response:
        return await intake.answer(body)

    @app.get("/v1/models")
    async def models() -> JsonObject:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> JsonObject:
        intake.check_model(name)
        return model

    @app.get("/health")
    async def health() -> JSONResponse:
        state = {"live": scheduler.alive, "ready": scheduler.alive and not scheduler.draining}
        return JSONResponse(state | {"runs_on": generator.decoder.name}, 200 if state["ready"] else 503)

    @app.get("/health/live")
    async def live() -> JSONResponse:
        return JSONResponse({"live": scheduler.alive}, 200 if scheduler.alive else 503)

    @app.get("/health/ready")
    async def ready() -> JSONResponse:
        is_ready = scheduler.alive and not scheduler.draining
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(scheduler.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    _answer_errors(app)
    paths = frozenset(app.openapi()["paths"])
    # A request passes the middleware that is added last first.
    app.add_middleware(BodyLimit, limit=settings.max_body)
    app.add_middleware(CountResponses, counter=scheduler.metrics.responses, paths=paths)
    return app


class _Intake:
    """Checks requests and puts them into the queue."""

    def __init__(self, generator: Generator, settings: Settings, scheduler: Scheduler) -> None:
        self._generator, self._settings, self._scheduler = generator, settings, scheduler
        # One request at a time: encoding is CPU work, and a client with many texts must not occupy all threads.
        self._encoding = anyio.CapacityLimiter(1)
        self._vocabulary = len(generator.tokenizer)

    async def answer(self, body: GenerationRequest) -> Response:
        """Queue a request and return its answer.

        Raises ApiError if the queue is full or the request is invalid. Only a valid request waits for a worker.
        """
        if body.model is not None:
            self.check_model(body.model)
        rows, most = body.prompts * body.n, self._scheduler.rows
        if rows > most:
            message = (
                f"{body.prompts} prompts with n={body.n} are {rows} sequences; at most {most} run at once."
            )
            raise ApiError(400, message, param=body.prompt_name if body.n == 1 else "n")
        job = self._scheduler.admit()
        try:
            prompts = await anyio.to_thread.run_sync(partial(self._encode, body), limiter=self._encoding)
            request = self._generator.request(
                [prompt for prompt in prompts for _ in range(body.n)],
                body.sampling(self._generator.sampling),
                new_tokens=self._new_tokens(body, max(map(len, prompts)), rows),
                stop=body.stop,
                logprobs=body.asked_logprobs,
            )
            self._scheduler.enqueue(job, request)
        except BaseException:
            self._scheduler.end(job)
            raise
        options = body.stream_options
        show_usage = options is not None and options.include_usage
        chat = isinstance(body, ChatRequest)
        logprobs = None if body.asked_logprobs is None else Logprobs(self._generator.tokenizer, chat=chat)
        reply = Reply(chat, self._settings.model, rows, show_usage, logprobs)
        usage = Usage(sum(map(len, prompts)))
        return Answer(self._scheduler, job, reply, usage, stream=body.stream)

    def check_model(self, name: str) -> None:
        """Raise ApiError 404 for another model than the server's."""
        if name != self._settings.model:
            message = f"The model {name} does not exist; this server has {self._settings.model}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def _encode(self, body: GenerationRequest) -> list[list[int]]:
        try:
            prompts = body.encode(self._generator)
        except PatchCompileError as error:
            raise ApiError(400, str(error), param=body.prompt_name) from None
        wrong = next((i for prompt in prompts for i in prompt if not 0 <= i < self._vocabulary), None)
        if wrong is not None:
            message = f"{wrong} is not a token id; the vocabulary has {self._vocabulary} tokens."
            raise ApiError(400, message, param=body.prompt_name)
        return prompts

    def _new_tokens(self, body: GenerationRequest, longest: int, rows: int) -> int:
        limits, most, asked = self._generator.decoder.limits, self._settings.max_new_tokens, body.asked_tokens
        if asked is not None and asked > most:
            raise ApiError(400, f"{asked} new tokens are more than the limit of {most}.", param="max_tokens")
        default = most if isinstance(body, ChatRequest) else min(_COMPLETION_TOKENS, most)
        if rows * longest > self._settings.max_prompt:
            message = (
                f"{rows} sequences of {longest} tokens are more than the {self._settings.max_prompt} tokens of prompt that "
                "this server reads at once."
            )
            raise ApiError(400, message, param=body.prompt_name, code="context_length_exceeded")
        room = default if limits.total is None else limits.total - longest
        new_tokens = asked or max(1, min(default, room))
        try:
            limits.check(rows, longest, new_tokens)
        except PatchCompileError as error:
            code = "context_length_exceeded"
            raise ApiError(400, str(error), param=body.prompt_name, code=code) from None
        return new_tokens


def _answer_errors(app: FastAPI) -> None:
    """Make the application answer all errors in OpenAI's format."""

    async def known(_: Request, error: Any) -> Response:
        response: Response = error.response()
        return response

    async def invalid(_: Request, error: Any) -> Response:
        return from_validation(error).response()

    async def of_http(_: Request, error: Any) -> Response:
        return ApiError(error.status_code, str(error.detail), headers=error.headers).response()

    async def unexpected(_: Request, error: Exception) -> Response:
        return ApiError(500, f"{type(error).__name__}: {error}").response()

    app.add_exception_handler(ApiError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, unexpected)
