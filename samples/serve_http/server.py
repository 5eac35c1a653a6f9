"""`serve.sh`: loads a build, serves it, prints the URL, and shuts down cleanly on SIGTERM."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from patch_compile import Generator, PatchCompileError, Runner, open_generator
from samples.serve_http.app import make_app
from samples.serve_http.connection import Connection
from samples.serve_http.scheduler import Scheduler
from samples.serve_http.settings import Settings

__all__ = ["Server", "main", "make_config"]

_LOG = logging.getLogger(__name__)
_PATH = click.Path(path_type=Path)
_CLOSING = 5  # seconds for clients to read answers that are already written
_BACKLOG = 1024  # connections that the system accepts before the server does
_ACCEPTS = 16  # connections that the server accepts at once
_OWN_FILES = 64  # descriptors that are no connections
_QUIET = 10.0  # seconds without a second line about missing descriptors


class Server(uvicorn.Server):
    """A Uvicorn server that keeps answering while it drains, so that new requests get a 503.

    Uvicorn itself would close its socket at once, and would raise the signal again at the end, with exit code 143.
    says: line to print on stdout when the server listens.
    """

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler, says: str = "") -> None:
        super().__init__(config)
        self._scheduler, self._says = scheduler, says
        self._hurry = asyncio.Event()
        self._quiet_until = 0.0
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        for listener in sockets or ():
            # asyncio takes the same number for what the system keeps waiting and for what it accepts in one go; while
            # no descriptor is free, it reports each of the latter every second.
            listener.listen(_BACKLOG)

    async def main_loop(self) -> None:
        """Run from the start of listening to the end of draining."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._report)
        if self._says:
            click.echo(self._says)
        await super().main_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Handle SIGTERM or SIGINT: the first signal starts draining, the second ends the grace period."""
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """Start draining, or end the grace period if draining has started. Runs in the event loop."""
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        else:
            self._hurry.set()

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log a failure of the event loop, and one of a kind that repeats only from time to time."""
        failure = context.get("exception")
        if not isinstance(failure, OSError) or failure.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() > self._quiet_until:
            self._quiet_until = loop.time() + _QUIET
            _LOG.error("no connection can be accepted: %s", failure)

    async def _drain(self) -> None:
        await self._scheduler.drain(self._hurry)
        self.should_exit = True


@click.command(context_settings={"show_default": True})
@click.argument("out", type=_PATH)
@click.option("--host", default="127.0.0.1", help="Address to listen on. There is no authentication.")
@click.option("--port", default=8000, help="Port to listen on; 0 takes a free one.")
@click.option("--model", help="Name of the model in the API.  [default: name of OUT's folder]")
@click.option("--workers", default=1, help="Batches that run at the same time; an engine runs one.")
@click.option("--queue", default=64, help="Requests that may wait; further ones are answered with 429.")
@click.option("--timeout", default=300.0, help="Seconds for one request, including its wait.")
@click.option("--grace", default=30.0, help="Seconds for accepted requests after SIGTERM.")
@click.option(
    "--client-timeout", default=30.0, help="Seconds for a request to arrive, or to read what was sent."
)
@click.option("--connections", default=512, help="Most open connections; further ones are answered with 503.")
@click.option("--max-body", default=1 << 20, help="Largest request in bytes.")
@click.option(
    "--max-batch",
    type=int,
    help="Most sequences of a batch, which requests share, and so of a request (prompts × n).  [default: the engine's, "
    "else 16]",
)
@click.option("--max-prompt", default=4096, help="Most tokens read at once (longest prompt × sequences).")
@click.option("--max-new-tokens", default=4096, help="Most new tokens of a sequence; a chat's default.")
@click.option(
    "--runner", type=click.Choice([r.value for r in Runner]), help="Run the engine or the ONNX file."
)
@click.option("--plugin", type=_PATH, help="Plugin library.  [default: the one compiled here]")
@click.option("--trust", is_flag=True, help="Run the compiled plugin that came with OUT.")
@click.option("--tokenizer", type=_PATH, help="Folder of the tokenizer.  [default: OUT/model]")
def main(out: Path, host: str, port: int, model: str | None, **options: Any) -> None:
    """Serve the build in OUT with OpenAI's API."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    places = {name: options.pop(name) for name in ("runner", "plugin", "trust", "tokenizer")}
    try:
        settings = Settings(model=model or out.resolve().name, **options)
    except ValidationError as error:
        first = error.errors()[0]
        raise click.UsageError(f"--{first['loc'][0]}: {first['msg']}".replace("_", "-")) from None
    try:
        # Bind before loading the model, so that a port in use fails at once. Listen when all is ready.
        listener = _bind(host, port)
        generator = open_generator(out, **places)
        _check_workers(settings, generator)
        _warm_up(generator)
    except PatchCompileError as error:
        raise click.ClickException(str(error)) from None
    _serve(generator, settings, listener)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise PatchCompileError(
            f"The server can't listen on {host} port {port}", str(error), "Give another --port."
        ) from None
    return listener


def _check_workers(settings: Settings, generator: Generator) -> None:
    if settings.workers > 1 and not generator.decoder.concurrent:
        raise PatchCompileError(
            f"--workers {settings.workers} is not possible",
            f"{generator.decoder.name} continues one batch at a time.",
            "Leave --workers at 1, or start another server.",
        )


def make_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Returns uvicorn's settings: `Connection` as its protocol, and no more connections than there are descriptors."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = settings.connections
    if descriptors != resource.RLIM_INFINITY:
        most = max(1, min(most, descriptors - _OWN_FILES))
    return uvicorn.Config(
        app,
        http=partial(Connection, settings.client_timeout, most),
        ws="none",
        backlog=_ACCEPTS,
        log_config=None,
        timeout_graceful_shutdown=_CLOSING,
    )


def _serve(generator: Generator, settings: Settings, listener: socket.socket) -> None:
    scheduler = Scheduler(generator, settings)
    app = make_app(generator, settings, scheduler)
    config = make_config(app, settings)
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    says = f"{url}/v1 serves {settings.model}, run by {generator.decoder.name}"
    Server(config, scheduler, says).run([listener])
    if scheduler.busy:
        # A daemon thread that runs native code while the interpreter ends can crash the process.
        _LOG.warning("a worker has not finished its last token")
        sys.stderr.flush()
        os._exit(0)


def _warm_up(generator: Generator) -> None:
    """Generate two tokens: the first ones load kernels and take seconds, which no client should wait for."""
    generator.tokenizer("warm")
    for _ in generator.stream([[0]], new_tokens=2, ignore_end=True):
        pass


if __name__ == "__main__":
    main()
