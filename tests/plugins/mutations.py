"""Sources of the plugin with one bug put in, for tests that must notice it."""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.host_kernel import PLUGINS

AS_IT_IS = "as it is"
Mutation = tuple[str, str, str]  # file, what stands there, what the bug makes of it


def named(mutations: Mapping[str, Mutation], often: Collection[str]) -> list[Any]:
    """Parameters for the names of all, and of the sources as they are; those not in `often` are for `make mutate`."""
    assert set(often) <= {AS_IT_IS, *mutations}
    return [
        pytest.param(name, marks=[] if name in often else pytest.mark.mutation)
        for name in (AS_IT_IS, *mutations)
    ]


def broken_copy(folder: Path, parts: Collection[str], mutation: Mutation | None) -> Path:
    """Folders of the plugin copied there, with the bug; what it replaces must stand in its file exactly once."""
    plugins = folder / "plugins"
    for part in parts:
        shutil.copytree(PLUGINS / part, plugins / part)
    if mutation is not None:
        file, before, after = mutation
        text = (plugins / file).read_text()
        assert text.count(before) == 1, "the mutation no longer fits the source"
        (plugins / file).write_text(text.replace(before, after))
    return plugins
