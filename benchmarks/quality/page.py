"""Writes the page of the quality benchmark: tables in Markdown of the rows that `benchmarks.quality.run` measured."""

import argparse
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from benchmarks.quality.entries import ALL_KINDS, BYTES, NO_REPAIR, NOT_DEPLOYABLE, entries_of_large
from benchmarks.quality.frontier import HIGHEST
from benchmarks.quality.large_model import ABOUT, speeds, table

Row = Mapping[str, Any]
_OWN = "own ratio"
_PACKAGES = ("torch", "transformers", "accelerate", "numpy")
_BUDGETS = (5, 10, 45)  # minutes
_WHAT = """A row is a process of its own: its memory is its own, and its seconds cover learning (text, scores,
solve, training) without evaluation; a repair goes on from what the row without repair left, and its time and memory
count as its own. Seconds depend on what else the machine does. Perplexity is exp of the mean negative
log-likelihood; the evaluation text is never calibrated or trained on. Repair "with labels" learns the calibration
text's own tokens as well, which lowers perplexity while the divergence from the dense model ends higher than without:
such rows are not to be compared with the others."""
_PICTURE = f"""Marks are rows of the tables below, at the median of their seeds. Full marks multiply in int8 (W8A8), empty
marks in fp16. Tiles in fp16 were learned for 8 minutes in all and permuted, tiles in W8A8 were repaired in 13 steps.
Rows above {HIGHEST:g} lie at the upper edge and say their perplexities. Speeds are predicted, not measured, and for a large
model whose linears have the same shares of kinds: the model of the tables is too small to gain. Dense W8A8 has the time of
other programs' kernels.
Made by `python -m benchmarks.quality.frontier`; with `--check` it says if the picture shows the rows."""
_KINDS = """`kinds auto`: tiles of all kinds, in as many bytes as dense and 2:4 tiles take at the ratio of the column
([learning.md](../howto/learning.md#kinds-of-tiles)); another share of the weights is zeroed. These rows are permuted, as
a build for decoding is. Rows with `int8` or `int4` have weights of that type, and the tiles of a 16-bit row."""
_BYTES = """The next table shows what `w8a8` costs over 16 bits, with the same masks and the same number of repair steps.
Weights and masks are learned in 16 bits, then smoothed, repaired and rounded. `learn --weights w8a8` scores the smoothed
model, and so takes other tiles."""
_BEYOND = """The dense model's row has losses in nats per token, other rows the nats more, on the first 8,192 tokens of each
text: this text is the page's, the other column has the name of its file. Frequent tokens are half of the calibration text,
rare tokens are in it twice at most. Calibration error: how far the probability of the likeliest token is from the share of
right guesses, on average; sure when wrong: that probability where the guess is wrong. Choice and continuation: shares of
right answers of the built-in tasks, 64 and 60 questions, whose standard error is 6 %. By
`python -m benchmarks.quality.beyond`."""
_FOUND = """What this says about kinds:

- Perplexity is a fair guide to the choice of kinds. After 8 minutes `kinds auto` keeps 99, 100 and 93 % of the dense
  model's right answers at the bytes of .25, .35 and .45, and loses as much in windows of 4,096 tokens as in windows of
  1,024. Dense int4 is as near the dense model as `kinds auto` at .25, and nearer on GSM8K. Uniform 2:4 keeps 78 %, and
  loses .08 nats more in the long windows. Tasks do not fall further than perplexity suggests, as far as 124 short
  questions can tell: a few answers more or less may be chance, and none asks for steps of reasoning.
- Repair takes from the loss on GSM8K half of what it takes from the loss on this text, and in 13 steps with 6:8 tiles
  nothing: calibrate on text of the domain that the model will work in.
- Rare tokens lose 1.5 to 1.9 times what frequent tokens lose with n:16 tiles, and 2.2 times with uniform 2:4, so names and
  numbers suffer before common words. 6:8 tiles of `w8a8` lose as much on both."""
