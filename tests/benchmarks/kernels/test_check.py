"""The GPU benchmark's check runs on the CPU's kernels; it passes, and it can fail."""

import ctypes
import importlib
from types import SimpleNamespace

import pytest
import torch

from patch_compile.plugin.toolchain import describe_toolchain
from tests.plugins.dense_plugin import DensePlugin, compile_driver, compile_stand_in
from tests.plugins.host_kernel import COMPILER, Arguments, Call, Device, PartTable, Stats

bench_check, bench_kernels = (importlib.import_module(name) for name in ("check", "kernels"))

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

MISSING = [item.what for item in describe_toolchain() if not item.found]
DEVICE = Device(3, 227 << 10, 1 << 20, 10000, 80)


class KernelsOnTheCpu:
    """`Kernels` of the benchmark on host fibers, which check every access against sizes computed from the arguments."""

    counter_bytes = 4 * 64

    def __init__(self, kernel, *only):
        self._kernel, self._only, self.launches = kernel, only, 0

    def configs(self):
        about = self._kernel.configs()
        found = [
            bench_kernels.Config(n, c.panel_rows, c.shared_bytes, c.tokens, c.kinds, c.weights)
            for n, c in about.items()
        ]
        # Excluded configurations ask for more shared memory than any device has.
        return [c if c.name in self._only else c._replace(shared_bytes=1 << 30) for c in found]

    def schedule(self, problem, device, config=-1):
        return self._kernel.schedule(problem, device, config)

    def partial_bytes(self, config, parts):
        return int(self._kernel.lib.patch_host_partial_bytes(config, parts))

    def table(self, arguments, index, config, parts):
        if not list(self._kernel.configs().values())[config].streams:
            return PartTable()
        own = Arguments.from_buffer_copy(arguments)
        own.index, own.parts = index.ctypes.data, parts
        return self._kernel.table(own, config)

    def launch(self, arguments, table, scalar, config, parts, stream):
        about = self.configs()[config]
        panels = arguments.panels
        call = Call(scalar=scalar, config=config, copy_mode=self.launches % 3, seed=self.launches)
        counts = [slabs.count for slabs in arguments.slabs]
        for kind, count in enumerate(counts):
            call.slab_values[kind] = count * arguments.slabs[kind].value_bytes // 2
            call.slab_words[kind] = count * arguments.slabs[kind].extra_bytes // 4
        call.index_words = about.kinds * (panels + 1) + sum(counts)
        call.partial_values, call.counter_words = self.partial_bytes(config, parts) // 4, parts
        call.arguments = arguments
        call.arguments.parts = parts
        call.table = ctypes.addressof(table)
        self.launches += 1
        if self._kernel.lib.patch_host_run(ctypes.byref(call), ctypes.byref(Stats())):
            raise RuntimeError(self._kernel.lib.patch_host_error().decode())


def faults(kernels, device=DEVICE, tokens=(5, 7, 17)):
    """What the check says of all configurations."""
    rows = (
        bench_check.check_row(kernels, device, name, tokens, "cpu")
        for name in bench_check.names(kernels, device)
    )
    return [fault for row in rows for fault in row["faults"]]


@pytest.mark.parametrize(
    ("fixture", "names", "tokens", "cases"),
    [
        ("kernel", ("decode-64", "prefill-128", "all-decode-64"), (5, 7, 17), 2 * 18 + 12),
        ("integer_kernel", ("int8-decode-64", "int4-decode-64"), (5, 17), 2 * 18),
        ("byte_kernel", ("w8a8-decode-128", "w8a8-decode-64"), (5, 17), 2 * 18),
    ],
)
def test_right_kernels_pass(request, fixture, names, tokens, cases):
    """Kernels of each type run here, with and without a gate; other tests run all configurations."""
    kernels = KernelsOnTheCpu(request.getfixturevalue(fixture), *names)
    assert faults(kernels, tokens=tokens) == []
    assert kernels.launches == cases * len(tokens) * 2  # two launches for each number of tokens


def test_a_sum_of_integers_may_be_zero():
    """The same sum of products in float64 is not, with and without FMA, and bf16 has numbers far below it."""
    x = torch.tensor([[127.0, -126.0]]).double() * 0.1
    weight = torch.tensor([[126.0, 127.0]]).double() * 0.7
    assert (x @ weight.T).item() != 0
    y = torch.zeros(1, 1, dtype=torch.bfloat16)
    nothing = bench_check.Epilogue(None, None, "")
    assert bench_check.share_of_allowed_error(y, x, [weight], nothing, rounded=False) < 1


