"""Measures the throughput of the sample server with many clients at once: requests one after the other, and in a batch.

    python -m benchmarks.serving OUT [--clients 16] [--new-tokens 32] [--runner onnx]

Starts `samples/serve_http` with the build in OUT, once with `--max-batch 1` and once with `--max-batch` of the clients.
Each client sends one completion of its own prompt, all at the same time, after a completion that warms the server up. Prints
tokens per second of all clients together, and the median of the seconds that a client waited for its answer.
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_PROMPT = "Write a short story about a {} who lives by the sea. Once upon a time"
_HEROES = (
    "sailor",
    "painter",
    "child",
    "cat",
    "king",
    "poet",
    "doctor",
    "thief",
    "farmer",
    "ghost",
    "baker",
    "fox",
)


@dataclass(frozen=True)
class Served:
    """A measured run. tokens: generated in all; seconds: until the last answer; waited: median of the clients."""

    rows: int
    tokens: int
    seconds: float
    waited: float

    def row(self) -> str:
        """Row of the table in Markdown."""
        return f"| {self.rows} | {self.tokens / self.seconds:.1f} | {self.waited:.2f} |"


def measure(url: str, model: str, clients: int, new_tokens: int, rows: int) -> Served:
    """Send one request of each client at the same time."""

    def ask(client: int) -> tuple[int, float]:
        prompt = _PROMPT.format(_HEROES[client % len(_HEROES)])
        body = {"model": model, "prompt": prompt, "max_tokens": new_tokens, "temperature": 0}
        request = urllib.request.Request(
            f"{url}/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        start = time.perf_counter()
        with urllib.request.urlopen(request) as answer:
            tokens = json.load(answer)["usage"]["completion_tokens"]
        return tokens, time.perf_counter() - start

    ask(0)
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        found = list(threads.map(ask, range(clients)))
    seconds = time.perf_counter() - start
    return Served(rows, sum(tokens for tokens, _ in found), seconds, median(waited for _, waited in found))


@contextmanager
def _server(out: Path, runner: str | None, rows: int) -> Iterator[tuple[str, str]]:
    """Start the server; yields its URL and its description of itself."""
    command = [sys.executable, "-m", "samples.serve_http.server", str(out), "--port", "0", "--model", "model"]
    command += ["--max-batch", str(rows), "--timeout", "3600", *(["--runner", runner] if runner else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        url, _, about = process.stdout.readline().partition(" ")
        if not url:
            raise SystemExit(f"The server has not started: {' '.join(command)}")
        yield url, about.strip()
    finally:
        process.terminate()
        process.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both ways, and print a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--runner", choices=("engine", "onnx"))
    asked = parser.parse_args(argv)
    print("| sequences in a batch | tokens/s | seconds to an answer, median |\n| --- | --- | --- |")
    for rows in (1, asked.clients):
        with _server(asked.out, asked.runner, rows) as (url, about):
            served = measure(url, "model", asked.clients, asked.new_tokens, rows)
        print(served.row(), flush=True)
    print(f"{asked.clients} clients, {asked.new_tokens} new tokens each; {about}")


if __name__ == "__main__":
    main()