_MODELS = {
    "qwen2.5-coder-1.5b": "its weights were Q4_K and Q6_K before they were converted to bf16, so `dense` is a model of "
    "4-bit and 6-bit weights, and `int4` loses less than it would of a model of 16-bit weights",
    "smollm2-135m": "its weights were Q4_1 (a scale and a minimum for 32 columns) before they were converted to 16 bits, so "
    "`dense` is a model of 4-bit weights, and `int4` rounds them a second time, to another grid",
}
_TRIED = """Short trials whose code did not stay, each against the program of its day. Perplexity, or KL to the dense model
after repair; lower is better. The first three trials of int4 rounded 4 blocks, none pruned, from 64 windows, and their KL is
over 6 windows of the evaluation text. The last five rounded all blocks (2026-12-01), "at .35" under the tiles of `kinds
auto` at these bytes; their KL is over the 4 windows of held-out text that judge a repair. CPU seconds are what training
adds. Training a block's rounding helps only weights that are not repaired, and repair takes the unrepaired 30.71 to 29.02
in about the same time. Block error: change of the squared error of the outputs of blocks 3 and 14 on 8 other windows, each
block solved on 16 windows.

| tried | source | with it | without |
| --- | --- | --- | --- |
| inputs of the pruned, outputs of the dense model as the target of a solve | GPTAQ, arXiv 2504.02692 | 101 | 62.2 |
| a Hessian that weighs tokens by their effect, for pruning | `masklearn/stream/moments.py` | 114.2 | 100.3 |
| tiles moved between linears by measured losses | EvoPress, arXiv 2410.14649 | no linear loses over .0084 of .26 nats | |
| ADMM's products in bf16 | – | 35.03, 27 CPU s a linear of 4096×4096 | 34.90, 37 CPU s |
| whole blocks trained to the dense blocks' outputs before repair | – | 41.4 | 41.2 |
| attention and MLP of each block trained apart to the dense parts' outputs, then 24 of 47 steps of repair | \
A Free Lunch, arXiv 2510.14444 | 30.95, KL .387, 347 CPU s | 31.24, KL .398, about 325 CPU s |
| exact swaps of kept and pruned weights in groups of 16 after ALPS | SparseSwaps, arXiv 2512.10922 | \
output error of 88 linears −1.4 %, CPU time of the solve +64 % | |
| masks that follow the size of weight times input in repair's first half | ELSA, arXiv 2510.01650 | \
7 of a million weights change places in 18 steps | |
| columns with the largest expected loss first | ROSE, arXiv 2603.05878 | ALPS has no order of columns | |
| repair with half the batch and twice the steps | – | 32.16, KL .420 | 32.17, KL .417 |
| the mean of the weights of repair's last third | LAWA, arXiv 2209.14981 | KL .396 in 189 s | no better |
| Muon for repair, rates 3e-4 and 8e-4 | Muon (Jordan, 2024) | KL .388 and .398 in 254 to 279 s | no better in that time |
| the dense model's logits kept on disk | – | in repair's minutes no window is read twice | |
| self-written text whose documents begin with a random word | – | 41.32 | 40.48 |
| Moby Dick and the Python manual instead of self-written text | – | 44.06 | 40.48 |
| int4: tokens weighted by the gradient of the model's loss | GuidedQuant, arXiv 2505.07004 | KL .0184 | .0179 |
| int4: a block's integers by signed steps, scales by Adam | AutoRound, arXiv 2309.05516 | 23.49, 12 CPU s a block | 23.16 |
| int4: a block's integers and scales by 50 steps of Adam, to the dense block's output | – | \
KL .0180, 18 CPU s a block | .0179 |
| int4 at .35: the same, to the dense model's output there: not repaired; repaired; repaired, to the repaired \
model's output | – | 29.85; 30.43; 29.27 | 30.71; 29.02; 29.02 |
| int4: the same at 6 times the rate; with rests of .499; with windows of 64 tokens; with errors not divided by a \
token's size | – | block error −5 and +25 %; −7 and +21 %; −7 and −7 %; −11 and −12 % | −12 and −11 % |
| int4: a block's scales and norms; its scales | – | block error −4 and −2 %; −3 and −2 % | |
| w8a8 with all tiles 6:8: a block's integers and scales: 80 steps on the solve's windows; 190 steps on 48 new windows | – \
| block error −2 and −4 %; −4 and −8 % | |
| 2:4 tiles in 16 bits: a block's surviving weights: the same | – | block error −4 and −9 %; −10 and −18 %, 25 CPU s a \
block; the same time of repair takes 29.87 to 27.9 | |
| 2:4 everywhere: each block's residual stream turned by a rotation of rank 8; of rank 32, learned (120 steps of Adam on \
what 2:4 takes of W² / diag(H⁻¹)) | after ReSpinQuant, arXiv 2604.11080 | squared error of block 3's output on new text −1 \
%; −5 %; a quarter was asked | |
| int4 at .35 after repair: integers trained with the scales, by the whole model's KL, rates .01 and .001 | – | \
KL .426 and .296, 31 steps | .295 |
| int4 at .35 after repair: half of the blocks rounded, the others repaired 29 steps more and rounded | INQ, \
arXiv 1702.03044 | 29.10 | 29.02 |
| int4 at .35 after repair: GPTQ from 160 windows | – | 29.05 | 29.02 |"""
_TOKENS = """The solve of a linear has K numbers a row to choose, and fits the tokens that it sees. 2:4 everywhere in
block 2 of Qwen2.5-Coder-1.5B-Instruct (`python samples/models.py qwen DIR`), solved by ALPS on windows of 512 tokens
of the calibration text; squared output error as a share of the energy of the outputs, on those windows / on 8 other
windows of that text / on 8 windows of WikiText-2. For down_proj, whose K is 8,960, 192 rows of 3,072 of its columns.
Damping is a share of the mean diagonal of the Hessian; 1 / tokens an input stands for the nearest of .03, .1, .3 and
1. By hand, 2026-12-01.

| tokens an input | q_proj, damping .01 | 1 / tokens an input | down_proj, damping .01 | 1 / tokens an input |
| --- | --- | --- | --- | --- |
| 1.3 | | | .003 / .083 / .088 | .018 / .054 / .054 |
| 2.7 | .007 / .022 / .025 | .010 / .019 / .021 | .008 / .062 / .069 | .015 / .048 / .049 |
| 5.3 | .010 / .018 / .021 | .011 / .017 / .019 | .014 / .048 / .055 | .021 / .043 / .046 |
| 10.7 | .012 / .016 / .019 | .012 / .016 / .019 | .018 / .040 / .044 | .021 / .039 / .042 |
| 32 (16 for down_proj) | .013 / .015 / .018 | .013 / .015 / .018 | .021 / .034 / .038 | .023 / .035 / .038 |

So learning without `--windows` reads 4 tokens an input of the widest linear, and the Hessian is damped by 1 / tokens
an input, .01 at least. Tiles are scored on every second window and checked on the others: on 4,096 tokens the whole
down_proj seems to lose .0001 and loses .0019 on other text, 19 times as much, where gate_proj loses twice what it
seems to. Scores from the solve's own tokens therefore prune wide linears far too much: 72 % of the tiles of all
down_proj at a ratio of .25.

With `learn --ratio 0.25 --kinds 2:4 --repair none`, 70 windows, 29 % of these tiles are pruned. Perplexity of 4
windows of 1,024 tokens, without / with the model's start token in front, which no window of the calibration begins
with (the beginning of wikitext2-test-head.txt by `masklearn.perplexity` in fp32, the others by hand in bf16,
2026-12-02):

| text | dense | pruned | change | change by 4,096 tokens, ranked on these |
| --- | --- | --- | --- | --- |
| WikiText-2, beginning | 15.92 / 16.12 | 17.76 / 19.04 | +12 / +18 % | |
| the same file, end | 16.98 / 17.19 | 20.12 / 22.27 | +18 / +30 % | |
| calib.txt, beginning | 18.56 / 18.67 | 20.13 / 21.60 | +8 / +16 % | – / +38 % |"""
_LARGE = """`oneshot` without repair at 0.4 on a checkpoint of random weights with the shape of a large model and few of its
blocks, by `python -m benchmarks.memory`. Measured with these blocks; the last two columns are what all of them would
take."""


