"""Nodes of another version of PatchLinear are refused by name."""

from patch_compile.packing.function import VERSION
from patch_compile.packing.version import version_fault


def test_a_node_without_a_version_is_the_functions_own():
    assert version_fault(None) == version_fault(str(VERSION)) == ""
    assert version_fault("3") == "it is a PatchLinear of version '3', and '2' is read here: build it again"
    assert version_fault(VERSION) != "" and len(version_fault("x" * 10_000)) < 200
