"""Figures that pages repeat agree with quality.json and with performance.md's tables of predictions.

performance.md follows from the planner; another test compares them. Here other pages are compared with it and with the rows
of quality.md, which are in quality.json.
"""

import json
import math
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import patch_compile
from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.masks.kinds.table import TWO_FOUR
from patch_compile.artifacts.prediction import PhaseRow, WholeRow
from patch_compile.errors import SpeedError
from patch_compile.report.number_format import milliseconds, times
from patch_compile.report.prediction import predicted_times
from tests.pages.page import ROOT

ROWS = json.loads((ROOT / "docs/explanation/quality.json").read_text()).values()
ONE_SHOT, EIGHT_MINUTES, REPAIRED, UNIFORM = (
    "oneshot, no repair",
    "oneshot, 8 min in all",
    "oneshot + 30 min of repair",
    "sparsegpt 2:4",
)
STEPS = "oneshot + 13 steps of repair"
AUTO, PERMUTED = ", kinds auto", ", permuted"
RATIOS = (0.25, 0.35, 0.45)


def measured(method: str, ratio: float | None = None) -> list[Any]:
    """Rows of a method, one for each seed."""
    found = [
        row
        for row in ROWS
        if "perplexity" in row
        and (row["method"], row["ratio"], row.get("tile", "64x64")) == (method, ratio, "64x64")
    ]
    assert found, f"{method} at {ratio} was not measured"
    return found


def perplexity(method: str, ratio: float | None = None) -> str:
    """Perplexity of the first seed."""
    first = next(row for row in measured(method, ratio) if not row.get("seed"))
    return f"{first['perplexity']:.1f}"


def table_row(page: str, *cells: str) -> list[str]:
    """The other cells of the only row of a page's tables that begins with these cells."""
    found = [
        row
        for line in (ROOT / page).read_text().splitlines()
        if (row := [cell.strip() for cell in line.strip("|").split("|")])[: len(cells)] == [*cells]
    ]
    assert len(found) == 1, f"{page} has {len(found)} rows {cells}"
    return found[0][len(cells) :]


def predicted(batch: int, weights: str) -> dict[str, str]:
    """Speeds of LLaMA-2-7B at ratio .4 on an A6000."""
    row = table_row("docs/explanation/performance.md", "A6000", str(batch), weights)
    return dict(zip(("ms", "decode", "limit", "of the type", "prefill", "whole"), row, strict=True))


def w8a8(ratio: str, card: str = "A6000", prompts: str = "16 × 512") -> dict[str, str]:
    """Speeds of LLaMA-2-7B in w8a8."""
    row = table_row("docs/explanation/performance.md", card, prompts, ratio)
    names = (
        "ms",
        "linears",
        "linears over w8a8",
        "prefill ms",
        "dense",
        "w8a8",
        "fp8",
        "limit",
    )
    return dict(zip(names, row, strict=True))


def test_the_table_of_the_readme() -> None:
    def row(label: str) -> list[str]:
        return table_row("README.md", label)

    assert row("ratio") == [f"{ratio:.2f}" for ratio in RATIOS]
    shares = [bytes_of(ratio) / BYTES_DENSE for ratio in RATIOS]
    assert row("size of the covered fp16 weights") == [f"{share:.0%}".replace("%", " %") for share in shares]
    speeds = table_row("docs/explanation/performance.md", "A6000", "LLaMA-2-7B")[1:4]
    label = "LLaMA-2-7B on an A6000, **predicted** end to end, batch 16, 128 + 128 tokens"
    assert row(label) == [f"{speed}×" for speed in speeds]
    dense = perplexity("dense")
    label = f"SmolLM2-135M, perplexity on WikiText-2 (dense {dense}), 8 minutes on 2 cores"
    assert row(label) == [perplexity(EIGHT_MINUTES + PERMUTED, ratio) for ratio in RATIOS]
    label = "the same bytes with tiles of all kinds (`--kinds auto`), 8 minutes on 2 cores"
    assert row(label) == [perplexity(EIGHT_MINUTES + AUTO, ratio) for ratio in RATIOS]
    uniform = [row["perplexity"] for row in measured(UNIFORM)]
    assert (
        row("for comparison, uniform 2:4 by SparseGPT (ratio 0.5)")[-1]
        == f"{min(uniform):.0f} … {max(uniform):.0f}"
    )