def page(
    rows: Sequence[Row],
    asked: argparse.Namespace,
    large: Sequence[Row] = (),
    picture: str = "",
    beyond: Sequence[Row] = (),
) -> str:
    """The whole page; asked: the command line; large: rows of `benchmarks.memory`; picture: the file next to it, if any;
    beyond: rows of `benchmarks.quality.beyond`."""
    machines = _machines([*rows, *beyond, *large])
    parts = [_heading([*rows, *beyond, *large], asked, machines)]
    if picture:
        parts += [
            "## Loss against speed",
            f"![Perplexity against the predicted speed of prompts]({picture})",
            _PICTURE,
        ]
    ours = [row for row in rows if "protocol" not in row]
    if asked.large:
        measured = {(row["method"], row["ratio"]) for row in ours}
        entries = [one for one in entries_of_large(asked.minutes) if (one.method, one.ratio) in measured]
        predicted = speeds(asked.model, entries)
        return "\n\n".join([*parts, ABOUT, table(ours, predicted)]) + "\n"
    for tile in dict.fromkeys(row["tile"] for row in ours):
        these = [row for row in ours if row["tile"] == tile]
        parts += [
            f"## Tiles {tile}",
            "Perplexity. Several seeds: median (lowest … highest).",
            _perplexities(these),
        ]
        if any(ALL_KINDS in row["method"] for row in these):
            parts.append(_KINDS)
        parts += [
            f"Seconds of learning, peak memory of it in GiB{_where(machines)}.",
            _costs(these, machines),
        ]
        parts += _sections(these)
    if other_tools := [row for row in rows if "protocol" in row]:
        parts += [
            "## Other tools",
            "On the same calibration windows, by `benchmarks/other_tools.py` of commit 7d3e21e5.",
            _other_tools(other_tools),
        ]
    if beyond:
        parts += ["## Beyond one perplexity", _BEYOND, _beyond(beyond)]
    if asked.model.resolve().name == "smollm2-135m":
        parts += [_FOUND] if beyond else []
        parts += ["## Tokens for each input", _TOKENS, "## Tried, and left out", _TRIED]
    if large:
        parts += ["## Large models", _LARGE, _large(large)]
    return "\n\n".join(parts) + "\n"


