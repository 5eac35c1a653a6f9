"""Asks one ONNX model all questions in one session, so that two models are never in memory together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.onnx_io.arrays import save_array
from patch_compile.onnx_io.tensor_names import LOGITS
from patch_compile.runtime.decoder import pad_left
from patch_compile.runtime.onnx_decoder import OnnxDecoder

__all__ = ["Feed", "Questions", "Study", "quiet_polygraphy", "run_logits", "run_study"]

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Questions:
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
class Study:
    """The answers of one model.

    results: Polygraphy's RunResults for `feeds`, only logits; logits: one file per window, fp32 `[length, vocabulary]`;
    continuation: new token ids; layers: number of layers with a KV cache.
    """

    results: Any
    feeds: list[Feed]
    logits: list[Path]
    continuation: list[int]
    layers: int


def run_study(
    name: str,
    path: Path,
    questions: Questions,
    folder: Path,
    feeds: list[Feed] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Study:
    """Ask the model at `path`, and write logits to `folder`. `feeds` of an earlier study make the answers comparable."""
    decoder = OnnxDecoder(path)
    feeds = feeds or [feed for window in questions.probe for feed in _feeds(decoder, window)]
    results = _logits_of(name, decoder, feeds)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, window in enumerate(questions.windows):
        logits, _ = decoder.step(window[None], decoder.empty_cache(1))
        files.append(folder / f"{name}.{number}.npy")
        save_array(files[-1], logits[0])
        if progress:
            progress("window", number + 1, len(questions.windows))
    continuation = _continued(decoder, questions)
    return Study(results, feeds, files, continuation, _layers(decoder))


def run_logits(name: str, path: Path, probes: list[NDArray[np.int64]]) -> tuple[list[Feed], Any, int]:
    """Returns feeds of the model at `path`, Polygraphy's RunResults of their logits, and the number of layers with a KV
    cache.

    probes: token ids. The last token is a decode step on the cache of a prefill with the others.
    """
    decoder = OnnxDecoder(path)
    feeds = [feed for probe in probes for feed in _feeds(decoder, probe)]
    return feeds, _logits_of(name, decoder, feeds), _layers(decoder)


def _logits_of(name: str, decoder: OnnxDecoder, feeds: list[Feed]) -> Any:
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator

    class LogitsRunner(OnnxrtRunner):  # type: ignore[misc]
        """Keeps only the logits: caches of every layer and feed would fill the memory."""

        def infer_impl(self, feed_dict: Feed) -> Any:
            outputs = super().infer_impl(feed_dict)
            return OrderedDict({LOGITS: outputs[LOGITS].astype(np.float32)})

    with quiet_polygraphy():
        return Comparator.run([LogitsRunner(decoder.session, name=name)], data_loader=feeds)


def _layers(decoder: OnnxDecoder) -> int:
    return sum(name.endswith(".key") for name in decoder.empty_cache(1))


def _continued(decoder: OnnxDecoder, questions: Questions) -> list[int]:
    """Continue the prompt by the most likely tokens."""
    tokens: list[int] = []
    with closing(decoder.start(*pad_left([questions.prompt]), questions.new_tokens)) as decoding:
        while True:
            tokens.append(int(decoding.logits.argmax()))
            if len(tokens) == questions.new_tokens or questions.ended(tokens):
                return tokens
            decoding.step(np.array(tokens[-1:], np.int64))


def _feeds(decoder: OnnxDecoder, window: NDArray[np.int64]) -> Iterator[Feed]:
    """Yield a prefill of all tokens but the last, then one decode step on its cache."""
    ids = window[None]
    yield decoder.feed(ids[:, :-1], decoder.empty_cache(1))
    _, cache = decoder.step(ids[:, :-1], decoder.empty_cache(1))
    yield decoder.feed(ids[:, -1:], cache)


@contextmanager
def quiet_polygraphy() -> Iterator[None]:
    """Silence Polygraphy, which logs to stdout, where the result is printed. Its findings are raised as errors."""
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield
