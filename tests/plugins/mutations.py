"""Copies of the plugin's sources with one bug, which a test must notice."""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.host_kernel import PLUGINS

AS_IT_IS = "as it is"
Mutation = tuple[str, str, str]  # file, correct text, text with the bug


def named(mutations: Mapping[str, Mutation], often: Collection[str]) -> list[Any]:
    """Test parameters: every mutation's name and the unchanged sources; only `make mutate` runs mutations not in `often`."""
    assert set(often) <= {AS_IT_IS, *mutations}
    return [
        pytest.param(name, marks=[] if name in often else pytest.mark.mutation)
        for name in (AS_IT_IS, *mutations)
    ]


def broken_copy(folder: Path, parts: Collection[str], mutation: Mutation | None) -> Path:
    """Copy folders of the plugin and put the bug in; the text that it replaces must occur exactly once."""
    plugins = folder / "plugins"
    for part in parts:
        shutil.copytree(PLUGINS / part, plugins / part)
    if mutation is not None:
        file, before, after = mutation
        text = (plugins / file).read_text()
        assert text.count(before) == 1, "the mutation no longer fits the source"
        (plugins / file).write_text(text.replace(before, after))
    return plugins
