"""The two models of a build as models of lm-evaluation-harness: checkpoints in transformers, or ONNX files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from masklearn.base.device import usable_device
from masklearn.base.durable import temporary_name
from masklearn.model.models import load_model
from masklearn.model.pretrained import load_config, load_tokenizer
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import MODEL, ONNX, ONNX_FOLDER, ONNX_NAME
from patch_compile.engine.backend import Runner
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import Recipe
from patch_compile.runtime.decoder import Logits, check_finite
from patch_compile.runtime.generator import Generator
from patch_compile.runtime.locate import open_generator
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.runtime.sampling import Sampling
from patch_compile.sources.open import source_of
from patch_compile.verification.graph_outputs import with_all_logits

Score = tuple[float, bool]
Update = Callable[[str, int, int], object]
Side = Literal["dense", "pruned"]
_LOGITS = (
    1 << 26
)  # of all positions of a batch: 256 MiB in fp32, and about the same again for values computed from them
# On two cores SmolLM2-135M takes 10 s of CPU time for 16 texts of 25 tokens and 6 s for 4 (torch 2.13, fp32).
_MOST = 16
_NEW_TOKENS = 256  # default of the harness for transformers, for tasks without a number
_DRAWS: dict[str, Any] = {"temperature": 1.0, "top_k": 50}  # the defaults of transformers
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "until", "max_gen_toks")


@contextmanager
def open_model(
    out: OutFolder, side: Side, backend: Literal["hf", "onnx"], seed: int, update: Update
) -> Iterator[Any]:
    """Yield the harness's LM of the dense or the pruned model of a build.

    Raises PatchCompileError if the model cannot be found or run.
    """
    if backend == "hf":
        recipe = Recipe.of_build(out.path)
        yield HuggingFaceLM(_folder(out, side), recipe.dtype, recipe.device, update)
        return
    with _onnx_file(out, side) as path:
        yield _open_onnx(path, _folder(out, side), seed, update)


def _open_onnx(path: Path, folder: Path, seed: int, update: Update) -> Any:
    generator = open_generator(path, runner=Runner.ONNX, tokenizer=folder)
    length = resolve_max_length(load_config(folder), generator.tokenizer)
    return OnnxLM(generator, length, seed, update)


def _onnx_file(out: OutFolder, side: Side) -> AbstractContextManager[Path]:
    """Returns the ONNX file with logits of all positions."""
    if side == "dense":
        return _dense_onnx(out)
    if not (out.path / ONNX).is_file():
        raise PatchCompileError(
            f"{out.path} holds no {ONNX}",
            "`learn` writes only masks and the pruned checkpoint.",
            "Ask the checkpoint with --task-backend hf.",
        )
    return with_all_logits(out.path / ONNX)


@contextmanager
def _dense_onnx(out: OutFolder) -> Iterator[Path]:
    """Yield a file in OUT, with the type and opset of the build, that is removed at the end.

    Raises PatchCompileError if the model was moved or deleted.
    """
    folder = out.path / temporary_name(ONNX_FOLDER)
    folder.mkdir()
    try:
        yield source_of(out).dense_onnx(folder / ONNX_NAME, logits="all")
    finally:
        shutil.rmtree(folder)


def _folder(out: OutFolder, side: Side) -> Path:
    return Recipe.of_build(out.path).model if side == "dense" else out.path / MODEL


def rows_at_once(length: int, vocabulary: int) -> int:
    """Returns the number of texts for a batch whose longest text has `length` tokens."""
    return min(max(_LOGITS // (length * vocabulary), 1), _MOST)


class HuggingFaceLM(HFLM):  # type: ignore[misc]
    """A model folder as a model of the harness.

    Weights are rounded to the type of the build. A CPU computes with them in fp32, because 16-bit types are slow or
    inexact there.
    """

    def __init__(self, folder: Path, dtype: str, device: str | None, update: Update) -> None:
        place = usable_device(device)
        model = load_model(folder, dtype=getattr(torch, dtype))
        super().__init__(
            (model.float() if place.type == "cpu" else model).to(place),
            tokenizer=load_tokenizer(folder),
            batch_size="auto",
        )
        self._update = update
        self._done = self._total = 0

    def _loglikelihood_tokens(self, requests: list[Any], *_: Any, **settings: Any) -> list[Score]:
        self._done, self._total = 0, len(requests)
        scores: list[Score] = super()._loglikelihood_tokens(requests, **settings)
        return scores

    def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:
        """Compute the batch size, which the harness would find by trial.

        requests: name, context and continuation of each, with the longest at `pos`.
        """
        length = len(requests[pos][1]) + len(requests[pos][2]) if requests else self.max_length
        return rows_at_once(length, len(self.tokenizer))

    def _model_call(self, inps: torch.Tensor, *rest: Any, **settings: Any) -> torch.Tensor:
        self._update("text", self._done, self._total)
        self._done += len(inps)
        logits: torch.Tensor = super()._model_call(inps, *rest, **settings)
        return logits


@dataclass(frozen=True)
class _Text:
    """A request: tokens to read, and the tokens to score, which belong to the last `len(scored)` positions."""

    tokens: list[int]
    scored: list[int]


class OnnxLM(TemplateLM):  # type: ignore[misc]
    """A decoder with logits of all positions. Texts are tokenized like the harness does for transformers.

    generator: has the tokenizer and an `OnnxDecoder` whose graph gives logits of all positions; length: maximum number of
    tokens of a text; seed: for tasks that sample their continuations.
    """

    def __init__(self, generator: Generator, length: int, seed: int, update: Update) -> None:
        super().__init__()
        assert isinstance(generator.decoder, OnnxDecoder)
        self._generator, self._decoder = generator, generator.decoder
        self.tokenizer = generator.tokenizer
        self.max_length, self._seed, self._update = length, seed, update

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text; None if the tokenizer has none."""
        ends: int | None = self.tokenizer.eos_token_id
        return ends

    @property
    def prefix_token_id(self) -> int:
        """The token that precedes a text without a context."""
        ids = (self.tokenizer.bos_token_id, self.eot_token_id)
        found: int | None = next((token for token in ids if token is not None), None)
        if found is None:
            raise PatchCompileError(
                "The tokenizer has no token that begins or ends a text",
                "Tasks put such a token in front of a text that has no context.",
                "Name bos_token or eos_token in tokenizer_config.json.",
            )
        return found

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Returns token ids, by default with the tokenizer's prefix unless the text already begins with it."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        how = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = self.tokenizer.encode(string, **how)
        return ids

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Returns log-likelihoods of whole texts, in windows as long as the model reaches. Each token is scored once."""
        windows = [self._windows(request.args[0]) for request in requests]
        scores = iter(self._score([window for one in windows for window in one]))
        return [sum(next(scores)[0] for _ in one) for one in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Returns continuations up to a stop string or up to the task's maximum number of tokens."""
        texts = []
        for done, request in enumerate(requests):
            self._update("continuation", done, len(requests))
            texts.append(self._continued(*request.args))
        return texts

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[Score]:
        return self._score([self._text(context, scored) for _name, context, scored in requests])

    def _text(self, context: list[int], scored: list[int]) -> _Text:
        """Cut the beginning of a context that is too long. The last token is scored but not read."""
        if len(scored) > self.max_length:
            raise PatchCompileError(
                f"A text to be scored has {len(scored)} tokens",
                f"The model reaches {self.max_length} tokens far.",
                "Leave the task out, or verify a build of a model that reaches further.",
            )
        return _Text((context + scored)[-(self.max_length + 1) : -1], scored)

    def _windows(self, text: str) -> list[_Text]:
        cut = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
        return [self._text(*make_disjoint_window(window)) for window in cut]

    def _score(self, texts: list[_Text]) -> list[Score]:
        scores: dict[int, Score] = {}
        for batch in self._batches([len(text.tokens) for text in texts]):
            logits = self._logits([texts[i].tokens for i in batch])
            scores |= {i: _scored(rows, texts[i]) for i, rows in zip(batch, logits, strict=True)}
            self._update("text", len(scores), len(texts))
        return [scores[i] for i in range(len(texts))]

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Yield indices of texts, the longest first, so that the texts of a batch have similar lengths."""
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        while order:
            rows = rows_at_once(lengths[order[0]], len(self.tokenizer))
            yield order[:rows]
            order = order[rows:]

    def _logits(self, rows: list[list[int]]) -> Logits:
        """Returns fp32 `[batch, longest, vocabulary]`. Padding comes after a text, so its tokens never attend to it."""
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
        return self._decoder.step(ids, self._decoder.empty_cache(len(rows)))[0]

    def _continued(self, context: str, settings: Mapping[str, Any]) -> str:
        how: dict[str, Any] = dict(normalize_gen_kwargs(dict(settings), _NEW_TOKENS))
        new = how["max_gen_toks"]
        if new >= self.max_length:
            raise PatchCompileError(
                f"A task asks for {new} new tokens",
                f"The model reaches {self.max_length} tokens far.",
                "Leave the task out, or ask for fewer in a task file of your own (--task-folder).",
            )
        ends = None if self.eot_token_id is None else self.tokenizer.decode(self.eot_token_id)
        stop = [text for text in handle_stop_sequences(how["until"], ends) if text]
        prompt = self.tok_encode(context)[-(self.max_length - new) :]
        sampling = _sampling(how, self._generator.sampling.repetition_penalty, self._seed)
        return self._generator.generate([prompt], sampling, new_tokens=new, stop=stop)[0].text


def _scored(logits: Logits, text: _Text) -> Score:
    """Score a text. logits: `[positions, vocabulary]`, with more positions than the text if it is padded."""
    rows = logits[len(text.tokens) - len(text.scored) : len(text.tokens)].astype(np.float64)
    check_finite(rows)
    targets = torch.tensor(text.scored)
    nll = torch.nn.functional.cross_entropy(torch.from_numpy(rows), targets, reduction="sum")
    return -float(nll), bool((rows.argmax(axis=-1) == targets.numpy()).all())


def _sampling(how: Mapping[str, Any], penalty: float, seed: int) -> Sampling:
    """Returns the task's sampling, with the repetition penalty of the model's generation_config.json, like transformers.

    Raises PatchCompileError for sampling that the runtime does not have, such as beams.
    """
    other = {name: value for name, value in how.items() if name not in _SAMPLING}
    if other:
        raise PatchCompileError(
            f"A task generates with {', '.join(f'{name}={value}' for name, value in other.items())}",
            "On ONNX Runtime a continuation takes the most likely tokens, or draws by temperature, top_k and top_p.",
            "Run it with --task-backend hf.",
        )
    if not how["do_sample"]:
        return Sampling(repetition_penalty=penalty)
    drawn = {name: how[name] for name in ("temperature", "top_k", "top_p") if name in how}
    return Sampling(**(_DRAWS | drawn), repetition_penalty=penalty, seed=seed)
