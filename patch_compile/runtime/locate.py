"""Chooses what to run from an OUT folder on this machine: its engine or its ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from masklearn.checkpoint.config_bounds import check_config
from masklearn.json_text import read_json
from patch_compile.engine.backend import load_backend
from patch_compile.errors import PatchCompileError, UsageError, member
from patch_compile.out.layout import ENGINE, MODEL, ONNX, RECIPE
from patch_compile.out.recipe_file import read_recipe
from patch_compile.runtime.decoder import Decoder, Limits
from patch_compile.runtime.engine_fit import EngineFacts, HostCode, engine_facts, host_code, why_not
from patch_compile.runtime.generator import Generator
from patch_compile.runtime.onnx_decoder import open_onnx
from patch_compile.runtime.sampling import Sampling

__all__ = ["Runner", "open_generator"]


class Runner(StrEnum):
    """Way to run a model: its engine with TensorRT, or its ONNX file with ONNX Runtime."""

    ENGINE = "engine"
    ONNX = "onnx"


def open_generator(
    path: str | Path,
    *,
    runner: Runner | str | None = None,
    plugin: str | Path | None = None,
    trust: bool = False,
    tokenizer: str | Path | None = None,
) -> Generator:
    """Load a build, ready to generate. `about` of the returned generator says what runs it, and why.

    path: OUT, an engine or an ONNX file; runner: None takes the engine if this machine can run it, else the ONNX file;
    plugin: library to use instead of the one that was compiled here; trust: run the plugin that came with the engine,
    whoever compiled it; tokenizer: folder of a model, default OUT/model.

    Raises PatchCompileError with the reason when this machine can't run any of it.
    """
    asked = None if runner is None else member(Runner, runner, "runner")
    files = _files(Path(path))
    if not files.engine and not files.onnx:
        raise _no_build(files.path)
    model = Path(tokenizer) if tokenizer else files.model
    if model is None:
        raise PatchCompileError(
            f"{path} comes without a tokenizer",
            f"There is no model folder beside it, and no {RECIPE} that names one.",
            "Give the model's folder with --tokenizer.",
        )
    config = _config(model / "config.json")
    code = partial(host_code, given=Path(plugin) if plugin else None, trust=trust)
    decoder, note = _decoder(files, asked, code, config)
    generation_file = model / "generation_config.json"
    generation = _generation(generation_file)
    loaded = _tokenizer(model)
    end = _end_tokens(generation, config, loaded)
    return Generator(decoder, loaded, end, _sampling(generation_file, generation), note)


@dataclass(frozen=True)
class _Files:
    """Files of a build that can be run, and the folder of its tokenizer."""

    path: Path
    engine: Path | None
    onnx: Path | None
    model: Path | None


def _files(path: Path) -> _Files:
    if not path.exists():
        raise PatchCompileError(
            f"{path} does not exist",
            "There is no such file or folder.",
            "Build it: `patch-compile build MODEL_DIR`.",
        )
    if path.is_file():
        is_onnx = path.suffix == ".onnx"
        return _Files(path, None if is_onnx else path, path if is_onnx else None, _model(path.parent.parent))
    engine, onnx = path / ENGINE, path / ONNX
    return _Files(path, engine if engine.is_file() else None, onnx if onnx.is_file() else None, _model(path))


def _model(out: Path) -> Path | None:
    """Returns the folder of OUT's pruned model, or of the model that OUT was compiled from."""
    if (out / MODEL / "config.json").is_file():
        return out / MODEL
    recipe = out / RECIPE
    if not recipe.is_file():
        return None
    named = Path(str(read_recipe(recipe).get("model", "")))
    return named if (named / "config.json").is_file() else None


def _decoder(
    files: _Files, asked: Runner | None, code: Callable[[EngineFacts], HostCode], config: dict[str, Any]
) -> tuple[Decoder, str]:
    """Returns the decoder, and a note with the reason if it does not run the engine."""
    limits = Limits(total=_positions(config))
    reason = "it was not asked for"
    if asked is not Runner.ONNX:
        facts = engine_facts(files.engine) if files.engine else None
        why = why_not(facts) if facts else "there is none"
        if facts and why is None:
            return _open_engine(facts, code(facts), limits, _window(config)), ""
        reason = why or ""
    if files.onnx is None or asked is Runner.ENGINE:
        raise _nothing_runs(files, asked, reason)
    decoder, note = open_onnx(files.onnx, limits)
    return decoder, "; ".join(filter(None, (f"not its engine: {reason}", note)))