@pytest.mark.parametrize(
    ("phase", "weights", "card"),
    [
        *(("prefill", "W8A8", card) for card in ("A6000", "A100-80", "RTX 4090", "H100")),
        ("prefill", "fp16", "A6000"),
        ("decode", "int8", "A6000"),
        ("decode", "int4", "A6000"),
    ],
)
def test_the_first_table_of_the_readme(phase: str, weights: str, card: str) -> None:
    """Its speeds and their intervals are what `plan` says, over one dense W8A8 in all rows of a workload."""
    workload = {"prompt_tokens": 512, "generated_tokens": 1} if phase == "prefill" else {"batch_size": 1}

    def planned(ratio: float, weights: str) -> PhaseRow:
        model = ROOT / "samples/configs/llama-2-7b"
        asked = {"ratio": ratio, "weights": weights, "kinds": "2:4", "target": card}
        return patch_compile.plan(model, **asked, **workload).report.whole.end_to_end

    row = planned(0.4, {"W8A8": "w8a8", "fp16": "float16"}.get(weights, weights))
    over_w8a8 = planned(0.0, "w8a8").library_ms / row.planned_ms
    speeds = [times(row.by_types), times(row.by_tiles), times(over_w8a8)]
    fp8 = "–" if row.over_fp8 is None else times(row.over_fp8)
    shown = [cell.replace("**", "") for cell in table_row("README.md", f"{phase}, {weights}, {card}")]
    assert shown == [predicted_times(row), *speeds, fp8]


@pytest.mark.parametrize(
    ("label", "method", "ratio"),
    [
        ("ModelOpt 0.47.0, SparseGPT 2:4", "modelopt 0.47.0, sparsegpt 2:4", None),
        ("llm-compressor 0.14.0.1, SparseGPT 2:4", "llmcompressor 0.14.0.1, sparsegpt 2:4", None),
        ("patch-compile, SparseGPT 2:4", UNIFORM, None),
        ("patch-compile, mosaic, 8 minutes in all", EIGHT_MINUTES + PERMUTED, 0.45),
        ("patch-compile, all kinds, bytes of ratio 0.45", EIGHT_MINUTES + AUTO, 0.45),
    ],
)
def test_the_table_of_tools(label: str, method: str, ratio: float | None) -> None:
    """The table shows medians if a row was measured with several seeds."""
    rows = measured(method, ratio)
    perplexities, seconds = (median(row[name] for row in rows) for name in ("perplexity", "seconds"))
    shown = table_row("docs/explanation/comparison.md", label)[1:]
    assert shown == [f"{perplexities:.1f}", f"{seconds:.0f}"]


def bytes_of(ratio: float) -> float:
    """Bytes of a 16-bit weight in 2:4 and dense tiles."""
    return BYTES_DENSE - 2 * ratio * (BYTES_DENSE - TWO_FOUR.bytes_per_weight)


# Nats over dense with tiles of all kinds, over the nats with 2:4 tiles of the same bytes, permuted too.
LOST_BY_AUTO = [
    math.log(float(perplexity(method + AUTO, ratio)) / float(perplexity("dense")))
    / math.log(float(perplexity(method + PERMUTED, ratio)) / float(perplexity("dense")))
    for method in (ONE_SHOT, EIGHT_MINUTES)
    for ratio in RATIOS
]

