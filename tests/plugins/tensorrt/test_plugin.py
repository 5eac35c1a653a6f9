"""The compiled plugin in TensorRT-RTX: registration, attributes, and engines built without a GPU."""

import json
from functools import partial

import pytest

from masklearn.quant.table import W8A8
from patch_compile.plugin.build import build_plugin
from tests.plugins.dense_path_cases import MARKS

pytestmark = [pytest.mark.rtx, *MARKS]

# Two panels of one slab: the first is dense, the second 2:4.
INDEX = [0, 1, 1, 0, 0, 1, 0, 0]
GOOD = {"in_features": 64, "out_features": 100, "panel_rows": 64, "kinds": "dense,2:4", "index": INDEX}
REGISTERED = [["PatchLinear", "3", ""]]


@pytest.fixture(scope="module")
def library():
    return build_plugin("tensorrt-rtx").path


@pytest.fixture
def run(session, library):
    return partial(session, library=library)


@pytest.mark.parametrize("order", ["d", "l", "dl", "ld", "dc"])
def test_registers_once_whichever_way_it_is_loaded(run, order):
    got = run("register", order)
    assert got["known"] == REGISTERED
    assert [e for e in got["errors"] if "exists already" not in e or order != "dc"] == []


def test_loading_twice_is_harmless_and_unloading_leaves_nothing(run):
    assert run("register", "ll")["known"] == REGISTERED
    assert run("register", "lx")["known"] == []


@pytest.mark.parametrize(
    "variant",
    [
        "fp16", "bf16", "nobias", "gated", "residual", "kinds", "gated-kinds", "named",
        "int8", "int8-gated-kinds", "int4-gated", "int4-kinds", "w8a8", "w8a8-gated",
    ],
)  # fmt: skip
def test_engine_builds_ahead_of_time(run, variant):
    got = run("build", variant)
    assert got["errors"] == [] and got["built"] and got["layers"] >= 1
    assert got["shape"] == [-1, -1, 200]


@pytest.mark.parametrize("variant", ["shape", "mixed", "residual-shape", "lie", "int8-no-scales"])
def test_engines_with_misfit_tensors_are_refused(run, variant):
    got = run("build", variant)
    assert not got["built"] and got["errors"]
    message = {
        "shape": "last dimension must be in_features = 324",
        "mixed": "Failed to find any supported plugin/custom tactic format",
        "residual-shape": "it must be that of Y",
        "int8-no-scales": "Failed to find any supported plugin/custom tactic format",
        "lie": "lies at column 99, and K has 6 columns of 64",
    }
    assert any(message[variant] in e for e in got["errors"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_features": 66}, "in_features must be a positive multiple of 4"),
        ({"out_features": 0}, "out_features must be positive"),
        ({"panel_rows": 96}, "panel_rows must be 64 or 128"),
        ({"panel_rows": None}, "panel_rows must be 64 or 128"),
        ({"out_features": 68, "gated": 1}, "out_features must be a multiple of 8 where gated is 1"),
        ({"gated": 2}, "gated and residual must be 0 or 1"),
        ({"residual": -1}, "gated and residual must be 0 or 1"),
        ({"activation": "quick_gelu"}, "activation must be empty, gelu, gelu_tanh or silu"),
        ({"activation": 1}, "activation must be a string"),
        (
            {"kinds": "dense,8:16"},
            "and must be dense,2:4 and others that this plugin knows, in this order: dense,2:4,8:16,12:16",
        ),
        ({"kinds": "dense,2:4,16:32"}, "kinds is 'dense,2:4,16:32', and"),
        ({"kinds": "dense,2:4,12:16,8:16"}, "kinds is 'dense,2:4,12:16,8:16', and"),
        ({"kinds": "dense,2:4,"}, "kinds is 'dense,2:4,', and"),
        ({"kinds": None}, "kinds is '', and"),
        (
            {"kinds": "dense,2:4,8:16", "panel_rows": 128},
            "panel_rows must be 64 where kinds has more than dense,2:4",
        ),
        (
            {"kinds": "dense,2:4,8:16"},
            "the index has 8 numbers; 2 panels of 1 slabs of the kinds dense,2:4,8:16 need 11",
        ),
        ({"weights": "int2"}, "weights must be float16, bfloat16, int8, w8a8 or int4"),
        ({"weights": 4}, "weights must be a string"),
        ({"weights": "int8", "panel_rows": 128}, "panel_rows must be 64 where weights is int8"),
        (
            {"weights": "int4", "in_features": 68},
            "in_features must be a multiple of 64 where weights is int4",
        ),
        (
            {"weights": "w8a8", "kinds": "dense,2:4,8:16"},
            "and must be dense,2:4 and others that this plugin knows where weights is w8a8, in this order: dense,2:4,6:8",
        ),
        ({"kinds": "dense,2:4,6:8"}, "kinds is 'dense,2:4,6:8', and"),
        ({"weights": "int8", "kinds": "dense,2:4,6:8"}, "kinds is 'dense,2:4,6:8', and"),
        (
            {"weights": "w8a8", "kinds": "dense,2:4,6:8"},
            "the index has 8 numbers; 2 panels of 1 slabs of the kinds dense,2:4,6:8 need 11",
        ),
        (
            {"weights": "w8a8", "in_features": W8A8.most_columns + 4},
            f"in_features must be at most {W8A8.most_columns} where weights is w8a8",
        ),
        ({"index": None}, "the index has 0 numbers; 2 panels of 1 slabs of the kinds dense,2:4 need 8"),
        ({"index": [*INDEX, 0]}, "the index has 9 numbers"),
        ({"index": [0, 1, 2, 0, 0, 1, 0, 0]}, "its pointers end at 3 slabs, and there are 2"),
        ({"index": [0, 1, 1, 0, 0, 1, 0, 1]}, "2:4 slab 0 lies at column 1, and K has 1 columns of 64"),
        ({"index": "01"}, "index must be INT32 numbers"),
    ],
)
def test_senseless_attributes_are_refused_by_name(run, change, message):
    fields = {k: v for k, v in (GOOD | change).items() if v is not None}
    got = run("create", json.dumps(fields))
    assert not got["made"] and any(message in e for e in got["errors"])


@pytest.mark.parametrize(
    "more",
    [
        {"unknown": 3},
        {"out_features": 104, "activation": "silu", "gated": 1, "index": [0, 1, 2, 3, 4, *[0] * 5, *[0] * 4]},
        {"activation": "gelu\0", "residual": 1},
        {"weights": "bfloat16"},
        {"weights": "int4\0"},
        {"weights": "w8a8"},
        {"weights": "w8a8", "panel_rows": 128, "index": [0, 1, 0, 0, 0]},
    ],
)
def test_good_attributes_make_a_plugin(run, more):
    assert run("create", json.dumps(GOOD | more)) == {"made": True, "errors": []}