def _sections(rows: Sequence[Row]) -> list[str]:
    parts = []
    if gains := _gains(rows):
        parts += ["What training brings over `oneshot` without repair, at the same ratio and seed 0.", gains]
    if best := _best(rows):
        parts += ["The lowest perplexity of a deployable result within a time, labels left out.", best]
    if costs := _costs_of_bytes(rows):
        parts += [_BYTES, costs]
    return parts


def _heading(rows: Sequence[Row], asked: argparse.Namespace, machines: Mapping[str, str]) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    name = asked.model.resolve().name
    return "\n".join(
        [
            f"# Quality of {name}" if asked.large else "# Quality",
            "",
            f"Written by `{_command(asked)}` on {datetime.now(UTC):%Y-%m-%d}.",
            "",
            f"- model: {name}; covered: the linears of its blocks"
            + (f"; {_MODELS[name]}" if name in _MODELS else ""),
            f"- calibration: {asked.calib.name}, {asked.windows} windows × {asked.length} tokens",
            f"- evaluation: {asked.evaluation.name}, first {asked.eval_windows} windows × {asked.eval_length} tokens, fp32",
            *_machine_lines(rows, machines),
            f"- Python {platform.python_version()}, {versions}",
            "",
            _WHAT,
        ]
    )


def _command(asked: argparse.Namespace) -> str:
    """The command that measures all rows: without `--only`, and with file names instead of paths."""
    words = ["python -m benchmarks.quality.run", asked.model.resolve().name, "--calib", asked.calib.name]
    words += ["--eval", asked.evaluation.name, *(f"--tile {tile}" for tile in asked.tile)]
    for name in ("windows", "length", "eval_windows", "eval_length", "seeds"):
        words.append(f"--{name.replace('_', '-')} {getattr(asked, name)}")
    words += ["--total", *map("{:g}".format, asked.total), "--minutes", *map("{:g}".format, asked.minutes)]
    words += ["--large", f"--out {asked.out.name}"] if asked.large else []
    return " ".join(words)


