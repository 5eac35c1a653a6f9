"""Queues requests for worker threads, and passes their tokens back to the event loop.

A worker continues its requests as one batch. If the decoder allows it, requests join and leave the batch while it runs.

Only the event loop uses `_placed` (jobs that occupy a place) and `_open` (jobs without an answer). The queue `_line` is
shared with the workers, under `_changed`. A worker checks `Job.over` after each token. No client can block a worker.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from patch_compile import Continuation, Generator, PatchCompileError, Piece, SharedBatch
from samples.serve_http.api_error import ApiError
from samples.serve_http.metrics import Metrics, Outcome
from samples.serve_http.settings import Settings

__all__ = ["Job", "Scheduler"]

_LOG = logging.getLogger(__name__)
_BATCH = 16
_RECENT = 0.2  # weight of the latest request in the mean time, from which Retry-After is computed
_DELIVERY = 5.0  # seconds to deliver the last answers after the grace period
_SHUTTING_DOWN = "The server is shutting down."


class Job:
    """A request, from its acceptance to its answer. Only `over`, `post` and `put` may be used outside the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.request: Continuation | None = None  # set when the job is put into the queue
        self.began = 0.0
        self.started = False  # True once a token is generated
        self.over = False  # True once no more tokens are needed
        self.outcome = Outcome.DISCONNECTED  # overwritten when the job is answered
        self.accepted = time.monotonic()
        self.deadline = loop.time() + timeout
        self._timeout = timeout
        self._loop = loop
        self._items: asyncio.Queue[Piece | ApiError | None] = asyncio.Queue()

    @property
    def given(self) -> Continuation:
        """The request of a job that is in the queue, or has left it."""
        assert self.request is not None
        return self.request

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
    """A bounded queue of jobs for one or more workers. rows: most sequences of a request, and of a batch."""

    def __init__(self, generator: Generator, settings: Settings) -> None:
        self.draining = False
        taken = generator.decoder.limits.batch
        self.rows = min(settings.max_batch or taken or _BATCH, taken or sys.maxsize)
        # Each request has at least one row.
        self._at_once = settings.workers * self.rows
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
        if len(self._placed) >= self._at_once + self._settings.queue:
            seconds = max(1, math.ceil(self._mean / self._at_once))
            message = f"The queue is full: {len(self._placed)} requests are running or waiting."
            raise ApiError(429, message, code="queue_full", headers={"retry-after": str(seconds)})
        job = Job(asyncio.get_running_loop(), self._settings.timeout)
        self._placed.add(job)
        self._open.add(job)
        return job

    def enqueue(self, job: Job, request: Continuation) -> None:
        """Put a job into the queue."""
        job.request = request
        self.metrics.prompt_tokens.inc(sum(map(len, request.prompts)))
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
        if waiting or job.request is None:
            self._placed.discard(job)
        if job.request is not None:
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

    def _next(self, batch: SharedBatch) -> list[Job] | None:
        """Returns the first jobs of the queue that the batch takes now, None at the end. Waits if the batch is empty."""
        with self._changed:
            if batch.empty:
                self._changed.wait_for(lambda: self._line or self._closed)
            if self._closed:
                return None
            taken: list[Job] = []
            while self._line and self._go_together(batch, [*taken, self._line[0]]):
                taken.append(self._line.popleft())
            self._running += len(taken)
        for job in taken:
            job.began = time.monotonic()
            self.metrics.queued.observe(job.began - job.accepted)
        return taken

    def _go_together(self, batch: SharedBatch, jobs: list[Job]) -> bool:
        """True if these jobs can join the batch now. The memory for reading prompts grows with their padded size."""
        prompts = [prompt for job in jobs for prompt in job.given.prompts]
        tokens = len(prompts) * max(map(len, prompts))
        return tokens <= self._settings.max_prompt and batch.takes([job.given for job in jobs])

    def _serve(self) -> None:
        batch = self._generator.shared_batch(self.rows)
        inside: dict[Continuation, Job] = {}
        while (new := self._next(batch)) is not None:
            inside |= {job.given: job for job in new}
            try:
                self._continue(batch, inside, new)
            except Exception as failure:
                if not isinstance(failure, PatchCompileError):
                    _LOG.exception("generation failed")
                batch.close()
                for given in [*inside]:
                    self._finish(inside.pop(given), _failed(failure))
        batch.close()
        for job in inside.values():
            self._finish(job)

    def _continue(self, batch: SharedBatch, inside: dict[Continuation, Job], new: Sequence[Job]) -> None:
        """Generate a token for each row of the batch, after the prompts of new jobs are read."""
        if new:
            batch.join([job.given for job in new])
        for given, result in batch.choose():
            job = inside[given]
            if isinstance(result, PatchCompileError):
                self._finish(inside.pop(given), _failed(result))
                continue
            for piece in result:
                self._pass_on(job, piece)
            if job.over and not given.ended:
                batch.leave(given)
            if job.over or given.ended:
                self._finish(inside.pop(given))
        batch.step()

    def _pass_on(self, job: Job, piece: Piece) -> None:
        if not job.started:
            job.started = True
            self.metrics.first_token.observe(time.monotonic() - job.accepted)
        self.metrics.generated_tokens.inc()
        if not job.over:
            job.put(piece)

    def _finish(self, job: Job, error: ApiError | None = None) -> None:
        """End a job whose generation has ended."""
        seconds = time.monotonic() - job.began
        self.metrics.seconds.observe(seconds)
        with self._changed:
            self._running -= 1
        # Before the job's end, so that a client that has its answer finds the place free.
        job.post(self._done, job, seconds)
        job.put(error)

    def _done(self, job: Job, seconds: float) -> None:
        self._placed.discard(job)
        self._mean = _RECENT * seconds + (1 - _RECENT) * self._mean if self._mean else seconds


def _failed(failure: Exception) -> ApiError:
    said = str(failure) if isinstance(failure, PatchCompileError) else f"{type(failure).__name__}: {failure}"
    return ApiError(500, said, code="generation_failed")
