"""The roofline stays within the limits, has the plugin's schedule, and agrees with the page."""

import importlib
import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from masklearn.quant.table import FLOAT16
from patch_compile.artifacts.plan import Way
from patch_compile.hardware.cards import rated_cards
from patch_compile.packing.fusion import FUSIONS
from patch_compile.pipeline.plan import plan
from patch_compile.planning.roofline import assumptions, linear_roofline, schedule
from patch_compile.planning.roofline.choice import choose_schedule, limits_of
from patch_compile.recipe import Recipe
from tests.planning.llama import write_hollow_llama
from tests.plugins.host_kernel import BENCH
from tests.refusals import refused

sys.path.insert(0, str(BENCH))
problems, roofline = (importlib.import_module(name) for name in ("problems", "roofline"))

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/explanation/performance.md"
SHARES = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
SHAPES = problems.SHAPES
LARGE = [(4096, 4096), (11008, 4096), (4096, 11008), (14336, 4096), (4096, 14336)]
DEVICES = {card.name: card for card in rated_cards()}
AMPERE_AND_ADA = [d for d in DEVICES.values() if d.sm != 90]
HOPPER = [d for d in DEVICES.values() if d.sm == 90]


def whole(device, ratio, model="LLaMA-2-7B", fuse=tuple(FUSIONS), **changes):
    assume = replace(assumptions.ASSUMED, **changes)
    return roofline.predict_model(DEVICES[device], roofline.MODELS[model], ratio, assume=assume, fuse=fuse)


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda d: d.name)
def test_no_prediction_exceeds_the_limits(device):
    shares, rows = (0.0, 0.3, *SHARES), (64, 128)
    for shape, tokens, share, height in itertools.product(SHAPES, problems.TOKENS, shares, rows):
        problem = linear_roofline.Linear(*shape, share, height).problem(tokens)
        p = linear_roofline.predict(device, linear_roofline.Linear(*shape, share, height), tokens)
        # the share is rounded to whole slabs
        exact = problem.slabs[1] / sum(problem.slabs)
        assert 0 < p.speedup <= linear_roofline.speedup_limit(exact, p.dense_bound) + 1e-9
        assert p.speedup <= 1 / (1 - exact / 2) + 1e-9 and 0 < p.share < 1


def times_by_share(device, shape, tokens, config=None):
    return [
        linear_roofline.predict(device, linear_roofline.Linear(*shape, share), tokens, config).microseconds
        for share in np.linspace(0, 1, 11)
    ]


def tall_configs(weights):
    """Numbers of the configurations for panels of 128 rows of one type of weights."""
    return [n for n, c in enumerate(schedule.CONFIGS) if c.panel_rows == 128 and c.weights is weights]


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda d: d.name)
def test_more_sparse_slabs_are_never_slower(device):
    """This holds in the plugin's schedule for few tokens, and in each kernel for many tokens."""
    for shape, tokens in itertools.product(LARGE, (1, 8, 16)):
        times = times_by_share(device, shape, tokens)
        assert times == sorted(times, reverse=True)
    tiles = [n for n in tall_configs(FLOAT16) if not schedule.CONFIGS[n].streams]
    for shape, tokens, config in itertools.product(LARGE, (2048, 4096), tiles):
        if schedule.CONFIGS[config].shared_bytes <= limits_of(device).shared_bytes:
            times = times_by_share(device, shape, tokens, config)
            assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("device", AMPERE_AND_ADA, ids=lambda d: d.name)
def test_dense_slabs_lose_only_overhead(device):
    """Bytes and products are equal, so only the index, sums of shared tiles, whole tiles and issue slots cost more."""
    for shape in LARGE:
        decode = linear_roofline.predict(device, linear_roofline.Linear(*shape, 0.0), 16)
        assert 0 < decode.microseconds - decode.dense_microseconds < 4
        assert decode.speedup > 0.87
        assert 0.8 < linear_roofline.predict(device, linear_roofline.Linear(*shape, 0.0), 4096).speedup <= 1.0


