"""The kernels' tables of kinds, kinds.h, have the kinds of masks, in the same order and of the same sizes."""

import re

import pytest

from masklearn.quant.table import FLOAT16, W8A8
from patch_compile.planning.roofline.schedule import kinds_of
from tests.plugins.host_kernel import PLUGINS

_ROW = re.compile(r'\{"([\w:]+)", (\d+), (\d+)\}')


@pytest.mark.parametrize(("table", "weights"), [("kKinds", FLOAT16), ("kByteKinds", W8A8)])
def test_both_tables_have_the_same_kinds(table, weights):
    text = (PLUGINS / "kernels" / "kinds.h").read_text()
    (rows,) = re.findall(rf" {table}\[\] = \{{(.*?)\}};", text, re.DOTALL)
    found = [(name, int(values), int(extra)) for name, values, extra in _ROW.findall(rows)]
    kinds = kinds_of(weights)
    assert [name for name, _, _ in found] == [kind.name for kind in kinds]
    for (name, values, extra), kind in zip(found, kinds, strict=True):
        # Of one row of a slab of 64 columns, values are counted for each 16 columns, and extra are bytes.
        assert values * 4 * weights.bits // 8 + extra == 64 * kind.bytes_of(weights), name
        assert values == 16 * kind.kept // kind.group, name
