"""Parts of the GPU benchmark that need no GPU: its library, its random problems, its table."""

import importlib
import re
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from masklearn.masks.kinds.table import TWO_FOUR
from patch_compile.packing.format import PackedLinear
from patch_compile.packing.slab_kinds import ALWAYS
from tests.oracles.element_packing import Packed
from tests.plugins.host_kernel import BENCH, COMPILER, Device, Launch, problem_of
from tests.plugins.machine_code import NVCC
from tests.refusals import refused

sys.path.insert(0, str(BENCH))
bench_kernels, problems, products, run = (
    importlib.import_module(name) for name in ("kernels", "problems", "products", "run")
)


@pytest.mark.parametrize("share", products.SHARES)
@pytest.mark.parametrize(("shape", "rows"), [((576, 576), 64), ((200, 452), 128), ((64, 64), 64)])
def test_a_random_layout_holds_every_slab_once(shape, rows, share):
    layout = problems.random_layout(shape, rows, share)
    blank = [np.zeros((n, rows * width), np.uint16) for n, width in zip(layout.counts, (64, 32), strict=True)]
    packed = PackedLinear(shape, rows, *blank, np.zeros((layout.counts[1], 2 * rows), np.int32), layout.index)
    is_sparse = packed.places()[0] == ALWAYS.index(TWO_FOUR)
    assert is_sparse.shape == (layout.panels, -(-shape[1] // 64))
    assert abs(is_sparse.sum() - share * is_sparse.size) <= 0.5
    assert layout.weight_bytes == sum(a.nbytes for a in (*blank, packed.meta))


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")
def test_random_metadata_is_what_the_instruction_takes(kernel):
    """The emulated mma.sp refuses an unordered pair of positions."""
    layout = problems.random_layout((130, 200), 64, 1.0)
    rng = np.random.default_rng(0)
    values = [rng.standard_normal((n, 64 * width)).astype(np.float16).view(np.uint16)
              for n, width in zip(layout.counts, (64, 32), strict=True)]  # fmt: skip
    packed = Packed((130, 200), 64, *values, problems.random_meta(layout), layout.index)
    x = rng.standard_normal((3, 200)).astype(np.float16).view(np.uint16)
    y = kernel.run(packed, x, None, Launch(0, parts=4)).view(np.float16)
    assert np.isfinite(y).all() and len(np.unique(y)) > 300


def test_the_table_shows_ratios_to_cublas():
    hybrid = {str(share): 2e-5 / (1 + share) for share in products.SHARES}
    row = {"key": {"shape": [4096, 4096], "tokens": 1, "type": "float16"}, "cublas": 2e-5, "cusparselt": 1e-5}
    row |= {
        "hybrid": hybrid,
        "schedule": {share: ["decode-128", 108] for share in hybrid},
        "dense path": 4e-5,
    }
    row["limit"] = {share: seconds / 2 for share, seconds in hybrid.items()}
    assert products.product_table([row]).splitlines()[2] == (
        "| 4096×4096 | 1 | float16 | 1.00 | 1.50 | 1.70 | 1.80 | 1.90 | 2.00 | 2.00 | 50% | decode-128, 108 parts | 0.50 |"
    )


def test_an_error_of_cusparselt_loses_no_row(monkeypatch, capsys):
    contenders = products._Contenders((64, 64), None, SimpleNamespace(l2=0))

    def refuse(*_):
        raise RuntimeError("cuSPARSELt is not here")

    monkeypatch.setattr(products, "_semi_structured", refuse)
    assert contenders._cusparselt(torch.zeros(8, 64)) is None
    assert "cuSPARSELt is not here" in capsys.readouterr().err


def test_cusparselt_is_timed_without_a_graph_if_need_be(monkeypatch):
    def time_of(calls, *, captured=True):
        if captured:
            raise RuntimeError("operation not permitted when stream is capturing")
        return 1e-6 * len(calls)

    monkeypatch.setattr(products, "time_of", time_of)
    assert products._time_in_any_way([print]) == 1e-6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("command", [("run.py",), ("launch_once.py", "16")])
def test_without_a_gpu_a_program_says_so(command):
    done = subprocess.run([sys.executable, *command], cwd=BENCH, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: PyTorch sees no GPU")


def test_numpy_and_pytorch_are_all_that_it_imports():
    """The benchmark is for machines that have nothing else that patch-compile needs."""
    needs = tomllib.loads((BENCH.parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    of_pytorch = {"jinja2", "typing_extensions"}  # which PyTorch itself needs
    names = {re.match(r"[\w-]+", need)[0] for need in needs} - {"numpy", "torch", *of_pytorch}
    absent = dict.fromkeys({"pyyaml": "yaml"}.get(name, name.replace("-", "_")) for name in names)
    assert {"pydantic", "transformers", "onnx_ir", "yaml"} <= set(absent)
    script = (
        f"import sys; sys.modules.update({absent!r}); import runpy; runpy.run_path({str(BENCH / 'run.py')!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(NVCC is None or COMPILER is None, reason="no nvcc, or no compiler for the host emulation")
def test_the_library_chooses_as_the_plugin(kernel, tmp_path, monkeypatch, capsys):
    build = importlib.import_module("build_library")
    assert build.main(["--arch", "sm_80", "-o", str(tmp_path / "gpu")]) == 0
    said = capsys.readouterr().out
    assert re.match(rf"PATCH_BENCH_LIBRARY={tmp_path}/gpu/libpatch_plugin_driver.so  # \d+\.\d MiB$", said)
    library = bench_kernels.Kernels(tmp_path / "gpu" / "libpatch_plugin_driver.so")
    assert library.configs() == [
        bench_kernels.Config(name, c.panel_rows, c.shared_bytes, c.tokens, c.kinds, c.weights)
        for name, c in kernel.configs().items()
    ]
    device = Device(108, 163 << 10, 40 << 20, 11517, 80)
    for tokens, gated in ((1, 0), (64, 0), (4096, 0), (4096, 1)):
        problem = problem_of(tokens, (4096, 4096), 128, (400 * (1 + gated), 1648 * (1 + gated)), gated)
        chosen = library.schedule(problem, device)
        assert chosen == kernel.schedule(problem, device)
        assert library.max_parts(problem, device, chosen[0]) >= chosen[1]
        assert library.partial_bytes(*chosen) == kernel.lib.patch_host_partial_bytes(*chosen)
    assert library.counter_bytes >= 4 * 108
    monkeypatch.setenv("PATCH_CUBLASLT", str(tmp_path / "none.so"))
    with refused(RuntimeError):
        library.dense_path(problem_of(4096, (4096, 4096), 128, (400, 1648)), (True, False, 0), 0)
