"""Requests wait in line for worker threads, and get their tokens back in the event loop.

The event loop alone counts places and answers (`_placed`, `_open`); the line is shared with the workers, under
`_changed`. A worker looks at `Job.over` after each token, and nothing that a client does can block it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from collections.abc import Generator as Pieces
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import cast

from patch_compile.errors import PatchCompileError
from patch_compile.runtime import Generator, Piece, Sampling
from samples.serve_http.api_error import ApiError
from samples.serve_http.metrics import Metrics, Outcome
from samples.serve_http.settings import Settings

__all__ = ["Job", "Scheduler", "Work"]

_LOG = logging.getLogger(__name__)
_RECENT = 0.2  # weight of the newest request in the mean that Retry-After is made of
_DELIVERY = 5.0  # seconds that answers have to reach their clients after the grace


@dataclass(frozen=True)
class Work:
    """What `Generator.stream` is called with; the prompts are within the decoder's limits."""

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    new_tokens: int
    stop: Sequence[str]


class Job:
    """A request from its acceptance to its answer. All but `over` and `put` belongs to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.work: Work | None = None
        self.over = False  # nobody waits for more tokens
        self.outcome = Outcome.DISCONNECTED  # until it is answered
        self.accepted = time.monotonic()
        self.deadline = loop.time() + timeout
        self._timeout = timeout
        self._loop = loop
        self._items: asyncio.Queue[Piece | ApiError | None] = asyncio.Queue()

    def post(self, call: Callable[..., None], *args: object) -> None:
        """Have the event loop call something; after its end there is nobody to tell."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def put(self, item: Piece | ApiError | None) -> None:
        """From any thread: a token, what went wrong, or None, the end."""
        self.post(self._items.put_nowait, item)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Tokens as they come. Raises ApiError when something goes wrong, or the time is up."""
        while True:
            try:
                async with asyncio.timeout_at(self.deadline):
                    item = await self._items.get()
            except TimeoutError:
                self.outcome = Outcome.TIMEOUT
                # No client should try again by itself what takes too long.
                headers = {"x-should-retry": "false"}
                message = f"the request took longer than {self._timeout:g} s"
                raise ApiError(504, message, code="timeout", headers=headers) from None
            if isinstance(item, ApiError):
                self.outcome = Outcome.SHUTDOWN if item.status == 503 else Outcome.FAILED
                raise item
            if item is None:
                self.outcome = Outcome.FINISHED
                return
            yield item
            # Neither a token that is there nor a client that reads makes the loop wait: others must have their turn.
            await asyncio.sleep(0)


class Scheduler:
    """A bounded line of jobs before one or more workers."""

    def __init__(self, generator: Generator, settings: Settings) -> None:
        self.draining = False
        self.metrics = Metrics(
            running=lambda: self._running, waiting=lambda: len(self._placed) - self._running
        )
        self._generator, self._settings = generator, settings
        self._open: set[Job] = set()
        self._placed: set[Job] = set()
        self._mean = 0.0
        self._line: deque[Job] = deque()
        self._running = 0
        self._closed = False
        self._changed = threading.Condition()
        # daemon: a step that never ends must not keep the process alive.
        self._workers = [
            threading.Thread(target=self._serve, name=f"worker-{i}", daemon=True)
            for i in range(settings.workers)
        ]

    @property
    def alive(self) -> bool:
        """Whether all workers are."""
        return all(worker.is_alive() for worker in self._workers)

    @property
    def busy(self) -> bool:
        """Whether a worker is in the midst of a token."""
        return self._running > 0

    def start(self) -> None:
        """Begin to work."""
        for worker in self._workers:
            worker.start()

    def admit(self) -> Job:
        """A place for a request. Raises ApiError 503 when the server is about to end, 429 when no place is left."""
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        if len(self._placed) >= self._settings.workers + self._settings.queue:
            seconds = max(1, math.ceil(self._mean / self._settings.workers))
            message = f"{len(self._placed)} requests are running or waiting, and no more are taken"
            raise ApiError(429, message, code="queue_full", headers={"retry-after": str(seconds)})
        job = Job(asyncio.get_running_loop(), self._settings.timeout)
        self._placed.add(job)
        self._open.add(job)
        return job

    def enqueue(self, job: Job, work: Work) -> None:
        """Let a job wait for a worker."""
        job.work = work
        self.metrics.prompt_tokens.inc(sum(map(len, work.prompts)))
        with self._changed:
            self._line.append(job)
            self._changed.notify()

    def end(self, job: Job) -> None:
        """A job is answered, or nobody waits for it: what is left of it is not done."""
        if job not in self._open:
            return
        job.over = True
        self._open.discard(job)
        with self._changed:
            waiting = job in self._line
            if waiting:
                self._line.remove(job)
        if waiting or job.work is None:
            self._placed.discard(job)
        if job.work is not None:
            self.metrics.generations.labels(job.outcome).inc()

    async def drain(self, hurry: asyncio.Event) -> None:
        """Take nothing new, and return when all is answered; after the grace, or in a hurry, what is not by an error."""
        self.draining = True
        _LOG.info("shutting down: %d requests to answer", len(self._open))
        await self._until_answered(self._settings.grace, hurry)
        for job in self._open:
            job.put(ApiError(503, "the server is shutting down", code="shutting_down"))
        await self._until_answered(_DELIVERY if self._open else 0)

    def stop(self, seconds: float) -> None:
        """End the workers, and wait for the token that each is at."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        end = time.monotonic() + seconds
        for worker in self._workers:
            worker.join(max(0, end - time.monotonic()))

    async def _until_answered(self, seconds: float, hurry: asyncio.Event | None = None) -> None:
        end = time.monotonic() + seconds
        while self._open and time.monotonic() < end and not (hurry and hurry.is_set()):
            await asyncio.sleep(0.02)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._closed)
                if self._closed:
                    return
                job = self._line.popleft()
                self._running += 1
            began = time.monotonic()
            self.metrics.queued.observe(began - job.accepted)
            error: ApiError | None = None
            try:
                self._generate(job)
            except PatchCompileError as failure:
                error = ApiError(500, str(failure), code="generation_failed")
            except Exception as failure:
                _LOG.exception("generation failed")
                error = ApiError(500, f"{type(failure).__name__}: {failure}", code="generation_failed")
            seconds = time.monotonic() - began
            self.metrics.seconds.observe(seconds)
            with self._changed:
                self._running -= 1
            job.post(self._done, job, seconds)  # before its end: who has the answer finds the place free
            job.put(error)

    def _generate(self, job: Job) -> None:
        work = job.work
        assert work is not None
        stream = self._generator.stream(
            work.prompts, work.sampling, new_tokens=work.new_tokens, stop=work.stop
        )
        with closing(cast("Pieces[Piece, None, None]", stream)) as pieces:
            for count, piece in enumerate(pieces, 1):
                if count == 1:
                    self.metrics.first_token.observe(time.monotonic() - job.accepted)
                self.metrics.generated_tokens.inc()
                if job.over or self._closed:
                    return
                job.put(piece)

    def _done(self, job: Job, seconds: float) -> None:
        self._placed.discard(job)
        self._mean = _RECENT * seconds + (1 - _RECENT) * self._mean if self._mean else seconds