# A page, its sentence with a number in each pair of parentheses, and the numbers. White space is one space.
CLAIMS = [
    (
        "docs/explanation/comparison.md",
        (r"W8A8 without pruning is predicted at (\S+) times dense 16 bits and (\S+) times that rival, and with all tiles "
        r"2:4 at (\S+) and ([\d.]+)\."),
        [w8a8("0")["dense"], w8a8("0")["w8a8"], w8a8("0.5")["dense"], w8a8("0.5")["w8a8"]],
    ),
    (
        "docs/explanation/performance.md",
        r"which without pruning reach (\S+): cuBLASLt's",
        [w8a8("0", "A100-80", "1 × 2048")["linears"]],
    ),
    (
        "docs/explanation/performance.md",
        r"tiles 2:4 the linears reach (\S+) and (\S+), with one",
        [w8a8("0.5", "A100-80", load)["linears"] for load in ("1 × 2048", "16 × 512")],
    ),
    (
        "docs/explanation/performance.md",
        r"Whole prompts reach (\S+) and ([\d.]+), and (\S+) and (\S+) over dense W8A8",
        [w8a8("0.5", prompts=one)[over] for over in ("dense", "w8a8") for one in ("1 × 2048", "16 × 512")],
    ),
    (
        "docs/explanation/limits.md",
        r"(\S+) on an A100-80, (\S+) on an A6000, (\S+) on an RTX 4090",
        [
            table_row("docs/explanation/performance.md", card, "16 × 512", "0")[-1]
            for card in ("A100-80", "A6000", "RTX 4090")
        ],
    ),
    (
        "README.md",
        r"dashed line, at perplexity ([\d.]+)\. .* lose least: (\S+) if all are 6:8, (\S+) if half of them are 2:4\.",
        [perplexity("dense, w8a8"), *(perplexity(f"{STEPS}{kinds}, w8a8", 0.25) for kinds in (", kinds 6:8", ""))],
    ),
    (
        "docs/explanation/kinds.md",
        r"perplexity rises to (\S+) if all tiles are 6:8, and to (\S+) if half of them",
        [perplexity(f"{STEPS}{kinds}, w8a8", 0.25) for kinds in (", kinds 6:8", "")],
    ),
    (
        "docs/explanation/kinds.md",
        r"(\S+) instead of (\S+) in as many bytes as 2:4 tiles of ratio 0\.35 take",
        [perplexity(EIGHT_MINUTES + kinds, 0.35) for kinds in (AUTO, PERMUTED)],
    ),
    ("docs/explanation/comparison.md", r"SmolLM2-135M \(dense (\S+)\)", [perplexity("dense")]),
    (
        "docs/explanation/comparison.md",
        r"comes to (\S+) with 8 of its 30 blocks dropped and to (\S+) with 11, and to (\S+) as a mosaic of ratio \.35\.",
        [perplexity("dropped blocks", 0.25), perplexity("dropped blocks", 0.35), perplexity(ONE_SHOT, 0.35)],
    ),
    (
        "docs/howto/choosing.md",
        r"SmolLM2-135M \(dense (\S+)\) the first gives (\S+) and the second ([\d.]+),",
        [perplexity("dense"), *(perplexity(EIGHT_MINUTES + kinds, 0.25) for kinds in (PERMUTED, AUTO))],
    ),
    (
        "docs/howto/choosing.md",
        r"8 minutes in all: (\S+) at \.25, (\S+) at \.35, (\S+) at \.45, from ([\d.]+)\. ",
        [*(perplexity(EIGHT_MINUTES + PERMUTED, ratio) for ratio in RATIOS), perplexity("dense")],
    ),
    (
        "docs/howto/choosing.md",
        r"SmolLM2-135M loses (\S+) to (\S+) times as many nats with `auto`",
        [f"{one:.2f}".lstrip("0") for one in (min(LOST_BY_AUTO), max(LOST_BY_AUTO))],
    ),
    ("docs/howto/your-model.md", r"makes the prefill (\S+)× as fast", [predicted(16, "float16")["prefill"]]),
    (
        "docs/howto/choosing.md",
        r"kinds: auto, predicted (\S+)× end to end; 2:4 would reach (\S+)×",
        [table_row("docs/howto/your-model.md", "A6000")[2], predicted(16, "float16")["whole"]],
    ),
    (
        "docs/howto/calibration.md",
        r"perplexity (\S+) instead of (\S+) at ratio \.35 on SmolLM2-135M, without repair",
        [perplexity(f"{ONE_SHOT}, self-written text", 0.35), perplexity(ONE_SHOT, 0.35)],
    ),
    (
        "docs/howto/calibration.md",
        r"at ratio \.45 half an hour takes SmolLM2-135M from (\S+) to ([\d.]+), and eight minutes in all to ([\d.]+)\.",
        [perplexity(method, 0.45) for method in (ONE_SHOT, REPAIRED, EIGHT_MINUTES)],
    ),
    (
        "docs/howto/accuracy.md",
        r"(\S+) instead of (\S+) on SmolLM2-135M at the bytes of ratio \.35, without repair",
        [perplexity(ONE_SHOT + AUTO, 0.35), perplexity(ONE_SHOT + PERMUTED, 0.35)],
    ),
    (
        "docs/howto/accuracy.md",
        r"of a decoder.s feed-forward parts: (\S+) becomes ([\d.]+)\.",
        [perplexity(ONE_SHOT, 0.35), perplexity(ONE_SHOT + PERMUTED, 0.35)],
    ),
    (
        "docs/explanation/learning.md",
        (r"`auto` reaches (\S+) at these bytes in 5 minutes on two cores, without repair, where 2:4 tiles reach ([\d.]+); "
        r"with repair, in 8 minutes in all, ([\d.]+), where 2:4 tiles reach ([\d.]+)\."),
        [perplexity(method + kinds, 0.45) for method in (ONE_SHOT, EIGHT_MINUTES) for kinds in (AUTO, PERMUTED)],
    ),
    (
        "docs/explanation/learning.md",
        r"33 steps took SmolLM2-135M from (\S+) to (\S+) perplexity, and half an hour on a CPU with AMX to ([\d.]+)\.",
        [perplexity(method, 0.45) for method in (ONE_SHOT, EIGHT_MINUTES, REPAIRED)],
    ),
    (
        "docs/explanation/learning.md",
        r"`oneshot` without repair from (\S+) to (\S+) at \.35 and from (\S+) to (\S+) at \.25",
        [perplexity(ONE_SHOT + permuted, ratio) for ratio in (0.35, 0.25) for permuted in ("", PERMUTED)],
    ),
    (
        "docs/howto/learning.md",
        r"costs quality: (\S+) instead of (\S+) at ratio \.35 without repair",
        [perplexity(f"{ONE_SHOT}, self-written text", 0.35), perplexity(ONE_SHOT, 0.35)],
    ),
    ("docs/howto/learning.md", r"16 windows of 1024 tokens, dense ([\d.]+);", [perplexity("dense")]),
]  # fmt: skip


