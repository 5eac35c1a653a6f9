"""The plugin's class, driven as TensorRT would: on the emulated CUDA here, with real kernels where there is a GPU."""

import ctypes
import importlib
import subprocess

import pytest
import torch

from patch_compile.plugin.targets import wanted_archs
from tests.plugins.dense_path_cases import MARKS
from tests.plugins.dense_plugin import DensePlugin, compile_driver, compile_stand_in
from tests.plugins.host_kernel import Device
from tests.plugins.mutations import AS_IT_IS, broken_copy, named

on_gpu, contexts, cuda_calls, plugin_driver, kernels, build = map(
    importlib.import_module,
    ("plugin_on_gpu", "plugin_contexts", "cuda_calls", "plugin_driver", "kernels", "build_library"),
)

pytestmark = MARKS

# Streams have several parts, and the dense path is taken for small prompts.
DEVICE = Device(3, 227 << 10, 50 << 20, 1 << 20, 90, 0, 1 << 30)
TOKENS, DENSE_TOKENS, REPLAYS = 70, 150, 4
PLAIN = contexts.Asked("plain", 64, torch.float16, (136, 328))
GATED = contexts.Asked("gated", 64, torch.bfloat16, (136, 328), gated=True, turn=5)
STEPS = ["beside", "shapes", "graphs", "together", "contexts"]

PLUGIN, MEMORY = "tensorrt/patch_linear_plugin.cpp", "tensorrt/context_memory.cpp"
RELAXED, DENSE = "tensorrt/relaxed_capture.h", "dense_path/dense_path.cpp"
# name: (file, correct text, text with the bug)
MUTATIONS = {
    "memory kept across attach": (
        MEMORY,
        "void* memory = nullptr;\n  if (const cudaError_t e = cudaMalloc",
        "static void* memory = nullptr;\n  if (const cudaError_t e = memory ? cudaSuccess : cudaMalloc",
    ),
    "counters that are not cleared": (MEMORY, "cudaMemsetAsync(memory, 0, kCounterBytes,", "cudaMemsetAsync(memory, 0, 0,"),
    "work on the default stream": (MEMORY, "return stream_; }", "return nullptr; }"),
    "memory freed beside a capture": (MEMORY, "const RelaxedCapture relaxed;\n  cudaFree", "cudaFree"),
    "a mode that is not relaxed": (RELAXED, "mode_ = cudaStreamCaptureModeRelaxed", "mode_ = cudaStreamCaptureModeGlobal"),
    "a handle of cuBLASLt made beside a capture": (
        PLUGIN,
        "const RelaxedCapture relaxed;  // cuBLASLt may allocate",
        "",
    ),
    "the first schedule kept": (PLUGIN, "tokens == scheduled_tokens_) return", "scheduled_tokens_ > 0) return"),
    "the first X kept": (
        PLUGIN,
        "a.x = static_cast<const uint16_t*>(inputs[kX]);",
        "static const void* const first = inputs[kX];\n  a.x = static_cast<const uint16_t*>(first);",
    ),
    "a kernel of the dense path outside of the capture": (
        DENSE,
        "launch_unpack(unpack, stream)",
        "launch_unpack(unpack, nullptr)",
    ),
    "the dense path without its workspace": (PLUGIN, "dense_path_->run(a, workspace,", "dense_path_->run(a, a.y,"),
}  # fmt: skip


@pytest.fixture(scope="module")
def cublaslt(library_cache):
    return compile_stand_in(library_cache)


@pytest.fixture
def load(monkeypatch, tmp_path, kernel, cublaslt):
    """Loads a driver on an emulated GPU that runs all kernels, and products of a cuBLASLt, on its streams."""
    monkeypatch.setenv("PATCH_CUBLASLT", str(cublaslt))
    stand_in = ctypes.CDLL(str(cublaslt))

    def address(function):
        return ctypes.cast(function, ctypes.c_void_p)

    def loaded(driver):
        plugin = DensePlugin(driver, tmp_path)
        plugin.device(DEVICE)
        run, error = kernel.lib.patch_host_run, kernel.lib.patch_host_error
        plugin.lib.patch_plugin_run_kernels(address(run), address(error))
        memory = ctypes.c_void_p(plugin.lib.patch_plugin_cuda(b"cudaMalloc"))
        stand_in.stand_in_on(address(plugin.lib.patch_host_enqueue), memory)
        return plugin

    yield loaded
    stand_in.stand_in_on(None, None)


