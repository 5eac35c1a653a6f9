"""TensorRT times tactics at one shape of a profile: what wins there must not rule the profile's other shapes."""

import ctypes

import pytest

from tests.plugins.dense_path_cases import MARKS, large
from tests.plugins.dense_plugin import A100, DENSE_PATH, H100, Linear, Tensors
from tests.plugins.host_kernel import Device, problem_of

pytestmark = MARKS

AUTO = 1  # kAutoTactic
MOST = 8192
TOKENS = (1, 16, 256, 1024, MOST)
DECODE = ("decode-64", "decode-128")
SHAPES = [((4096, 4096), 128, 0), ((11008, 4096), 128, 1), ((896, 896), 64, 0)]


def timed_by(plugin, builder, linear, winner):
    """Stand in for TensorRT's timing: run every tactic that is offered, and set the `winner`th."""
    offered = plugin.tactics(builder)
    for tactic in offered:
        timed = ctypes.c_void_p(plugin.lib.patch_plugin_clone(builder))
        assert plugin.set_tactic(timed, tactic) == 0 and plugin.shapes(timed, linear) == 0
        plugin.lib.patch_plugin_delete(timed)
    assert plugin.set_tactic(builder, offered[winner % len(offered)]) == 0
    return offered


def configuration(plugin, context, linear):
    """Run a linear; returns the name's number of the configuration that was launched."""
    tensors = Tensors.at(
        dict.fromkeys(("x", "dense", "sparse", "meta", "y", "workspace"), 1 << 20)
    )  # no kernel follows them
    assert plugin.shapes(context, linear) == 0
    assert plugin.lib.patch_plugin_enqueue(context, ctypes.byref(linear), ctypes.byref(tensors), None) == 0
    return int(plugin.lib.patch_plugin_scheduled())


@pytest.mark.parametrize("opt", TOKENS)
@pytest.mark.parametrize("winner", [0, 1, 2])
@pytest.mark.parametrize(("shape", "rows", "gated"), SHAPES)
def test_no_timing_gives_a_prompt_a_decode_configuration(
    load, driver, kernel, shape, rows, gated, winner, opt
):
    """Nor does decode get a kernel for prompts: each shape runs the schedule's choice for it, whatever won at opt."""
    plugin, configs = load(driver), kernel.configs()
    for device in (A100, Device(84, 99 << 10, 6 << 20, 4369, 86)):
        plugin.device(device)
        builder = plugin.configured(large(MOST, shape, rows, gated), timed=opt)
        timed_by(plugin, builder, large(opt, shape, rows, gated), winner)
        engine = plugin.new(large(MOST, shape, rows, gated))
        assert plugin.set_tactic(engine, AUTO) == 0
        for tokens in (*TOKENS, *reversed(TOKENS)):
            linear = large(tokens, shape, rows, gated)
            names = [list(configs)[configuration(plugin, made, linear)] for made in (builder, engine)]
            problem = problem_of(tokens, shape, rows, linear.slabs.of, gated)
            chosen = list(configs)[kernel.schedule(problem, device)[0]]
            assert names == [chosen, chosen]
            if tokens == MOST:
                assert chosen not in DECODE and configs[chosen].tokens >= 64
            if tokens == 1:
                assert chosen in DECODE
    assert plugin.messages() == []


@pytest.mark.parametrize(
    ("opt", "offered"), [(1, [DENSE_PATH]), (256, [DENSE_PATH]), (MOST, [AUTO, DENSE_PATH])]
)
def test_untaken_dense_paths_are_not_timed(load, driver, opt, offered):
    """Elsewhere its tactic does the same as the automatic tactic, and noise would decide about prompts."""
    plugin, linear = load(driver), large(MOST)
    plugin.device(H100)
    builder = plugin.configured(linear, timed=opt)
    assert timed_by(plugin, builder, large(opt), 0) == offered
    copy = ctypes.c_void_p(plugin.lib.patch_plugin_clone(builder))
    assert plugin.tactics(copy) == offered
    assert plugin.workspace(builder, linear) > 32 << 20
    assert plugin.tactics(plugin.configured(large(256), timed=256)) == [AUTO]


def test_dense_path_engines_decode_with_kernels(load, driver, kernel):
    plugin = load(driver)
    plugin.device(H100)
    engine = plugin.new(large(MOST))
    assert plugin.set_tactic(engine, DENSE_PATH) == 0
    for tokens in (1, 16):
        assert list(kernel.configs())[configuration(plugin, engine, large(tokens))] in DECODE
    assert plugin.launched() == [2, 0, 0]


def test_builders_without_gpu_offer_one_tactic(load, driver):
    plugin = load(driver)
    plugin.device(Device())
    for linear in (large(MOST), Linear.from_buffer_copy(large(1))):
        assert plugin.tactics(plugin.configured(linear)) == [AUTO]
