"""Continues the requests of all clients in a shared batch.

If the decoder allows it, requests join and leave the batch while it runs; else requests that begin together share it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence

from patch_compile import Continuation, Generator, PatchCompileError, Piece
from samples.serve_http.protocol import ApiError


class Job:
    """A request that waits or is being continued. over: True once its client needs no more tokens."""

    def __init__(self, request: Continuation) -> None:
        self.request, self.over = request, False
        self._items: asyncio.Queue[Piece | ApiError | None] = asyncio.Queue()

    def give(self, pieces: Sequence[Piece]) -> None:
        """Pass on tokens."""
        for piece in pieces:
            self._items.put_nowait(piece)

    def end(self, failure: Exception | None = None) -> None:
        """Tell the client that these were all tokens, or that an error occurred."""
        said = str(failure) if isinstance(failure, PatchCompileError) else repr(failure)
        self._items.put_nowait(ApiError(500, said, code="generation_failed") if failure else None)

    async def pieces(self, deadline: float) -> AsyncIterator[Piece]:
        """Yield tokens as they arrive. Raises ApiError for a failure, after the deadline, and when the server ends."""
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    item = await self._items.get()
            except TimeoutError:
                raise ApiError(504, "The request took too long.", code="timeout") from None
            except asyncio.CancelledError:  # uvicorn's, after the grace period
                raise ApiError(503, "The server is shutting down.", code="shutting_down") from None
            if item is None:
                return
            if isinstance(item, ApiError):
                raise item
            yield item


class Batcher:
    """The batch and its queue. rows: most sequences at once; queue: further requests; max_prompt: tokens read at once.

    Only the event loop uses the queue; only `_turn` runs in a thread, and nothing else uses the batch meanwhile.
    """

    def __init__(self, generator: Generator, rows: int, queue: int, max_prompt: int) -> None:
        self.rows, self._queue, self._max_prompt = rows, queue, max_prompt
        self._batch = generator.shared_batch(rows)
        self._line: deque[Job] = deque()
        self._inside: dict[Continuation, Job] = {}
        self._arrived = asyncio.Event()
        self._tokens = 0

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of requests that run and that wait, and of the tokens since the start."""
        return {"running": len(self._inside), "waiting": len(self._line), "generated_tokens": self._tokens}

    def check_room(self) -> None:
        """Raise ApiError 429 if no more requests may wait."""
        if len(self._inside) + len(self._line) >= self.rows + self._queue:
            raise ApiError(429, "The queue is full.", code="queue_full", headers={"retry-after": "1"})

    def submit(self, request: Continuation) -> Job:
        """Put a request into the queue. Raises ApiError 429 if it is full."""
        self.check_room()
        self._line.append(job := Job(request))
        self._arrived.set()
        return job

    def leave(self, job: Job) -> None:
        """End a job that is answered or whose client has left."""
        job.over = True
        if job in self._line:
            self._line.remove(job)

    async def run(self) -> None:
        """Continue requests until this is cancelled."""
        while True:
            for request in [request for request, job in self._inside.items() if job.over]:
                self._batch.leave(request)
                del self._inside[request]
            if self._batch.empty:
                self._batch.close()
                await self._arrived.wait()
            new = self._next()
            try:
                found = await asyncio.to_thread(self._turn, new)
            except Exception as failure:
                self._fail(failure)
                continue
            for request, result in found:
                job = self._inside[request]
                if not isinstance(result, PatchCompileError):
                    self._tokens += len(result)
                    job.give(result)
                    if not request.ended:
                        continue
                del self._inside[request]  # first, so that a client that has its answer finds the place free
                job.end(result if isinstance(result, PatchCompileError) else None)

    def _next(self) -> list[Job]:
        """Move the first jobs of the queue that the batch takes now inside. Returns them."""
        new: list[Job] = []
        while self._line and self._go_together([*new, self._line[0]]):
            new.append(self._line.popleft())
        if not self._line:
            self._arrived.clear()
        self._inside |= {job.request: job for job in new}
        return new

    def _go_together(self, jobs: Sequence[Job]) -> bool:
        """True if these jobs can join the batch now. The memory for reading prompts grows with their padded size."""
        prompts = [prompt for job in jobs for prompt in job.request.prompts]
        tokens = len(prompts) * max(map(len, prompts))
        return tokens <= self._max_prompt and self._batch.takes([job.request for job in jobs])

    def _turn(self, new: Sequence[Job]) -> list[tuple[Continuation, list[Piece] | PatchCompileError]]:
        """Returns the next token of each row, the first token for the rows of new jobs."""
        self._batch.step()
        if new:
            self._batch.join([job.request for job in new])
        return [] if self._batch.empty else list(self._batch.choose())

    def _fail(self, failure: Exception) -> None:
        if not isinstance(failure, PatchCompileError):
            logging.getLogger(__name__).exception("generation failed")
        self._batch.close()
        for job in self._inside.values():
            job.end(failure)
        self._inside.clear()