def _no_build(path: Path) -> PatchCompileError:
    why = f"It holds neither {ENGINE} nor {ONNX}."
    if (path / "config.json").is_file():
        fix = f"Build it, and run the result: `patch-compile build {path} --ratio 0.4 -o OUT`, `patch-compile run OUT`."
        return PatchCompileError(f"{path} is a model, not a build", why, fix)
    return PatchCompileError(f"{path} is no build", why, "Build it: `patch-compile build MODEL_DIR`.")


def _nothing_runs(files: _Files, asked: Runner | None, reason: str) -> PatchCompileError:
    if asked is Runner.ONNX:
        what, why = f"{files.path} has no ONNX file to run", f"It holds no {ONNX}."
    else:
        what, why = f"No engine of {files.path} can be run here", f"The reason: {reason}."
    fix = "Run its ONNX file: --runner onnx." if files.onnx else "Build it: `patch-compile build MODEL_DIR`."
    return PatchCompileError(what, why, fix)


def _open_engine(facts: EngineFacts, code: HostCode, limits: Limits, window: int | None) -> Decoder:
    from patch_compile.runtime.engine_decoder import open_engine

    return open_engine(facts.path, load_backend(facts.backend), code, limits, window)


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    text: dict[str, Any] = config.get("text_config") or config
    return text


def _positions(config: dict[str, Any]) -> int | None:
    text = _text_config(config)
    return text.get("max_position_embeddings") or text.get("n_positions")


def _window(config: dict[str, Any]) -> int | None:
    """Returns the length of the model's sliding window in tokens, as in the exported mask; None without a window."""
    text = _text_config(config)
    kinds = text.get("layer_types")
    return text.get("sliding_window") if kinds is None or "sliding_attention" in kinds else None


def _end_tokens(generation: _Generation, config: dict[str, Any], tokenizer: Any) -> frozenset[int]:
    """Returns the ids that end a text. The model's configs come first and may name several, then the tokenizer."""
    for found in (generation.eos_token_id, config.get("eos_token_id"), tokenizer.eos_token_id):
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


class _Generation(BaseModel):
    """The settings of a generation_config.json that are used here. None stands for the default of `transformers`."""

    model_config = ConfigDict(strict=True)

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    eos_token_id: int | list[int] | None = None


def _generation(path: Path) -> _Generation:
    try:
        return _Generation.model_validate(_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise _faulty(path, f"{first['loc'][0]}: {first['msg']}.") from None


def _sampling(path: Path, generation: _Generation) -> Sampling:
    """Returns the sampling of the model's generation_config.json, with the defaults of `transformers`."""
    penalty = generation.repetition_penalty or 1.0

    def setting(value: float | None, default: float) -> float:
        return default if value is None else value

    try:
        if not generation.do_sample:
            return Sampling(repetition_penalty=penalty)
        return Sampling(
            setting(generation.temperature, 1.0),
            int(setting(generation.top_k, 50)),
            setting(generation.top_p, 1.0),
            penalty,
        )
    except UsageError as error:  # of a file it is no error of usage
        raise _faulty(path, f"{error.what}. {error.why}") from None


def _config(path: Path) -> dict[str, Any]:
    content = _json(path)
    check_config(path, content)
    return content


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = read_json(path, finite=False)
    except ValueError as error:
        raise PatchCompileError(f"{path} is not JSON", str(error), "Fetch the model again.") from None
    if not isinstance(found, dict):
        raise _faulty(path, "It is no JSON object.")
    return found


def _faulty(path: Path, why: str) -> PatchCompileError:
    return PatchCompileError(f"{path} holds settings that no model has", why, "Fetch the model again.")


def _tokenizer(model: Path) -> Any:
    from masklearn.checkpoint.pretrained import load_tokenizer

    tokenizer = load_tokenizer(model)
    if not getattr(tokenizer, "is_fast", False):
        raise PatchCompileError(
            f"The tokenizer of {model} is not a fast one",
            "Text is made piece by piece from a tokenizer.json.",
            "Convert it: `transformers.AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(…)`.",
        )
    return tokenizer
