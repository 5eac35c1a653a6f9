import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from masklearn.base.device import available_memory, usable_device
from tests.refusals import refused

CPU = torch.device("cpu")


def test_memory_is_what_the_host_has_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    host = psutil.virtual_memory()
    assert available_memory(CPU, tmp_path) == pytest.approx(host.available, abs=0.2 * host.total)


def test_cgroup_processes_share_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers versions 1 and 2 of Linux control groups. In version 2 a group without a limit has `max` in memory.max."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("7000\n")
    assert available_memory(CPU, tmp_path) > 2**20
    (tmp_path / "memory.max").write_text("10000\n")
    assert available_memory(CPU, tmp_path) == 3000 // 4
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("1000\n")
    (tmp_path / "memory/memory.usage_in_bytes").write_text("200\n")
    assert available_memory(CPU, tmp_path) == 800 // 4


def test_a_limit_of_the_process_counts(tmp_path: Path) -> None:
    """`ulimit -d` limits it here to 3 GiB, of which importing torch has taken some."""
    code = "import torch; from masklearn.base.device import *; print(available_memory(torch.device('cpu')))"
    shell = f'ulimit -d {3 << 20} && exec "$@"'
    run = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", code], capture_output=True, check=True
    )
    assert 0 < int(run.stdout) < 3 << 30


def test_a_bad_device_and_a_missing_device_differ() -> None:
    assert usable_device("cpu") == torch.device("cpu")
    with refused():
        usable_device("nonsense")
    with refused():
        usable_device("cuda:99")
