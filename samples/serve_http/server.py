"""`serve.sh`: loads a build, serves it until SIGTERM, and prints the URL once it listens."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from patch_compile import PatchCompileError, Runner, open_generator
from samples.serve_http.app import Service

_PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(1)
_SECONDS = click.FloatRange(0, min_open=True)


class _Transport:
    """A transport that closes only its own direction while the client still sends, so that the client can read the answer.

    A connection that is closed with unread bytes is reset, and the last answer may be lost with it. asyncio closes the
    connection when the client is done.

    sends: tells whether the client has not sent the whole of its request, or what it sends is none.
    """

    def __init__(self, whole: asyncio.Transport, sends: Callable[[], bool]) -> None:
        self._whole, self._sends = whole, sends
        self.half_closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def is_closing(self) -> bool:
        return self.half_closed or self._whole.is_closing()

    def close(self) -> None:
        if self.half_closed or self._whole.is_closing() or not self._sends():
            self._whole.close()
            return
        self.half_closed = True
        self._whole.write_eof()
        self._whole.resume_reading()


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1, but a client that lets the server wait for a request, or does not read, loses the connection.

    patience: seconds that the server waits.
    """

    transport: _Transport  # type: ignore[assignment]

    def __init__(self, patience: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patience = patience
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        kept = _Transport(transport, lambda: self.conn.their_state in (h11.SEND_BODY, h11.ERROR))
        super().connection_made(kept)  # type: ignore[arg-type]
        self._await_request()

    def data_received(self, data: bytes) -> None:
        """Drop what comes after the last answer."""
        if not self.transport.half_closed:
            super().data_received(data)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._await_request()

    def pause_writing(self) -> None:
        """The client's buffers are full."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._patience, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._unread:
            self._unread.cancel()

    def _await_request(self) -> None:
        last = self.cycle
        if last is None or last.response_complete:
            self.loop.call_later(self._patience, self._abort_after, last)

    def _abort_after(self, last: object) -> None:
        if self.cycle is last:
            self.transport.abort()


class Server(uvicorn.Server):
    """uvicorn, but requests that it cancels after the grace period write their answers before the event loop ends."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and wait for the last answers; a second Ctrl-C doesn't wait."""
        await super().shutdown(sockets)
        while self.server_state.tasks and not self.force_exit:
            await asyncio.sleep(0.01)


@click.command(context_settings={"show_default": True})
@click.argument("out", type=_PATH)
@click.option("--host", default="127.0.0.1", help="Address to listen on. There is no authentication.")
@click.option("--port", default=8000, help="Port to listen on; 0 takes a free port.")
@click.option("--model", help="Name of the model in the API.  [default: name of OUT's folder]")
@click.option("--queue", default=64, type=click.IntRange(0), help="Requests that may wait; others get 429.")
@click.option("--timeout", default=300.0, type=_SECONDS, help="Seconds for one request, with its wait.")
@click.option("--grace", default=30, type=click.IntRange(0), help="Seconds for open requests after SIGTERM.")
@click.option(
    "--client-timeout", default=30.0, type=_SECONDS, help="Seconds for a client to send or to read."
)
@click.option("--connections", default=512, type=_COUNT, help="Most open connections; others get 503.")
@click.option("--max-body", default=1 << 20, type=_COUNT, help="Largest request in bytes.")
@click.option("--max-batch", type=_COUNT, help="Most sequences at once.  [default: the engine's, else 16]")
@click.option("--max-prompt", default=4096, type=_COUNT, help="Most tokens read at once, with padding.")
@click.option("--max-new-tokens", default=4096, type=_COUNT, help="Most of a sequence; a chat's default.")
@click.option(
    "--runner", type=click.Choice([r.value for r in Runner]), help="Run the engine or the ONNX file."
)
@click.option("--plugin", type=_PATH, help="Plugin library.  [default: the library compiled here]")
@click.option("--trust", is_flag=True, help="Run the compiled plugin that came with OUT.")
@click.option("--tokenizer", type=_PATH, help="Folder of the tokenizer.  [default: OUT/model]")
def main(out: Path, host: str, port: int, model: str | None, **options: Any) -> None:
    """Serve the build in OUT with OpenAI's API."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    places = {name: options.pop(name) for name in ("runner", "plugin", "trust", "tokenizer")}
    grace, connections = options.pop("grace"), options.pop("connections")
    try:
        # Bind before loading the model, so that a port in use fails at once. Listen when all is ready.
        listener = _bind(host, port)
        generator = open_generator(out, **places)
        for _ in generator.stream([[0]], new_tokens=2, ignore_end=True):
            pass  # the first tokens load kernels, for which no client should wait
    except PatchCompileError as error:
        raise click.ClickException(str(error)) from None
    service = Service(generator, model or out.resolve().name, **options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn handles it, and raises it again at its end
    listener.listen()
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    click.echo(f"{url}/v1 serves {service.model}, run by {generator.decoder.name}")
    make_server(service, grace, connections).run([listener])


def make_server(service: Service, grace: int, connections: int) -> uvicorn.Server:
    """Returns uvicorn with its limits. grace: seconds for open requests at the end."""
    config = uvicorn.Config(
        service.app(),
        http=partial(Connection, service.client_timeout),  # type: ignore[arg-type]
        ws="none",
        backlog=64,  # without free descriptors, asyncio tries to accept so many connections every second
        log_config=None,
        limit_concurrency=connections + 1,
        timeout_graceful_shutdown=grace,
    )
    return Server(config)


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise PatchCompileError(
            f"The server can't listen on {host} port {port}", str(error), "Give another --port."
        ) from None
    return listener


if __name__ == "__main__":
    main()
