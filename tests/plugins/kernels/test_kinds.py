"""The kernels' table of kinds, kinds.h, has the kinds of masks, in the same order and of the same sizes."""

import re

from masklearn.masks.kinds.table import KINDS
from tests.plugins.host_kernel import PLUGINS

_ROW = re.compile(r'\{"([\w:]+)", (\d+), (\d+)\}')


def test_both_tables_have_the_same_kinds():
    rows = _ROW.findall((PLUGINS / "kernels" / "kinds.h").read_text())
    assert [name for name, _, _ in rows] == [kind.name for kind in KINDS]
    for (name, values, extra), kind in zip(rows, KINDS, strict=True):
        # kinds.h counts in units of 8 bytes, for one row of a slab of 64 columns.
        assert (int(values) + int(extra)) * 8 == 64 * kind.bytes_per_weight, name
        assert int(values) == 16 * kind.kept // kind.group, name
