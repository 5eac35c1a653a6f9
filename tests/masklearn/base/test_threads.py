"""Threads that wait asleep, and small work that is divided once instead of at every operation."""

import os
import subprocess
import sys
import threading
from itertools import takewhile
from pathlib import Path

import pytest
import torch

from masklearn.base.threads import in_parallel, one_thread, usable_cores
from tests.conftest import ModelMaker

# Both print how OpenMP was set up when torch was loaded; its own words go to stderr.
_COMMAND = "from patch_compile.cli.app import main; main()"
_LIBRARY = """
import sys
from pathlib import Path
from masklearn.learning import learn
from masklearn.recipe import LearnRecipe
model, out = Path(sys.argv[2]), Path(sys.argv[4])
learn(model, LearnRecipe(method="magnitude", tile=(32, 32)), out)
"""
_PUBLIC = """
import sys
from pathlib import Path
from masklearn import Checkpoint, LearnRecipe, Task, covered_linears_of, learn_task
checkpoint, recipe = Checkpoint.open(sys.argv[2]), LearnRecipe(method="magnitude", tile=(32, 32))
coverage = covered_linears_of(checkpoint, (), ())
learn_task(Task(checkpoint, coverage, recipe, Path(sys.argv[4]), lambda *_: None, print))
"""


def openmp_settings(program: str, model: Path, out: Path, **given: str) -> str:
    """Returns the settings that OpenMP prints in a process that is to learn masks, which ends there."""
    ours = {"OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", program, "learn", str(model), "-o", str(out)]
    command += ["--method", "magnitude", "--tile", "32x32", "--ratio", "0.4"]
    env = clean | {"OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(Path.cwd())} | given
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        said = "".join(takewhile(lambda line: "OPENMP DISPLAY ENVIRONMENT END" not in line, process.stderr))
        process.kill()
    assert "OPENMP DISPLAY ENVIRONMENT BEGIN" in said, said
    return said


@pytest.mark.parametrize("program", [_COMMAND, _LIBRARY, _PUBLIC], ids=["command", "library", "task"])
def test_waiting_threads_sleep(make_model: ModelMaker, tmp_path: Path, program: str) -> None:
    """OpenMP calls them passive also where no policy is given, and then they spin."""
    assert "GOMP_SPINCOUNT = '0'" in openmp_settings(program, make_model(), tmp_path / "out")


def test_a_given_wait_policy_stays(make_model: ModelMaker, tmp_path: Path) -> None:
    said = openmp_settings(_LIBRARY, make_model(), tmp_path / "out", OMP_WAIT_POLICY="ACTIVE")
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in said


def test_threads_stay_within_the_cgroup_quota(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == cores  # no control groups
    second, first = tmp_path / "cpu.max", tmp_path / "cpu"
    first.mkdir()
    for quota, period, allowed in ((150_000, 100_000, 2), (20_000, 100_000, 1), (-1, 100_000, cores)):
        (first / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (first / "cpu.cfs_period_us").write_text(f"{period}\n")
        assert usable_cores(tmp_path) == min(cores, allowed)
    second.write_text("max 100000\n")
    assert usable_cores(tmp_path) == cores
    second.write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 1


def with_threads(count: int) -> int:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    return before


@pytest.mark.parametrize("count", [1, 3])
def test_threaded_results_come_in_order(count: int) -> None:
    before, seen = with_threads(count), set()

    def work(item: int) -> int:
        seen.add(threading.get_ident())
        assert torch.get_num_threads() == 1
        return item * item

    try:
        assert in_parallel(work, range(40)) == [i * i for i in range(40)]
        assert len(seen) <= count
        assert torch.get_num_threads() == count
        with pytest.raises(ZeroDivisionError):
            in_parallel(lambda item: 1 // item, [1, 0])
        assert torch.get_num_threads() == count
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)


def test_threaded_products_are_as_exact_as_fp32() -> None:
    """They may be a library's that rounds its numbers to bf16 if it is allowed to."""
    torch.manual_seed(0)
    a, b = torch.randn(300, 700), torch.randn(700, 200)
    expected = a.double() @ b.double()
    for product in in_parallel(lambda _: a @ b, range(3)):
        assert (product - expected).norm() < 1e-6 * expected.norm()


def test_freed_memory_is_used_again() -> None:
    program = """
import resource
from masklearn.base.threads import settle_threads
settle_threads()
import torch
for i in range(20):
    if i == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(4, 1 << 20) for _ in range(4)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    assert int(faults.stdout) < 4096  # pages of one of 40 tensors
