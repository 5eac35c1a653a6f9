"""Metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CountResponses", "Metrics", "Outcome"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, float("inf"))
_GONE = "499"  # the client left before the answer; nginx uses the same number


class Outcome(StrEnum):
    """End of a generation."""

    FINISHED = "finished"
    DISCONNECTED = "disconnected"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    FAILED = "failed"


class Metrics:
    """Series of one server, in a separate registry."""

    def __init__(self, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        gauge, counter, histogram = self._gauge, self._counter, self._histogram
        gauge("running", "Requests that a worker is processing.").set_function(running)
        gauge("waiting", "Accepted requests that wait for a worker.").set_function(waiting)
        self.responses = counter("responses", "Responses by endpoint and HTTP status.", "path", "status")
        self.generations = counter("generations", "Accepted requests by outcome.", "outcome")
        for outcome in Outcome:  # create each series now, so that an alert can see its first increase
            self.generations.labels(outcome)
        self.prompt_tokens = counter("prompt_tokens", "Tokens of accepted prompts.")
        self.generated_tokens = counter("generated_tokens", "Generated tokens.")
        self.queued = histogram("queue_seconds", "Time from acceptance to the start of the generation.")
        self.first_token = histogram("first_token_seconds", "Time from acceptance to the first token.")
        self.seconds = histogram("generation_seconds", "Time that a worker spends on a request.")

    def _gauge(self, name: str, says: str) -> Gauge:
        return Gauge(f"patch_compile_{name}", says, registry=self.registry)

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"patch_compile_{name}", says, labels, registry=self.registry)

    def _histogram(self, name: str, says: str) -> Histogram:
        return Histogram(f"patch_compile_{name}", says, buckets=_SECONDS, registry=self.registry)


class CountResponses:
    """Middleware that counts responses. All unknown paths share one series, so that clients can't create more."""

    def __init__(self, app: ASGIApp, counter: Counter, paths: frozenset[str]) -> None:
        self._app, self._counter, self._paths = app, counter, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application and count its response, as ASGI defines it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = _GONE

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            status = "500"  # Starlette's outer middleware sends this answer
            raise
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._counter.labels(path, status).inc()
