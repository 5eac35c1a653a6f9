"""Queues requests for worker threads, and passes their tokens back to the event loop.

Only the event loop uses `_placed` (jobs that occupy a place) and `_open` (jobs without an answer). The queue `_line` is
shared with the workers, under `_changed`. A worker checks `Job.over` after each token. No client can block a worker.
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

from patch_compile import Generator, PatchCompileError, Piece, Sampling
from samples.serve_http.api_error import ApiError
from samples.serve_http.metrics import Metrics, Outcome
from samples.serve_http.settings import Settings

__all__ = ["Job", "Scheduler", "Work"]

_LOG = logging.getLogger(__name__)
_RECENT = 0.2  # weight of the latest request in the mean time, from which Retry-After is computed
_DELIVERY = 5.0  # seconds to deliver the last answers after the grace period
_SHUTTING_DOWN = "The server is shutting down."


@dataclass(frozen=True)
class Work:
    """Arguments of `Generator.stream`. The prompts are within the decoder's limits."""

    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    new_tokens: int
    stop: Sequence[str]


class Job:
    """A request, from its acceptance to its answer. Only `over`, `post` and `put` may be used outside the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.work: Work | None = None
        self.over = False  # True once no more tokens are needed
        self.outcome = Outcome.DISCONNECTED  # overwritten when the job is answered
        self.accepted = time.monotonic()
        self.deadline = loop.time() + timeout
        self._timeout = timeout
        self._loop = loop
        self._items: asyncio.Queue[Piece | ApiError | None] = asyncio.Queue()

    def post(self, call: Callable[..., None], *args: object) -> None:
        """Call a function in the event loop. Does nothing if the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def put(self, item: Piece | ApiError | None) -> None:
        """Pass on a token, an error, or None for the end."""
        self.post(self._items.put_nowait, item)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yields tokens as they arrive. Raises ApiError for an error of the worker and after the deadline."""
        while True:
            try:
                async with asyncio.timeout_at(self.deadline):
                    item = await self._items.get()
            except TimeoutError:
                self.outcome = Outcome.TIMEOUT
                # Tells OpenAI's clients not to retry automatically what takes too long.
                headers = {"x-should-retry": "false"}
                message = f"The request took longer than {self._timeout:g} s."
                raise ApiError(504, message, code="timeout", headers=headers) from None
            if isinstance(item, ApiError):
                self.outcome = Outcome.SHUTDOWN if item.status == 503 else Outcome.FAILED
                raise item
            if item is None:
                self.outcome = Outcome.FINISHED
                return
            yield item
            # If tokens are ready and the client reads fast, no await blocks. This gives other tasks their turn.
            await asyncio.sleep(0)


class Scheduler:
    """A bounded queue of jobs for one or more workers."""

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
        # daemon: a step that hangs must not keep the process alive.
        self._workers = [
            threading.Thread(target=self._serve, name=f"worker-{i}", daemon=True)
            for i in range(settings.workers)
        ]

    @property
    def alive(self) -> bool:
        """True if all workers are alive."""
        return all(worker.is_alive() for worker in self._workers)

    @property
    def busy(self) -> bool:
        """True if a worker is processing a job."""
        return self._running > 0

    def start(self) -> None:
        """Start the workers."""
        for worker in self._workers:
            worker.start()

    def admit(self) -> Job:
        """Reserve a place for a request. Raises ApiError 503 if the server is shutting down, and 429 if it is full."""
        if self.draining:
            raise ApiError(503, _SHUTTING_DOWN, code="shutting_down")
        if len(self._placed) >= self._settings.workers + self._settings.queue:
            seconds = max(1, math.ceil(self._mean / self._settings.workers))
            message = f"The queue is full: {len(self._placed)} requests are running or waiting."
            raise ApiError(429, message, code="queue_full", headers={"retry-after": str(seconds)})
        job = Job(asyncio.get_running_loop(), self._settings.timeout)
        self._placed.add(job)
        self._open.add(job)
        return job

    def enqueue(self, job: Job, work: Work) -> None:
        """Put a job into the queue."""
        job.work = work
        self.metrics.prompt_tokens.inc(sum(map(len, work.prompts)))
        with self._changed:
            self._line.append(job)
            self._changed.notify()

    def end(self, job: Job) -> None:
        """End a job that is answered or whose client has left, and drop its remaining work."""
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
        """Accept no new requests, and return when all are answered.

        After the grace period, or once `hurry` is set, the remaining requests are answered with an error.
        """
        self.draining = True
        _LOG.info("shutting down: %d requests to answer", len(self._open))
        await self._until_answered(self._settings.grace, hurry)
        for job in self._open:
            job.put(ApiError(503, _SHUTTING_DOWN, code="shutting_down"))
        await self._until_answered(_DELIVERY if self._open else 0)

    def stop(self, seconds: float) -> None:
        """Stop the workers after their current tokens, and wait for them for at most `seconds` in all."""
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
            # Before the job's end, so that a client that has its answer finds the place free.
            job.post(self._done, job, seconds)
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