@pytest.mark.parametrize(("page", "sentence", "figures"), CLAIMS)
def test_a_figure_in_a_sentence(page: str, sentence: str, figures: list[str]) -> None:
    text = " ".join((ROOT / page).read_text().split())
    found = re.findall(sentence, text)
    assert [list(one) if isinstance(one, tuple) else [one] for one in found] == [figures], page


def test_the_comparison_shows_what_plan_predicts() -> None:
    """Speeds of decoding, and the most that is predicted for an encoder, are what a reader's own command says."""
    page, llama, bert = (
        "docs/explanation/comparison.md",
        "samples/configs/llama-2-7b",
        "samples/configs/bert-base",
    )

    def decode(ratio: float, weights: str | None = None) -> PhaseRow:
        asked = {"ratio": ratio, "weights": weights, "target": "a6000", "batch_size": 1}
        found = patch_compile.plan(ROOT / llama, **asked).report.whole
        assert found is not None
        return found.decode

    dense, mosaic = ({kind: decode(ratio, kind) for kind in (None, "int8", "int4")} for ratio in (0.0, 0.4))
    over = {kind: f"{dense[kind].planned_ms / mosaic[kind].planned_ms:.2f}" for kind in dense}
    for sentence, figures in (
        (
            r"dense int8 to decode (\S+) times as fast as 16 bits, and ratio \.4 in 16 bits (\S+) times",
            [f"{dense['int8'].speedup:.2f}", f"{mosaic[None].speedup:.2f}"],
        ),
        (
            r"are predicted at (\S+), which is (\S+) times as fast as dense int8. Over dense int4 .* ratio brings (\S+)\.",
            [f"{mosaic['int8'].speedup:.2f}", over["int8"], over["int4"]],
        ),
    ):
        test_a_figure_in_a_sentence(page, sentence, figures)
    workload = {"target": "a100-40", "batch_size": 64, "prompt_tokens": 128}
    with pytest.raises(SpeedError) as refused:
        patch_compile.plan(ROOT / bert, speedup=9, **workload)
    whole = patch_compile.plan(ROOT / bert, ratio=0.5, **workload).report.whole
    assert whole is not None
    most = times(whole.prefill.dense_ms / refused.value.fastest)
    test_a_figure_in_a_sentence(page, r"here (\S+) is the most that is predicted for it", [most])


