"""A plugin with some of the kernels: what it holds and says, and the engines that it refuses."""

import re
import subprocess
from contextlib import suppress

import pytest

from patch_compile.plugin.build import build_plugin
from patch_compile.plugin.compiling import plugin_cache, units
from patch_compile.plugin.identity import read_identity
from patch_compile.plugin.kernels import KERNELS, kernel_source, parse_kernels, spell_kernels
from patch_compile.plugin.toolchain import plugin_sources
from tests.plugins.configs import ALL
from tests.plugins.dense_path_cases import FAILS, MARKS
from tests.plugins.dense_plugin import Linear
from tests.plugins.mosaic_cases import make_case

SOME = ("half", "int8_half")
OF_INT8 = "int8-"
OF_OTHER_GROUPS = ("all-", "int8-", "w8a8-", "int4-")


def test_every_source_of_configurations_is_a_group():
    files = {unit.name for unit in units(plugin_sources() / "kernels") if unit.suffix == ".cu"}
    assert files - {kernel_source(group) for group in KERNELS} == {"launch_dense_path.cu"}
    assert {kernel_source(group) for group in KERNELS} < files


def test_identities_spell_all_kernels_in_a_word():
    assert spell_kernels(KERNELS) == "all" and parse_kernels("all") == KERNELS
    assert parse_kernels(spell_kernels(SOME[::-1])) == SOME


@pytest.fixture(scope="module")
def with_some(library_cache):
    """Linked from the objects of the plugin that the other tests take, so that no kernel is compiled again."""
    full = build_plugin("tensorrt-rtx")
    assert set(full.kernels) == set(KERNELS)
    (cache := library_cache / "some-kernels").mkdir(exist_ok=True)
    for folder in (*plugin_cache().glob("kernels-*"), *plugin_cache().glob("headers-*")):
        with suppress(FileExistsError):
            (cache / folder.name).symlink_to(folder)
    made = build_plugin("tensorrt-rtx", kernels=SOME, cache_dir=cache)
    said = []
    assert build_plugin("tensorrt-rtx", kernels=SOME[:1], cache_dir=cache, log=said.append) == made
    assert said == [], "the library with more kernels was not taken"
    return made


needs_tools = MARKS[0]


@needs_tools
def test_a_library_holds_the_kernels_it_names(with_some):
    assert with_some.kernels == SOME == read_identity(with_some.path).kernels
    said = subprocess.run(["nm", "-C", with_some.path], capture_output=True, text=True, check=True).stdout
    found = set(re.findall(r"patch::patch_(?:stream|tiles)<patch::(\w+), (\d+)>", said))
    assert {scalar for scalar, _ in found} == {"Half"}
    held = {ALL[int(number)] for _, number in found}
    assert held == {name for name in ALL if not name.startswith(OF_OTHER_GROUPS) or name.startswith(OF_INT8)}


@needs_tools
@pytest.mark.rtx
@pytest.mark.parametrize(
    ("variant", "lacking"),
    [
        ("fp16", ""),
        ("int8-gated-kinds", ""),
        ("bf16", "X of bfloat16 and weights of bfloat16 in slabs of the kinds dense,2:4;"),
        ("int4-gated", "X of float16 and weights of int4"),
        ("w8a8", "X of float16 and weights of w8a8"),
        ("kinds", "X of float16 and weights of float16 in slabs of the kinds dense,2:4,8:16"),
    ],
)
def test_engines_of_other_kernels_are_refused(with_some, session, variant, lacking):
    got = session("build", variant, with_some.path)
    assert got["built"] is not bool(lacking)
    said = "this plugin was compiled for other engines: it has no kernels for "
    assert [error for error in got["errors"] if said + lacking in error] if lacking else got["errors"] == []


@needs_tools
def test_a_run_without_its_kernels_is_refused(load, driver):
    """An engine may meet a library that was compiled for another one."""
    plugin, case = load(driver), make_case(3, (264, 328), 64)
    linear = Linear.of(case)
    plugin.lib.patch_plugin_lacks(0, KERNELS.index("int8_half"))
    assert plugin.shapes(plugin.configured(linear), linear) == 0 and plugin.messages() == []
    context = plugin.new(linear)
    plugin.lib.patch_plugin_lacks(0, KERNELS.index("half"))
    assert plugin.shapes(context, linear) == FAILS == plugin.configure(plugin.new(linear), linear)
    assert ["no kernels for X of float16" in line for line in plugin.messages()] == [True, True]