@pytest.mark.parametrize("device", HOPPER, ids=lambda d: d.name)
def test_hopper_prefills_by_the_faster_way(device):
    names = [c.name for c in schedule.CONFIGS]
    for shape, share, tokens in itertools.product(LARGE, SHARES, (512, 2048, 4096, 16384)):
        asked = linear_roofline.Linear(*shape, share)
        prefill = linear_roofline.predict(device, asked, tokens)
        chosen = choose_schedule(asked.problem(tokens), limits_of(device))[0]
        ways = (
            linear_roofline.predict(device, asked, tokens, chosen).microseconds,
            linear_roofline.dense_path_time(device, asked, tokens),
        )
        assert prefill.microseconds == min(ways)
        by_kernels = prefill.config in names
        assert by_kernels == (ways[0] <= ways[1])
        if prefill.slower is None:
            assert by_kernels and (prefill.speedup >= 1 or prefill.bound in ("bytes", "launch"))
        else:
            assert prefill.slower.way is (Way.MMA_SP if by_kernels else Way.DENSE_PATH)
            assert prefill.slower.speedup == pytest.approx(prefill.speedup)
    for shape, share in itertools.product(LARGE, SHARES):
        decode = linear_roofline.predict(device, linear_roofline.Linear(*shape, share), 16)
        assert decode.config in names and decode.slower is None and (share < 0.5 or decode.speedup > 0.9)
    model = whole(device.name, 0.35)
    assert model.slower.way is Way.DENSE_PATH and 0.75 <= model.slower.speedup < 0.9
    assert model.times.decode.speedup > 1 > model.times.prefill.speedup


def test_a_configuration_of_another_panel_height_is_refused():
    names = [c.name for c in schedule.CONFIGS]
    shape = linear_roofline.Linear(4096, 4096, 0.5)
    found = linear_roofline.predict(DEVICES["A6000"], shape, 16, names.index("mid-128"))
    assert found.config == "mid-128"
    with refused(ValueError):
        linear_roofline.predict(DEVICES["A6000"], shape, 16, names.index("mid-64"))


def test_the_page_is_current():
    """When this fails, run `make docs`."""
    page = PAGE.read_text()
    assert page.splitlines()[2].startswith("Not yet run on hardware")
    assert roofline.renewed(page) == page


QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("target", "lowering"), [("A100-80", "plugin"), ("A100-80", "auto"), ("h100", "auto")]
)
def test_command_and_page_predict_alike(tmp_path, target, lowering):
    """One predictor: the page has the figures of `patch-compile plan` for 2:4 tiles."""
    model = write_hollow_llama(tmp_path / "qwen", QWEN)
    (row,) = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in PAGE.read_text().splitlines()
        if re.match(rf"\| {target} \| Qwen2.5-0.5B \|", line, re.IGNORECASE)
    )
    for i, ratio in enumerate(roofline.RATIOS):
        settings = {"model": model, "target": target, "lowering": lowering, "ratio": ratio, "kinds": "2:4"}
        said = plan(Recipe.parse(settings)).whole
        on_page = row[3 + i] if lowering == "plugin" else row[-1].split(" / ")[i]
        assert f"{said.end_to_end.speedup:.2f}" == on_page
        assert f"{said.end_to_end.dense_ms:.0f}" == row[2]
        if lowering == "plugin":
            assert f"{said.decode.speedup:.2f}" == row[6].split(" / ")[i]


def test_the_readme_says_what_the_predictor_says():
    lines = (ROOT / "README.md").read_text().partition("| ratio | 0.25 | 0.35 | 0.45 |")[2].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    size, predicted = (
        next(row[1:] for row in rows if row[0].startswith(name))
        for name in ("size", "LLaMA-2-7B on an A6000")
    )
    kept = [
        1 - 0.4375 * 2 * ratio for ratio in roofline.RATIOS
    ]  # bytes of a mosaic over bytes of a dense weight
    assert size == [f"{100 * share:.0f} %" for share in kept]
    assert predicted == [f"{whole('A6000', ratio).speedup:.2f}×" for ratio in roofline.RATIOS]


def test_it_needs_nothing_heavy():
    code = (
        "import sys, roofline; print(sorted({'torch', 'transformers', 'onnx', 'onnx_ir'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCH, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
