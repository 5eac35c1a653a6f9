"""Processes that start within a moment: forks of a Python that has imported torch and transformers and run nothing.

A new Python would import them for 8 s of CPU time.
"""

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Iterator, Mapping
from multiprocessing import connection
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "accelerate.utils",
        "masklearn.learning",
        "masklearn.solvers.solve",
        "masklearn.training.repair",
        "patch_compile.pipeline.learn",
        "torch.distributed.fsdp",
        "transformers.models.llama.modeling_llama",
    ]
)


class Forks:
    """Processes that run a script. Several find each other as processes of torchrun do.

    errors: the file that their stderr goes to, None for the stderr of the tests.
    """

    def __init__(self, script: Path, *arguments: object, count: int = 1, errors: Path | None = None) -> None:
        port, words = _free_port(), [*map(str, arguments)]
        self._reader, writer = _CONTEXT.Pipe(duplex=False)
        self._processes = [
            _CONTEXT.Process(target=_run, args=(
                script, words, _variables(rank, count, port), None if rank else writer, errors
            ))
            for rank in range(count)
        ]  # fmt: skip
        for process in self._processes:
            process.start()
        writer.close()

    def lines(self) -> Iterator[str]:
        """Yield what the first process prints, line by line, for as long as no process fails."""
        held = b""
        while not any(process.exitcode for process in self._processes):
            if self._reader.poll(1.0):
                if not (chunk := os.read(self._reader.fileno(), 1 << 16)):
                    return
                *whole, held = (held + chunk).split(b"\n")
                yield from (line.decode() for line in whole)

    def kill(self) -> None:
        """Kill them all by SIGKILL."""
        for process in self._processes:
            process.kill()
        self.wait()

    def wait(self) -> list[int]:
        """Wait for their ends, and return the exit codes. If one fails, the others are killed."""
        while running := [process for process in self._processes if process.is_alive()]:
            connection.wait([process.sentinel for process in running], timeout=600)
            if any(process.exitcode for process in self._processes):
                for process in running:
                    process.kill()
        self._reader.close()
        return [process.exitcode or 0 for process in self._processes]


def _variables(rank: int, count: int, port: int) -> dict[str, str]:
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_PORT": port,
    }
    together = {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    return {**os.environ} | (together if count > 1 else {})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(
    script: Path,
    words: list[str],
    variables: Mapping[str, str],
    stdout: connection.Connection | None,
    errors: Path | None,
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    if stdout is not None:
        os.dup2(stdout.fileno(), 1)
        stdout.close()
    if errors is not None:
        with errors.open("w") as file:
            os.dup2(file.fileno(), 2)
    sys.argv = [str(script), *words]
    runpy.run_path(str(script), run_name="__main__")