def _perplexities(rows: Sequence[Row]) -> str:
    def cell(found: Sequence[Row]) -> str:
        own = f" at {found[0]['reached']:.3f}" if found[0]["ratio"] is None else ""
        return _spread([row["perplexity"] for row in found]) + own

    return _table(rows, cell)


def _machines(rows: Sequence[Row]) -> dict[str, str]:
    """A letter for each machine, or "" when there is only one."""
    found = list(dict.fromkeys(row["machine"] for row in rows))
    return {name: chr(ord("a") + i) if len(found) > 1 else "" for i, name in enumerate(found)}


def _machine_lines(rows: Sequence[Row], machines: Mapping[str, str]) -> Iterable[str]:
    for name, mark in machines.items():
        days = sorted({row["date"] for row in rows if row["machine"] == name})
        yield f"- {f'machine {mark}'.strip()}: {name}; {' … '.join(dict.fromkeys((days[0], days[-1])))}"


def _where(machines: Mapping[str, str]) -> str:
    return ", machine" if len(machines) > 1 else ""


def _costs(rows: Sequence[Row], machines: Mapping[str, str]) -> str:
    def cell(found: Sequence[Row]) -> str:
        marks = "".join(sorted({machines[row["machine"]] for row in found}))
        cost = f"{median(r['seconds'] for r in found):.0f} s, {max(r['peak_gib'] for r in found):.1f}"
        return f"{cost}, {marks}" if marks else cost

    return _table(rows, cell)


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


def _table(rows: Sequence[Row], cell: Any) -> str:
    """A table with a row per method and a column per ratio; methods with a ratio of their own fill the first column."""
    ratios = sorted({row["ratio"] for row in rows if row["ratio"] is not None}, reverse=True)
    lines = [_line(["", _OWN, *(f"{ratio:.2f}" for ratio in ratios)]), _line(["---"] * (2 + len(ratios)))]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [method]
        for ratio in (None, *ratios):
            found = [row for row in rows if (row["method"], row["ratio"]) == (method, ratio)]
            cells.append(cell(found) if found else "")
        lines.append(_line(cells))
    return "\n".join(lines)


def _gains(rows: Sequence[Row]) -> str:
    """Table of the perplexity that training gains over its prior, per minute."""
    first = [row for row in rows if row["seed"] == 0]
    priors = {(row["ratio"], row["method"]): row for row in first if row["method"].startswith(NO_REPAIR)}
    lines = []
    for row in first:
        alike = [
            name
            for ratio, name in priors
            if ratio == row["ratio"] and row["method"].endswith(name.removeprefix(NO_REPAIR))
        ]
        prior = row.get("before") or priors.get((row["ratio"], max(alike, key=len, default="")))
        trained = row["method"].startswith(("oneshot", "patch", "maskllm"))
        trained = trained and not row["method"].startswith(NO_REPAIR)
        if prior is None or not trained:
            continue
        minutes = (row["seconds"] - prior["seconds"]) / 60
        gain = prior["perplexity"] - row["perplexity"]
        per_minute = f"{gain / minutes:z.2f}" if minutes > 0 else ""
        values = [f"{row['ratio']:.2f}", f"{prior['perplexity']:.2f}", f"{row['perplexity']:.2f}"]
        record = row.get("repair") or row.get("train") or {}
        rate = f"{record['learning_rate']:.2g}" if "learning_rate" in record else ""
        trained_as = [str(record.get("steps", "")), rate]
        lines.append(_line([row["method"], *values, *trained_as, f"{minutes:.1f}", per_minute]))
    if not lines:
        return ""
    header = ["", "ratio", "before", "after", "steps", "rate", "more minutes", "gain per minute"]
    return "\n".join([_line(header), _line(["---"] * len(header)), *lines])


