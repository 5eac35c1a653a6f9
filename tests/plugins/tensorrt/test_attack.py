"""Random attributes, shapes, types and tactics against the plugin's host code, under AddressSanitizer and UBSan."""

import re

import pytest

from tests.plugins.dense_path_cases import MARKS
from tests.plugins.mutations import AS_IT_IS, broken_copy, named
from tests.plugins.sanitized import attack_plugin, compile_plugin_attack

pytestmark = MARKS

PLUGIN, CREATOR = "tensorrt/patch_linear_plugin.cpp", "tensorrt/patch_linear_creator.cpp"
INPUTS = "tensorrt/inputs.h"
CASES = 10_000
# name: (file, correct text, text with the bug)
MUTATIONS = {
    "a name that is null": (CREATOR, "if (!f.name) return", "if (false) return"),
    "a name of negative length": (CREATOR, "f.length < 0 || f.length > kLongestName", "false"),
    "fields that are not there": (CREATOR, "fields.nbFields > 0 && !fields.fields", "false"),
    "a value that is not aligned": (CREATOR, "std::memcpy(value, f.data, sizeof(*value));",
        "*value = *static_cast<const int32_t*>(f.data);"),
    "costs of 64 bits": ("kernels/schedule.h", "using Cost = __int128;", "using Cost = int64_t;"),
    "a cut beyond 64 bits": ("kernels/schedule.h", "!can_be_cut(p, c)", "false"),
    "a rank that is none": (INPUTS, "return d.nbDims >= 0 && d.nbDims <= nvinfer1::Dims::MAX_DIMS;",
        "return static_cast<void>(d), true;"),
    "tokens that overflow": (INPUTS, "x.d[i] > kMostTokens / tokens", "false"),
    "any number of inputs": (PLUGIN, "if (takes(inputs) && outputs == 1) return 0;", "return 0;"),
    "an index of any size": ("kernels/index.h", "if (size != count * pointers + slabs)", "if (false)"),
    "columns beyond K": ("kernels/index.h", "if (*column < 0 || *column >= columns)", "if (false)"),
    "pointers that fall": ("kernels/index.h", "if (own[p + 1] < own[p])", "if (false)"),
    "any number of slabs": ("kernels/index.h", "if (stored != slabs)", "if (false)"),
    "an index that is not aligned": (CREATOR, "std::memcpy(index->data(), f.data, f.length * sizeof(int32_t));",
        "for (int32_t j = 0; j < f.length; ++j) (*index)[j] = static_cast<const int32_t*>(f.data)[j];"),
}  # fmt: skip


def test_every_engine_answer_is_handled(library_cache):
    program = compile_plugin_attack(library_cache, opt="-O0")  # half as long, and so few cases take seconds
    said, fault = attack_plugin(program, 1, CASES)
    assert fault == ""
    cases, refused, launched = map(int, re.findall(r"\d+", said))
    assert cases == CASES and refused > CASES // 4 and launched > CASES // 4


@pytest.mark.parametrize("name", [each for each in named(MUTATIONS, (AS_IT_IS,)) if each.marks])
def test_a_missing_check_is_a_fault(name, tmp_path, library_cache):
    folders = ("kernels", "host", "dense_path", "tensorrt")
    plugins = broken_copy(tmp_path, folders, MUTATIONS[name])
    assert attack_plugin(compile_plugin_attack(library_cache, plugins), 1, 10 * CASES)[1]
