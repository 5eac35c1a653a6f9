"""`inspect` shows PatchLinears with int8 and int4 weights, and names damaged parts of them."""

import re

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from masklearn.masks.kinds.table import KINDS, PRUNED
from masklearn.quant.table import INT4, INT8, W8A8
from patch_compile.engine.expectation import expectation_from_onnx
from patch_compile.inspection.onnx_graph import index_faults, inspect_onnx
from patch_compile.packing.index import stacked_panels
from patch_compile.packing.quantised import Quantised, pack_quantised
from tests.mosaics import mosaic, random_grid
from tests.packing.test_function import one_linear
from tests.refusals import refused

HALF = np.dtype(np.float16)
types = pytest.mark.parametrize("weights", [INT8, W8A8, INT4], ids=str)


def written(path, weights, change=lambda model: None):
    """A file of one linear [100, 192] with kinds of slabs, changed by `change`."""
    integers, grid = random_grid((100, 192), weights, 3)
    kinds = tuple(kind for kind in (*KINDS[:4], PRUNED["6:8"]) if kind.goes_with(weights))
    mask = mosaic((100, 192), (64, 64), 5, kinds)
    packed = pack_quantised(
        [Quantised.of(grid.values(integers, HALF), mask, grid)], stacked_panels([len(integers)], 64), HALF
    )
    model = one_linear(packed, np.float16, out_features=100)
    model.graph.node[0].name = "linear"
    change(model)
    onnx.save(model, path)
    return path, packed


@types
def test_type_and_bytes_are_shown(tmp_path, weights):
    path, packed = written(tmp_path / "m.onnx", weights)
    found = inspect_onnx(path)
    assert not found.faults and not index_faults(path)
    (row,) = found.rows
    assert (row["weights"], row["bytes"]) == (weights.name, packed.nbytes - packed.index.nbytes)
    assert {f"{kind} slabs": count for kind, count in packed.stored.items()}.items() <= row.items()
    expected = expectation_from_onnx(path)
    assert (expected.dtype, expected.quantised) == ("float16", {"linear"})
    assert expected.packed_bytes == row["bytes"]


def with_attribute(name, value):
    def change(model):
        (found,) = (each for each in model.graph.node[0].attribute if each.name == name)
        found.CopyFrom(helper.make_attribute(name, value))

    return change


def with_tensor(name, make):
    def change(model):
        (found,) = (each for each in model.graph.initializer if each.name == name)
        found.CopyFrom(numpy_helper.from_array(make(numpy_helper.to_array(found).copy()), name))

    return change


def set_last(array, value):
    array.flat[-1] = value
    return array


FAULTS = {
    "another type": (INT8, with_attribute("weights", "int2"), "weights"),
    "int4 without scales in the slabs": (INT8, with_attribute("weights", "int4"), "must have"),
    "16 bits": (INT8, with_attribute("weights", "float16"), "dense is int32"),
    "panels of 128 rows": (INT8, with_attribute("panel_rows", 128), "must have|no kernel runs"),
    "K of int4": (INT4, with_attribute("in_features", 180), "no multiple of the 64 columns"),
    "K beyond int32": (W8A8, with_attribute("in_features", 131073), "int32 holds sums over 131072 columns"),
    "slabs of n:16 with int8 inputs": (
        INT8,
        with_attribute("weights", "w8a8"),
        "slabs of 8:16, which no kernel runs",
    ),
    "slabs of 6:8 with inputs of 16 bits": (
        W8A8,
        with_attribute("weights", "int8"),
        "slabs of 6:8, which no kernel runs",
    ),
    "bad metadata of 6:8": (
        W8A8,
        with_tensor("meta_n6of8", lambda a: set_last(a, 0)),
        "a group of the 6:8 slabs does not keep 6 weights",
    ),
    "narrow metadata of 6:8": (W8A8, with_tensor("meta_n6of8", lambda a: a[:, :128]), r"must be \[\d, 192\]"),
    "bad metadata of int8 inputs": (
        W8A8,
        with_tensor("meta", lambda a: set_last(a, 0)),
        "not ascending",
    ),
    "too few scales": (
        INT8,
        with_tensor("scales", lambda a: a[:-1]),
        r"scales is \[127\], it must be \[128\]",
    ),
    "scales of 16 bits": (INT8, with_tensor("scales", lambda a: a.astype(np.float16)), "scales is float16"),
    "a scale of NaN": (INT8, with_tensor("scales", lambda a: set_last(a, np.nan)), "a scale is not finite"),
    "a scale of int4 of infinity": (
        INT4,
        with_tensor("dense", lambda a: set_last(a, 0x7C00)),
        "a scale is not finite",
    ),
    "wide slabs": (
        INT4,
        with_tensor("dense", lambda a: np.pad(a, ((0, 0), (0, 1)))),
        "its rows must have 544",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named(tmp_path, fault):
    weights, change, why = FAULTS[fault]
    path, _ = written(tmp_path / "m.onnx", weights, change)
    (found,) = inspect_onnx(path).faults
    assert found.startswith("linear: ")

    assert re.search(why, found), found


@pytest.mark.parametrize(
    ("weights", "name", "value"),
    [(INT8, "weights", "int2"), (INT8, "weights", "w8a8"), (W8A8, "in_features", 131073)],
)
def test_unknown_types_are_refused_unbuilt(tmp_path, weights, name, value):
    path, _ = written(tmp_path / "m.onnx", weights, with_attribute(name, value))
    with refused():
        expectation_from_onnx(path)