def test_integers_of_another_token_are_wrong(byte_kernel, monkeypatch):
    """The sums of w8a8 are exact, so that nothing but the right integers is allowed."""
    rounds = bench_check.quantise_inputs
    monkeypatch.setattr(bench_check, "quantise_inputs", lambda x: (rounds(x)[0] + (x > 2), rounds(x)[1]))
    kernels = KernelsOnTheCpu(byte_kernel, "w8a8-decode-64")
    assert len(faults(kernels, tokens=(5,))) == 18


class DensePathOnTheCpu(KernelsOnTheCpu):
    """Only the dense path, without a hybrid kernel."""

    def __init__(self, kernel, plugin):
        super().__init__(kernel)
        self._plugin, self.runs = plugin, 0

    def dense_path(self, problem, epilogue, scalar):
        def run(arguments, workspace, stream):
            self.runs += 1
            aligned = -(-workspace // 256) * 256
            self._plugin.dense_path(problem, scalar, arguments, aligned)

        # Extra bytes let tensors begin at a multiple of 256, as in device memory.
        return SimpleNamespace(bytes=self._plugin.dense_path_bytes(problem, epilogue) + 256, run=run)


@pytest.mark.skipif(bool(MISSING), reason=f"to compile the plugin there is no {MISSING}")
def test_existing_dense_paths_are_checked(kernel, library_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATCH_CUBLASLT", str(compile_stand_in(library_cache)))
    plugin = DensePlugin(compile_driver(library_cache), tmp_path)
    hopper = Device(3, 227 << 10, 1 << 20, 10000, 90)
    kernels = DensePathOnTheCpu(kernel, plugin)
    assert faults(kernels, hopper) == []
    assert kernels.runs == (3 * 12 + 6 * 3) * 3 * 2
    monkeypatch.setattr(importlib.import_module("hybrid"), "ACTIVATIONS", ("", "gelu", "silu", "gelu_tanh"))
    assert len(faults(kernels, hopper)) == 3 * 12 + 6 * 3


def test_a_wrong_answer_is_said(kernel, monkeypatch):
    """The broken kernels compute SiLU for the tanh GELU."""
    hybrid = importlib.import_module("hybrid")
    monkeypatch.setattr(hybrid, "ACTIVATIONS", ("", "gelu", "silu", "gelu_tanh"))
    found = faults(KernelsOnTheCpu(kernel, "decode-64"))
    assert len(found) == 18
    assert all("decode-64" in fault and "of the allowed error" in fault for fault in found)


def test_failed_launches_stop_no_checks(kernel):
    class Broken(KernelsOnTheCpu):
        def launch(self, arguments, table, scalar, config, parts, stream):
            if self.configs()[config].name == "decode-64":
                raise RuntimeError("an illegal memory access")
            super().launch(arguments, table, scalar, config, parts, stream)

    kernels = Broken(kernel, "decode-64", "mid-64")
    found = faults(kernels, tokens=(5,))
    assert found and all(
        fault.startswith("decode-64 ") and fault.endswith(": an illegal memory access") for fault in found
    )
    assert bench_check.names(kernels, DEVICE) == ["decode-64", "mid-64"]


class WithoutAnswer(KernelsOnTheCpu):
    """Leaves Y as it was: full of NaN."""

    def launch(self, *_):
        pass


class WithTwoAnswers(KernelsOnTheCpu):
    """Every second launch gives another first value."""

    def launch(self, arguments, *others):
        super().launch(arguments, *others)
        if self.launches % 2:
            ctypes.memset(arguments.y, 0, 2)


@pytest.mark.parametrize(("broken", "said"), [(WithoutAnswer, "NaN"), (WithTwoAnswers, "two runs differ")])
def test_a_configuration_without_one_answer_is_useless(kernel, broken, said):
    row = bench_check.check_row(broken(kernel, "decode-64"), DEVICE, "decode-64", (5,), "cpu")
    assert row["useless"] and row["worst"] is None
    assert len(row["faults"]) == 18 and all(said in fault for fault in row["faults"])


@pytest.mark.parametrize(
    ("worst", "is_fault", "is_useless"),
    [
        (1.0, False, False),
        (1.5, True, False),
        (4.0, True, False),
        (4.1, True, True),
    ],
)
def test_only_answers_far_off_make_useless(kernel, monkeypatch, worst, is_fault, is_useless):
    monkeypatch.setattr(bench_check, "share_of_allowed_error", lambda *_: worst)
    row = bench_check.check_row(KernelsOnTheCpu(kernel, "decode-64"), DEVICE, "decode-64", (1,), "cpu")
    assert (bool(row["faults"]), row["useless"], row["worst"]) == (is_fault, is_useless, worst)