def test_a_decision_shows_what_plan_predicts() -> None:
    """Speed of prompts of LLaMA-2-7B in w8a8 with a quarter of the weights zeroed, over dense tiles."""

    def milliseconds_of(card: str, ratio: float, kind: str) -> float:
        found = patch_compile.plan(
            ROOT / "samples/configs/llama-2-7b", ratio=ratio, kinds=kind, weights="w8a8", lowering="plugin",
            target=card, batch_size=1, prompt_tokens=2048, generated_tokens=1,
        ).report.whole  # fmt: skip
        assert found is not None
        return found.prefill.planned_ms

    cards = ("a100-80", "a6000", "rtx4090")
    dense = [milliseconds_of(card, 0.0, "2:4") for card in cards]
    for kind, sentence in (
        ("6:8", r"All tiles 6:8 are (\S+) times as fast on an A100-80, (\S+) on an A6000 and (\S+) on an RTX 4090"),
        ("2:4", r"lose almost three times as much, are (\S+), (\S+) and (\S+) times as fast"),
    ):  # fmt: skip
        times = [
            f"{time / milliseconds_of(card, 0.25, kind):.2f}" for card, time in zip(cards, dense, strict=True)
        ]
        test_a_figure_in_a_sentence("docs/explanation/decisions/0017-six-of-eight.md", sentence, times)


@pytest.mark.parametrize("card", ["A6000", "RTX 4090", "H100"])
def test_your_model_shows_what_plan_predicts(card: str) -> None:
    page = (ROOT / "docs/howto/your-model.md").read_text()
    (row,) = re.findall(rf"^\| {card} \| (.*) \|$", page, re.MULTILINE)

    def whole(weights: str | None) -> WholeRow:
        asked = {"ratio": 0.4, "target": card.replace(" ", ""), "weights": weights}
        found = patch_compile.plan(ROOT / "samples/configs/llama-2-7b", **asked).report.whole
        assert found is not None
        return found

    plain = whole(None)
    times = [phase.speedup for phase in (plain.prefill, plain.decode, plain.end_to_end)]
    times += [plain.end_to_end.limit, *(whole(kind).end_to_end.speedup for kind in ("int8", "int4"))]
    assert row.removesuffix(", without pruning") == " | ".join(f"{one:.2f}" for one in times)


def encoders() -> list[list[str]]:
    text = (ROOT / "docs/howto/latency.md").read_text()
    rows = re.findall(r"^\| ((?:BERT|MiniLM).*) \|$", text, re.MULTILINE)
    assert len(rows) == 12
    return [row.split(" | ") for row in rows]


@pytest.mark.parametrize("row", encoders(), ids=lambda row: " ".join(row[:3]))
def test_the_table_of_encoders_is_predicted(row: list[str], tmp_path: Path) -> None:
    name, card, load, dense, *speedups, most = row
    config = json.loads((ROOT / "samples/configs/bert-base/config.json").read_text())
    small = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
    (tmp_path / "config.json").write_text(json.dumps(config | (small if name == "MiniLM-L6" else {})))
    batch, prompt = map(int, load.split(" × "))
    asked: dict[str, Any] = {"target": card, "batch_size": batch, "prompt_tokens": prompt}
    for ratio, speedup in zip((0.0, 0.5), speedups, strict=True):
        found = patch_compile.plan(tmp_path, ratio=ratio, weights="w8a8", lowering="plugin", **asked)
        whole = found.report.whole
        assert whole is not None
        assert [milliseconds(whole.prefill.dense_ms), times(whole.prefill.speedup)] == [dense, speedup]
    with pytest.raises(SpeedError) as refused:
        patch_compile.plan(tmp_path, speedup=9, **asked)
    assert whole is not None and times(whole.prefill.dense_ms / refused.value.fastest) == most
