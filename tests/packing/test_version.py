"""Nodes and engines of another version of PatchLinear are refused by name, with the command that builds them again."""

from pathlib import Path

import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.packing.function import VERSION
from patch_compile.packing.version import version_fault
from patch_compile.runtime.engine_fit import EngineFacts, host_code


def test_a_node_without_a_version_is_the_functions_own():
    assert version_fault(None) == version_fault(str(VERSION)) == ""
    assert version_fault("1") == "it is a PatchLinear of version '1', and '2' is read here: build it again"
    assert version_fault(VERSION) != "" and len(version_fault("x" * 10_000)) < 200


def test_an_engine_of_version_1_is_refused_before_its_code_runs():
    engine = Path("out/engine/model.engine")
    for trust in (False, True):
        with pytest.raises(PatchCompileError, match="holds PatchLinears of version 1") as refused:
            host_code(EngineFacts(engine, "tensorrt-rtx", "1.7", (), True, None, 1), trust=trust)
        assert "`patch-compile build --recipe OUT/recipe.yaml`" in str(refused.value.fix)
    # One without PatchLinears runs without a plugin, whatever its record says.
    assert host_code(EngineFacts(engine, "tensorrt-rtx", "1.7", (), False, None, 1)).plugin is None
