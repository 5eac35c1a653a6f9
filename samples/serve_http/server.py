"""`serve.sh`: loads a build, serves it until SIGTERM, and prints the URL once it listens."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from patch_compile import PatchCompileError, Runner, open_generator
from samples.serve_http.app import Service

_CONNECTIONS, _GRACE = 512, 30  # open at once; seconds for open requests after SIGTERM


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1, but a client that lets the server wait for a request loses the connection.

    patience: seconds that the server waits.
    """

    def __init__(self, patience: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patience = patience

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self.loop.call_later(self._patience, self._abort_after, self.cycle)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self.loop.call_later(self._patience, self._abort_after, self.cycle)

    def _abort_after(self, last: object) -> None:
        if self.cycle is last:
            self.transport.abort()


@click.command(context_settings={"show_default": True})
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", help="Address to listen on. There is no authentication.")
@click.option("--port", default=8000, help="Port to listen on; 0 takes a free port.")
@click.option("--model", help="Name of the model in the API.  [default: name of OUT's folder]")
@click.option(
    "--runner", type=click.Choice([r.value for r in Runner]), help="Run the engine or the ONNX file."
)
@click.option("--plugin", type=click.Path(path_type=Path), help="Plugin library.  [default: compiled here]")
@click.option("--trust", is_flag=True, help="Run the compiled plugin that came with OUT.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Its folder.  [default: OUT/model]")
def main(out: Path, host: str, port: int, model: str | None, **places: Any) -> None:
    """Serve the build in OUT with OpenAI's API."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        # Bind before loading the model, so that a port in use fails at once. Listen when all is ready.
        listener.bind((host, port))
        generator = open_generator(out, **places)
        for _ in generator.stream([[0]], new_tokens=2, ignore_end=True):
            pass  # the first tokens load kernels, for which no client should wait
    except OSError as error:
        raise click.ClickException(
            f"can't listen on {host} port {port}: {error}; give another --port"
        ) from None
    except PatchCompileError as error:
        raise click.ClickException(str(error)) from None
    service = Service(generator, model or out.resolve().name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn handles it, and raises it again at its end
    listener.listen()
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    click.echo(f"{url}/v1 serves {service.model}, run by {generator.decoder.name}")
    make_server(service).run([listener])


def make_server(service: Service) -> uvicorn.Server:
    """Returns uvicorn with its limits."""
    config = uvicorn.Config(
        service.app(),
        http=partial(Connection, service.client_timeout),  # type: ignore[arg-type]
        ws="none",
        backlog=64,  # without free descriptors, asyncio tries to accept so many connections every second
        log_config=None,
        limit_concurrency=_CONNECTIONS + 1,
        timeout_graceful_shutdown=_GRACE,
    )
    return uvicorn.Server(config)


if __name__ == "__main__":
    main()
