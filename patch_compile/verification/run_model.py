"""Asks one ONNX model all questions in one session, so that two models are never in memory together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.onnx_io.arrays import save_array
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.tensor_names import LOGITS
from patch_compile.runtime.decoder import pad_left
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.verification.choices import Choices

__all__ = ["ModelAnswers", "ModelRuns", "Probes", "quiet_polygraphy", "run_logits", "run_study"]


@dataclass(frozen=True)
class Probes:
    """Questions for a model.

    windows: held-out tokens `[count, length]`; probe: tokens `[count, length]` for the comparison by Polygraphy; prompt:
    token ids to continue, until `ended(new tokens)` is true or `new_tokens` are generated.
    """

    windows: NDArray[np.int64]
    probe: NDArray[np.int64]
    prompt: list[int]
    new_tokens: int
    ended: Callable[[list[int]], bool]


@dataclass(frozen=True)
class ModelRuns:
    """Runs of one model on feeds.

    results: Polygraphy's RunResults, only logits; choices: for each feed the indices that the graph has chosen; layers:
    number of layers with a KV cache.
    """

    feeds: Sequence[Feed]
    results: Any
    choices: Sequence[Choices]
    layers: int


@dataclass(frozen=True)
class ModelAnswers:
    """The answers of one model.

    runs: those for the comparison by Polygraphy; logits: one file per window, fp32 `[length, vocabulary]`; continuation: new
    token ids.
    """

    runs: ModelRuns
    logits: list[Path]
    continuation: list[int]


def run_study(
    name: str,
    path: Path,
    questions: Probes,
    folder: Path,
    feeds: Sequence[Feed] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
    choices: Sequence[str] = (),
) -> ModelAnswers:
    """Ask the model at `path`, and write logits to `folder`. `feeds` of an earlier study make the answers comparable.

    choices: names of the outputs that are choices of routers.
    """
    decoder = OnnxDecoder(path)
    runs = _run(name, decoder, feeds or _feeds(decoder, questions.probe), choices)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, window in enumerate(questions.windows):
        logits, _ = decoder.step(window[None], decoder.empty_cache(1))
        files.append(folder / f"{name}.{number}.npy")
        save_array(files[-1], logits[0])
        if progress:
            progress("window", number + 1, len(questions.windows))
    continuation = _continued(decoder, questions)
    return ModelAnswers(runs, files, continuation)


def run_logits(
    name: str, path: Path, probes: Iterable[NDArray[np.int64]], choices: Sequence[str] = ()
) -> ModelRuns:
    """Run the model at `path` on token ids. The last token of each probe is a decode step on the cache of a prefill with
    the others.

    choices: names of the outputs that are choices of routers.
    """
    decoder = OnnxDecoder(path)
    return _run(name, decoder, _feeds(decoder, probes), choices)


def _run(name: str, decoder: OnnxDecoder, feeds: Sequence[Feed], choices: Sequence[str]) -> ModelRuns:
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator

    chosen: list[Choices] = []

    class LogitsRunner(OnnxrtRunner):  # type: ignore[misc]
        """Keeps only the logits and the choices: caches of every layer and feed would fill the memory."""

        def infer_impl(self, feed_dict: Feed) -> Any:
            outputs = super().infer_impl(feed_dict)
            chosen.append({name: outputs[name] for name in choices})
            return OrderedDict({LOGITS: outputs[LOGITS].astype(np.float32)})

    with quiet_polygraphy():
        results = Comparator.run([LogitsRunner(decoder.session, name=name)], data_loader=feeds)
    layers = sum(name.endswith(".key") for name in decoder.empty_cache(1))
    return ModelRuns(feeds, results, chosen, layers)


def _continued(decoder: OnnxDecoder, questions: Probes) -> list[int]:
    """Continue the prompt by the most likely tokens."""
    tokens: list[int] = []
    with closing(decoder.start(*pad_left([questions.prompt]), questions.new_tokens)) as decoding:
        while True:
            tokens.append(int(decoding.logits.argmax()))
            if len(tokens) == questions.new_tokens or questions.ended(tokens):
                return tokens
            decoding.step(np.array(tokens[-1:], np.int64))


def _feeds(decoder: OnnxDecoder, probes: Iterable[NDArray[np.int64]]) -> list[Feed]:
    """Returns two feeds for each probe: a prefill of all tokens but the last, then one decode step on its cache."""
    feeds: list[Feed] = []
    for probe in probes:
        ids = probe[None]
        feeds.append(decoder.feed(ids[:, :-1], decoder.empty_cache(1)))
        _, cache = decoder.step(ids[:, :-1], decoder.empty_cache(1))
        feeds.append(decoder.feed(ids[:, -1:], cache))
    return feeds


@contextmanager
def quiet_polygraphy() -> Iterator[None]:
    """Silence Polygraphy, which logs to stdout, where the result is printed. Its findings are raised as errors."""
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield
