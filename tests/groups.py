"""Tests that share a build, or another costly fixture, run in one process of pytest-xdist, which makes it once.

The longest groups begin first, so that the processes end together. pytest-xdist's own marks do nothing with pytest 9.2:
it changes a test's id where this version no longer reads it.
"""

from collections import Counter
from functools import cache
from typing import Any

from xdist.scheduler import LoadGroupScheduling

from tests.onnx_export.tiny import ENCODERS, VARIANTS
from tests.parts import durations

# Beginnings of the tests' ids.
GROUPS: dict[str, tuple[str, ...]] = {
    "bench": ("tests/timing/",),
    "binary": ("tests/plugins/kernels/test_binary.py",),
    "browser": ("tests/report/page/test_browser.py",),
    "compare": ("tests/comparison/",),
    "current-folder": ("tests/cli/test_current_folder.py",),
    "dense-path": (
        "tests/benchmarks/kernels/test_check.py",
        "tests/plugins/dense_path/",
        "tests/plugins/tensorrt/test_attack.py",
        "tests/plugins/tensorrt/test_index.py",
        "tests/plugins/tensorrt/test_no_tokens.py",
        "tests/plugins/tensorrt/test_tactics.py",
    ),
    "dockerfile": ("tests/test_dockerfile.py",),
    "lowering": ("tests/passes/lowering/",),
    "onnx-model": ("tests/sources/onnx_model/",),
    "ptx": ("tests/ptx/test_kernels.py",),
    "reduce": ("tests/verification/test_reduce.py",),
    "runtime": ("tests/runtime/",),
    "simulator": ("tests/attacks/test_links.py", "tests/attacks/test_simulator.py"),
    "serve-http": ("tests/samples/serve_http/",),
    "tasks": ("tests/verification/test_tasks.py",),
    "types-by-time": ("tests/planning/test_types_by_time.py",),
    "verify": ("tests/verification/test_verify.py",),
}


def group_of(test: str) -> str:
    """Returns the group of a test, by its id: a name of GROUPS, one for each model that is exported, or the id itself."""
    for group, beginnings in GROUPS.items():
        if test.startswith(beginnings):
            return group
    if test.startswith("tests/onnx_export/"):
        place, _, parameters = test.partition("[")
        # The longest names first, since some begin as others do.
        for variant in sorted((*VARIANTS, *ENCODERS), key=len, reverse=True):
            if variant in parameters:
                return f"export {variant}"
        if place.startswith(("tests/onnx_export/test_model.py", "tests/onnx_export/test_repeat.py")):
            return "export llama"
    return test


@cache
def longest_first() -> tuple[str, ...]:
    """Returns the groups of the slow tests that durations.txt lists."""
    seconds = Counter[str]()
    for line in durations():
        number, _, test = line.strip().partition(" ")
        if "::" in test:
            seconds[group_of(test)] += float(number)
    return tuple(group for group, _ in seconds.most_common())


class Scheduling(LoadGroupScheduling):
    """Sends each group to one process."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        longest = next((group for group in longest_first() if group in self.workqueue), None)
        if longest is not None:
            self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)
