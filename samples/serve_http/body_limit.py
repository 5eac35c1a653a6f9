"""Limits the size of request bodies."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samples.serve_http.api_error import ApiError

__all__ = ["BodyLimit"]


class BodyLimit:
    """Middleware that reads the whole body before the application runs.

    Answers 413 for a body of more than `limit` bytes, whether or not it has a Content-Length. `Connection` limits the time.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body and call the application, as ASGI defines it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(Headers(scope=scope), receive)
        except ApiError as error:
            await error.response()(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """Returns the whole body, None if the client has left."""
        announced = headers.get("content-length", "0")
        self._check(int(announced) if announced.isdecimal() else 0, "")
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            self._check(len(body), " or more")
            if not message.get("more_body", False):
                return bytes(body)

    def _check(self, size: int, more: str) -> None:
        if size > self._limit:
            message = f"A body of {size}{more} bytes is larger than the limit of {self._limit}."
            # The connection stays open, and uvicorn drops the rest of the body. A client that sends all of the body
            # before it reads the answer would otherwise see a reset.
            raise ApiError(413, message, code="body_too_large")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that first returns `body`, which has been read, and then calls the real one."""
    first: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replayed() -> Message:
        nonlocal first
        message, first = first, None
        return await receive() if message is None else message

    return replayed
