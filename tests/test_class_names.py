"""A class name stands for one thing in all of the product code."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_public_class_name_is_defined_once() -> None:
    sources = [
        path.read_text() for room in ("masklearn", "patch_compile") for path in (ROOT / room).rglob("*.py")
    ]
    names = Counter(
        name for source in sources for name in re.findall(r"^class ([A-Z]\w*)", source, re.MULTILINE)
    )
    assert len(names) > 200
    assert [name for name, count in names.items() if count > 1] == []