def _costs_of_bytes(rows: Sequence[Row]) -> str:
    """Table of the perplexity of rows of w8a8 next to the rows in 16 bits that they come from."""
    first = {(row["method"], row["ratio"]): row for row in rows if row["seed"] == 0}
    lines = []
    for (method, ratio), row in first.items():
        name = method.removesuffix(BYTES)
        base = row.get("before") if name == NO_REPAIR else first.get((name, ratio))
        if name == method or base is None:
            continue
        values = [f"{one['perplexity']:.2f}" for one in (base, row)]
        change = row["perplexity"] / base["perplexity"] - 1
        lines.append(_line([name, "" if ratio is None else f"{ratio:.2f}", *values, f"{change:+.1%}"]))
    if not lines:
        return ""
    return "\n".join([_line(["", "ratio", "16 bits", "w8a8", "change"]), _line(["---"] * 5), *lines])


def _best(rows: Sequence[Row]) -> str:
    usable = [row for row in rows if row["ratio"] is not None and row["seed"] == 0 and _ranked(row)]
    lines = []
    for ratio in sorted({row["ratio"] for row in usable}, reverse=True):
        cells = [f"{ratio:.2f}"]
        for budget in _BUDGETS:
            within = [row for row in usable if row["ratio"] == ratio and row["seconds"] <= 60 * budget]
            best = min(within, key=lambda row: row["perplexity"], default=None)
            cells.append("" if best is None else f"{best['method']}: {best['perplexity']:.2f}")
        lines.append(_line(cells))
    if not lines:
        return ""
    header = ["ratio", *(f"{budget} minutes" for budget in _BUDGETS)]
    return "\n".join([_line(header), _line(["---"] * len(header)), *lines])


def _ranked(row: Row) -> bool:
    """True when the row's perplexity may be compared with others'."""
    return NOT_DEPLOYABLE not in row["method"] and not (row.get("repair") or {}).get("label_weight")


def _other_tools(rows: Sequence[Row]) -> str:
    header = ["", "ratio", "perplexity", "seconds"]
    lines = [
        _line([row["method"], f"{row['reached']:.3f}", f"{row['perplexity']:.2f}", f"{row['seconds']:.0f}"])
        for row in rows
    ]
    return "\n".join([_line(header), _line(["---"] * len(header)), *lines])


def _beyond(rows: Sequence[Row]) -> str:
    """A table for each other text: figures of the dense model, and of others as their difference from it where they are
    losses."""
    texts = dict.fromkeys(tuple(row["beyond"]["losses"]) for row in rows)
    return "\n\n".join(
        _of_text([row for row in rows if tuple(row["beyond"]["losses"]) == names]) for names in texts
    )


def _of_text(rows: Sequence[Row]) -> str:
    dense = next(row["beyond"]["losses"] for row in rows if row["method"] == "dense")
    header, lines = ["", "ratio", *dense, *rows[0]["beyond"]["shares"]], []
    for row in sorted(rows, key=lambda row: row["beyond"]["losses"]["this text"]):
        cells = [row["method"], "" if row["ratio"] is None else f"{row['ratio']:.2f}"]
        for name, loss in row["beyond"]["losses"].items():
            cells.append(f"{loss:.3f}" if row["method"] == "dense" else f"{loss - dense[name]:+.3f}")
        cells += [f"{share:.1%}" for share in row["beyond"]["shares"].values()]
        lines.append(_line(cells))
    return "\n".join([_line(header), _line(["---"] * len(header)), *lines])


def _large(rows: Sequence[Row]) -> str:
    header = ["", "windows", "blocks", "seconds", "peak GiB", "all blocks", "hours", "peak GiB"]
    lines = [
        _line(
            [
                row["shape"],
                f"{row['windows']} × {row['length']}",
                str(row["blocks"]),
                f"{row['seconds']:.0f}",
                f"{row['peak_gib']:.1f}",
                str(row["all_blocks"]),
                f"{row['whole']['hours']:.1f}",
                f"{row['whole']['peak_gib']:.1f}",
            ]
        )
        for row in rows
    ]
    return "\n".join([_line(header), _line(["---"] * len(header)), *lines])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