def driven(plugin, asked):
    """Return the errors by step."""
    return dict(on_gpu.drive(plugin, asked, TOKENS, REPLAYS, (DENSE_TOKENS,)))


@pytest.mark.parametrize("asked", [PLAIN, GATED], ids=["fp16", "bf16-gated"])
def test_the_plugin_passes_every_step(load, library_cache, asked):
    plugin = load(compile_driver(library_cache))
    errors = driven(plugin, asked)
    paths = (f"kernels, {TOKENS}", f"dense path, {DENSE_TOKENS}")
    assert list(errors) == [f"{asked.name}, {path} tokens: {step}" for path in paths for step in STEPS]
    assert 0 < max(errors.values()) <= 1
    assert plugin.messages() == [] and plugin.fault() == ""
    counts = plugin.launched()
    assert counts[0] > 0 and counts[1] > 0 and (counts[2] > 0) == asked.gated


@pytest.mark.parametrize(
    "name",
    [one for one in named(MUTATIONS, ("memory kept across attach", AS_IT_IS)) if one.values[0] != AS_IT_IS],
)
def test_a_step_notices_each_bug(load, library_cache, tmp_path, name):
    folders = ("kernels", "host", "dense_path", "tensorrt")
    plugin = load(compile_driver(library_cache, broken_copy(tmp_path, folders, MUTATIONS[name])))
    try:
        worst = max(driven(plugin, PLAIN).values())
    except (contexts.Wrong, cuda_calls.CudaError) as error:
        print(name, error, plugin.messages())
    else:
        assert worst > 1, "no step noticed it"


def test_a_device_without_a_dense_path_is_told(load, library_cache):
    plugin = load(compile_driver(library_cache))
    plugin.device(Device(3, 227 << 10, 50 << 20, 10000, 80))
    errors = driven(plugin, PLAIN)
    assert errors.pop("plain: this GPU has no dense path, or no cuBLASLt") is None
    assert [name.rpartition(" ")[2] for name in errors] == STEPS


def test_it_links_with_cuda_and_without_tensorrt(tmp_path):
    """Calls of a machine without a GPU fail with CUDA's words."""
    library = build.build_library(
        tmp_path, *(f"sm_{arch}" for arch in wanted_archs()), plugin=True, lines=False
    )
    driver = plugin_driver.PluginDriver(library)
    assert "prefill-128" in {config.name for config in kernels.Kernels(library).configs()}
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in needed and "nvinfer" not in needed and "cudart" not in needed
    cuda = cuda_calls.Cuda(lambda name: driver.lib.patch_plugin_cuda(name.encode()), driver.lib)
    if torch.cuda.is_available():
        cuda.free(cuda.allocate(16))
    else:
        with pytest.raises(cuda_calls.CudaError, match=r"cudaMalloc: .*(driver|device)"):
            cuda.allocate(16)


@pytest.mark.parametrize(
    ("deadline", "said"),
    [(120.0, "wrong: the step after these failed: onShapeChange failed"), (0.01, "did not end in 0 s")],
)
def test_a_process_that_fails_or_hangs_is_told(library_cache, monkeypatch, capfd, deadline, said):
    """The emulated GPU has no SMs until somebody says so."""
    monkeypatch.setattr(on_gpu, "LINEARS", on_gpu.LINEARS[:1])
    monkeypatch.setattr(on_gpu, "_DEADLINE", deadline)
    monkeypatch.setenv("PATCH_BENCH_LIBRARY", str(compile_driver(library_cache)))
    assert on_gpu.main([]) == 1
    assert said in capfd.readouterr().out


def test_a_library_of_something_else_is_refused(cublaslt, monkeypatch, capsys):
    monkeypatch.setenv("PATCH_BENCH_LIBRARY", str(cublaslt))
    assert on_gpu.main([]) == 1
    assert "can't be used here" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_plugin_passes_on_this_gpu():
    assert on_gpu.main([]) == 0
