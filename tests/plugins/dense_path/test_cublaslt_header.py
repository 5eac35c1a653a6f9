"""Our header of twelve functions against NVIDIA's cublasLt.h, where the machine has it."""

import contextlib
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.plugin.toolchain import find_nvcc
from tests.plugins.dense_path_cases import MARKS
from tests.plugins.host_kernel import PLUGINS

pytestmark = MARKS

# Names in cublasLt.h, library_types.h and cublas_api.h, and our names for them.
NUMBERS = {
    "CUBLASLT_MATMUL_DESC_TRANSA": "kTransposeA",
    "CUBLASLT_MATMUL_DESC_EPILOGUE": "kEpilogue",
    "CUBLASLT_MATMUL_DESC_BIAS_POINTER": "kBiasPointer",
    "CUBLASLT_EPILOGUE_BIAS": "kEpilogueBias",
    "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES": "kMaxWorkspace",
    "CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK": "kReductionSchemes",
    "CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE": "kReductionInOrder",
    **{f"CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_{m}_BYTES": f"kAlignment{m}" for m in "ABCD"},
    "CUBLAS_COMPUTE_32F": "kCompute32",
    "CUBLAS_COMPUTE_32I": "kComputeInt32",
    "CUBLAS_OP_T": "kTranspose",
    "CUBLAS_STATUS_SUCCESS": "kSuccess",
    "CUDA_R_32F": "kReal32",
    "CUDA_R_16F": "kReal16",
    "CUDA_R_16BF": "kBFloat16",
    "CUDA_R_8I": "kInt8",
    "CUDA_R_32I": "kInt32",
}


def find_header():
    """Path of cublasLt.h in CUBLASLT_INCLUDE, a wheel or a toolkit; None when none of them has it."""
    folders = [os.environ.get("CUBLASLT_INCLUDE", "")]
    site = Path(sysconfig.get_path("purelib")) / "nvidia"
    folders += [str(site / name / "include") for name in ("cu13", "cublas")]
    with contextlib.suppress(PatchCompileError):
        folders.append(str(find_nvcc().path.resolve().parents[1] / "include"))
    folders += ["/usr/local/cuda/include"]
    return next((Path(f) / "cublasLt.h" for f in folders if f and (Path(f) / "cublasLt.h").is_file()), None)


def test_numbers_and_structs_are_those_of_the_header(tmp_path):
    header = find_header()
    if header is None:
        pytest.skip("this machine has no cublasLt.h")
    checks = [f"static_assert(int({theirs}) == int({ours}));" for theirs, ours in NUMBERS.items()]
    checks += [
        "static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));",
        "static_assert(sizeof(Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));",
        "static_assert(offsetof(Heuristic, workspace) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));",
        "static_assert(offsetof(Heuristic, status) == offsetof(cublasLtMatmulHeuristicResult_t, state));",
    ]
    functions = re.findall(
        r'"(cublasLt\w+)", &f->(\w+)', (PLUGINS / "dense_path/cublaslt_library.cpp").read_text()
    )
    assert len(functions) == 12
    # Each call takes as many arguments, of the same sizes, as the header says.
    checks += [
        f"static_assert(alike(&{theirs}, decltype(Functions::{ours}){{}}));" for theirs, ours in functions
    ]
    alike = (
        "template <class R, class... A, class S, class... B> constexpr bool alike(R (*)(A...), S (*)(B...)) {\n"
        "  if constexpr (sizeof...(A) == sizeof...(B))\n"
        "    return sizeof(R) == sizeof(S) && ((sizeof(A) == sizeof(B)) && ...);\n"
        "  else return false;\n}\n"
    )
    source = tmp_path / "numbers.cpp"
    includes = '#include <cublasLt.h>\n#include <cstddef>\n#include "dense_path/cublaslt_api.h"\n'
    source.write_text(includes + "using namespace patch::cublaslt;\n" + alike + "\n".join(checks))
    command = [str(find_nvcc().path), "-std=c++17", "-c", str(source), "-o", str(tmp_path / "numbers.o")]
    command += ["-I", str(PLUGINS), "-I", str(header.parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
