"""The protocol of one connection: uvicorn's HTTP/1.1, with limits on clients that are slow, leave, or are too many."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from samples.serve_http.api_error import ApiError

__all__ = ["Connection"]

_FIRST_QUESTION = 0.1  # seconds; a client that has left is found out at the second question


class Connection(H11Protocol):
    """A connection that a client can't hold without using it.

    patience: seconds for a request to arrive whole, and for a client to read what was sent; most: open connections.
    """

    def __init__(self, patience: float, most: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patience, self._most = patience, most
        self._request: asyncio.TimerHandle | None = None  # runs while a request arrives
        self._reading: asyncio.TimerHandle | None = None  # runs while the client does not read
        self._question: asyncio.TimerHandle | None = None  # runs when the client has ended its side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, or refuse the connection."""
        super().connection_made(transport)
        # asyncio says at once when a client's buffers are full, and not only after 64 KiB more.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > self._most:
            message = f"{self._most} connections are open, and this server takes no more."
            self._refuse(ApiError(503, message, code="too_many_connections", headers={"retry-after": "1"}))
        else:
            self._await_request()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._await_request()

    def eof_received(self) -> bool:
        """The client has ended its side. Returns True, to keep the connection, if it may still wait for an answer."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        if self.conn.their_state not in (h11.DONE, h11.MUST_CLOSE):
            return False
        if self._question is None:
            self._ask(_FIRST_QUESTION)
        return True

    def pause_writing(self) -> None:
        """The client's buffers are full."""
        super().pause_writing()
        self._reading = self.loop.call_later(self._patience, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read all that was sent."""
        super().resume_writing()
        self._reading = _cancelled(self._reading)

    def on_response_complete(self) -> None:
        """Go on with the next request. A client that has ended its side can't send one."""
        super().on_response_complete()
        if self._question is not None and self.cycle.response_complete:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all waiting."""
        for timer in (self._request, self._reading, self._question):
            _cancelled(timer)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in OpenAI's format."""
        self._refuse(ApiError(400, msg))

    def _await_request(self) -> None:
        """Start the time of a request that has not arrived whole, and end that of one that has."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._request = _cancelled(self._request)
        elif self._request is None:
            self._request = self.loop.call_later(self._patience, self._too_late)

    def _too_late(self) -> None:
        self._refuse(ApiError(408, f"The request did not arrive whole within {self._patience:g} s."))

    def _ask(self, seconds: float) -> None:
        """Find out if a client that has ended its side still reads.

        A client that only ended its side looks like one that has left until something is sent to it. Before an answer
        that is a 100 (Continue), which clients skip (RFC 9110, section 15.2).
        """
        waits = not self.cycle.response_started and self.conn.their_http_version != b"1.0"
        if waits and not self.transport.is_closing():
            self.transport.write(self.conn.send(h11.InformationalResponse(status_code=100, headers=[])))
        self._question = self.loop.call_later(seconds, self._ask, min(2 * seconds, self._patience))

    def _refuse(self, error: ApiError) -> None:
        """Answer with an error, if no answer has begun, and close the connection."""
        if self.transport.is_closing():
            return
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        response = error.response()
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        head = h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status])
        for event in (head, h11.Data(data=response.body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
