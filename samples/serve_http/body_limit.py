"""Bodies are read up to a size and for a time, before anything looks at them."""

from __future__ import annotations

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samples.serve_http.api_error import ApiError

__all__ = ["BodyLimit"]


class BodyLimit:
    """Middleware: 413 beyond so many bytes, announced or not, and 408 when they don't come within so many seconds."""

    def __init__(self, app: ASGIApp, limit: int, seconds: float) -> None:
        self._app, self._limit, self._seconds = app, limit, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            with anyio.fail_after(self._seconds):
                body = await self._read(Headers(scope=scope), receive)
        except TimeoutError:
            refusal = ApiError(408, f"the body did not come within {self._seconds:g} s")
            await refusal.response()(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None when the client left."""
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
            message = f"a body of {size}{more} bytes is larger than the {self._limit} that the server takes"
            # The connection stays: uvicorn drops what still comes of the body, and a client that only reads the answer
            # after its last byte would otherwise find a reset.
            raise ApiError(413, message, code="body_too_large")


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that begins with a body that has been read."""
    first: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replayed() -> Message:
        nonlocal first
        message, first = first, None
        return await receive() if message is None else message

    return replayed
