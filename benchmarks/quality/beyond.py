"""Measures what a perplexity on one text hides: another domain, long windows, rare tokens, wrong confidence, and tasks.

    python -m benchmarks.quality.beyond MODEL_DIR --calib TEXT --eval TEXT --other TEXT [--scratch FOLDER] [--only GLOB …]

It asks the dense model, and the models of the rows whose masks and weights `benchmarks.quality.run` keeps in its scratch
folder. Results lie in the page's JSON file, under the name of the row; the next run of `benchmarks.quality.run` puts them on
the page. The other text of the page is GSM8K's test set: questions, each with its answer in the next line, and a blank line
between two.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import origin
from benchmarks.quality.child import MASKS, SOLVED
from benchmarks.quality.run import ROW, State
from masklearn import Checkpoint, MaskSet, WeightStore, first_windows, load_tokenizer
from masklearn.model.models import load_model
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.stream.logits import HEAD_CHUNK, log_probabilities, token_nll
from masklearn.training.head import Head
from patch_compile.verification.tasks.loading import BUILTIN, in_task_folder, load_tasks
from patch_compile.verification.tasks.run import offline, quiet_harness

_FREQUENT = 0.5  # of the calibration text's tokens are the commonest tokens
_RARE = 2  # times in the calibration text, at most
_TEXT = 4  # times as many tokens of the calibration text are counted as are predicted
_BINS = 15  # of the calibration error (arXiv 1706.04599)


class Tokens(NamedTuple):
    """Predictions of tokens. loss: in nats; sure: the highest probability; right: whether it is the token's. All `[n]`."""

    loss: NDArray[np.float64]
    sure: NDArray[np.float64]
    right: NDArray[np.bool_]


@torch.no_grad()
def predictions(model: Any, windows: NDArray[np.int64]) -> Tokens:
    """Returns the predictions of every token but the first of windows `[count, length]`, window after window."""
    head, parts = Head.of(model), []
    for window in torch.from_numpy(windows):
        hidden = model.base_model(input_ids=window[None], use_cache=False).last_hidden_state[0, :-1]
        for start in range(0, len(hidden), HEAD_CHUNK):
            labels = window[1:][start : start + HEAD_CHUNK]
            log_q = log_probabilities(head.logits(hidden[start : start + HEAD_CHUNK]))
            top, found = log_q.max(dim=-1)
            parts.append((token_nll(log_q, labels), top.exp(), found == labels))
    loss, sure, right = (torch.cat(one).numpy() for one in zip(*parts, strict=True))
    return Tokens(loss.astype(np.float64), sure.astype(np.float64), right)


def calibration_error(found: Tokens) -> float:
    """Returns the mean distance of confidence from accuracy over bins of confidence, weighted by their tokens."""
    bins = np.minimum((found.sure * _BINS).astype(int), _BINS - 1)
    distance = np.bincount(bins, found.sure - found.right, _BINS)
    return float(np.abs(distance).sum() / len(bins))


def measure(folder: Path, asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns the figures of the model in a folder, by their name on the page: losses in nats a token, and shares."""
    model, tokenizer = load_model(folder), load_tokenizer(asked.model)

    def of(text: Path, length: int) -> tuple[NDArray[np.int64], Tokens]:
        windows = first_windows(tokenizer, text, length, asked.tokens // length)
        return windows, predictions(model, windows)

    length, *longer = asked.length
    windows, usual = of(asked.evaluation, length)
    frequent, rare = _by_frequency(asked, windows, len(tokenizer))
    losses = {
        "this text": usual.loss,
        asked.other.stem: of(asked.other, length)[1].loss,
        **{f"windows of {one:,}": of(asked.evaluation, one)[1].loss for one in longer},
        "frequent": usual.loss[frequent],
        "rare": usual.loss[rare],
    }
    shares = {
        "calibration error": calibration_error(usual),
        "sure when wrong": float(usual.sure[~usual.right].mean()),
    }
    return {
        "losses": {name: round(float(one.mean()), 5) for name, one in losses.items()},
        "shares": {name: round(one, 5) for name, one in (shares | _tasks(folder)).items()},
    }


def _by_frequency(
    asked: argparse.Namespace, windows: NDArray[np.int64], vocabulary: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns masks of the predicted tokens that are frequent and rare in the calibration text."""
    length = asked.length[0]
    text = first_windows(load_tokenizer(asked.model), asked.calib, length, _TEXT * asked.tokens // length)
    counts = np.bincount(text.ravel(), minlength=vocabulary)
    order = np.argsort(-counts, kind="stable")
    common = np.zeros(vocabulary, bool)
    common[order[: int(np.searchsorted(np.cumsum(counts[order]), _FREQUENT * text.size)) + 1]] = True
    labels = windows[:, 1:].ravel()
    return common[labels], counts[labels] <= _RARE


def _tasks(folder: Path) -> dict[str, float]:
    """Returns the shares of right answers in the built-in tasks."""
    from lm_eval.evaluator import evaluate

    from patch_compile.verification.tasks.models import HuggingFaceLM

    with quiet_harness(), offline():
        tasks = load_tasks([BUILTIN], None)
        model = HuggingFaceLM(folder, "float32", None, lambda *_: None)
        with in_task_folder(None):
            found = evaluate(model, tasks, bootstrap_iters=0)["results"]
    return {
        name.removeprefix(f"{BUILTIN}-"): float(found[name]["acc,none"]) for name in sorted(tasks["tasks"])
    }


@contextmanager
def _pruned(model: Path, kept: Path) -> Iterator[Path]:
    checkpoint = Checkpoint.open(model).with_weights(WeightStore(kept / SOLVED))
    with tempfile.TemporaryDirectory() as folder:
        write_pruned_checkpoint(checkpoint, MaskSet.load(kept / MASKS), Path(folder))
        yield Path(folder)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True, help="text that says which tokens are rare")
    parser.add_argument("--eval", dest="evaluation", type=Path, required=True, help="held-out text")
    parser.add_argument("--other", type=Path, required=True, help="text of another domain")
    parser.add_argument(
        "--length", type=int, nargs="+", default=[1024, 2048, 4096], help="of windows: usual, and longer"
    )
    parser.add_argument("--tokens", type=int, default=8192, help="in all windows of a text")
    parser.add_argument("--only", nargs="*", default=["*"], metavar="GLOB", help="rows by their name")
    parser.add_argument("--scratch", type=Path, default=Path(".cache/quality"))
    parser.add_argument("--state", type=Path, default=Path("docs/explanation/quality.json"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all models, and keep the figures."""
    asked = arguments(argv)
    state, name = State(asked.state), asked.model.resolve().name

    def put(method: str, ratio: float | None, folder: Path) -> None:
        about = {"method": method, "ratio": ratio, "model": name} | origin()
        key = f"beyond {asked.other.stem} {method} {ratio}"
        state.put(key, about | {"beyond": measure(folder, asked)})
        print(json.dumps(state.rows[key]), flush=True)

    def wanted(method: str) -> bool:
        return any(fnmatchcase(method, glob) for glob in asked.only)

    if wanted("dense"):
        put("dense", None, asked.model)
    for kept in sorted(path.parent for path in asked.scratch.glob(f"*/{ROW}")):
        row = json.loads((kept / ROW).read_text(encoding="utf-8"))
        if wanted(row["method"]):
            with _pruned(asked.model, kept) as folder:
                put(row["method"], row["ratio"], folder)


if __name__ == "__main__":
    main()
