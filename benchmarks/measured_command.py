"""Runs a command and measures its seconds and its peak memory, resident and anonymous."""

import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_INTERVAL = 0.05  # seconds between two readings of the anonymous memory, whose peak the kernel does not keep


@dataclass(frozen=True)
class Watched:
    """A command's stdout, seconds and memory. Resident memory includes mapped files."""

    stdout: str
    seconds: float
    peak_gib: float
    peak_anonymous_gib: float


def watched(command: Sequence[str], most_gib: float | None = None, mapped_gib: float = 0.0) -> Watched:
    """Run a command; its stderr is shown. Linux only.

    most_gib: limit of its data. mapped_gib: files that it maps for itself, as ONNX Runtime maps weights; the kernel counts
    them as data, though they need no memory, so the limit is so much higher. Raises CalledProcessError when the command
    fails.
    """
    if most_gib is not None:
        limit = round((most_gib + mapped_gib) * 2**20)
        command = ["sh", "-c", f'ulimit -d {limit} && exec "$@"', "sh", *command]
    resident = anonymous = 0.0
    with tempfile.TemporaryFile("w+") as stdout:  # a pipe would have to be read while the command runs
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout)
        while process.poll() is None:
            seen = _memory(process.pid)
            resident = max(resident, seen.get("VmHWM", 0.0))
            anonymous = max(anonymous, seen.get("RssAnon", 0.0))
            time.sleep(_INTERVAL)
        seconds = time.perf_counter() - start
        stdout.seek(0)
        said = stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, said)
    return Watched(said, seconds, resident, anonymous)


def _memory(pid: int) -> dict[str, float]:
    """The kernel's memory figures of a process in GiB; empty after it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines)
    return {name: int(text.split()[0]) / 2**20 for name, text in pairs if text.strip().endswith("kB")}
