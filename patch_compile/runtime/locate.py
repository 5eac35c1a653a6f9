"""What to run of an OUT folder on this machine, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from patch_compile.engine.backend import BackendName, load_backend
from patch_compile.engine.gpu import local_gpu
from patch_compile.engine.plan_program import read_programs
from patch_compile.errors import PatchCompileError
from patch_compile.plugin import LIBRARY_NAME, PluginIdentity, read_identity
from patch_compile.runtime.decoder import Decoder, Limits
from patch_compile.runtime.generator import Generator
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.runtime.sampling import Sampling

__all__ = ["Runner", "open_generator"]

_ENGINE, _ONNX, _MODEL, _RECIPE = "engine/model.engine", "onnx/model.onnx", "model", "recipe.yaml"


class Runner(StrEnum):
    """What runs the model: its engine, by the TensorRT that built it, or its ONNX file by ONNX Runtime."""

    ENGINE = "engine"
    ONNX = "onnx"


def open_generator(
    path: str | Path,
    *,
    runner: Runner | str | None = None,
    plugin: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> Generator:
    """Load what `patch-compile build` wrote, ready to generate; `generator.about` says what runs it, and why.

    path: OUT, or an engine or ONNX file; runner: None takes the engine where this machine can run it; plugin: the
    library to take in place of the one beside the engine or in it; tokenizer: the folder of a model. [OUT/model]

    Raises PatchCompileError when nothing there can be run here, saying why.
    """
    files = _files(Path(path))
    asked = None if runner is None else Runner(runner)
    model = Path(tokenizer) if tokenizer else files.model
    if model is None:
        raise PatchCompileError(
            f"{path} comes without a tokenizer",
            "there is no model folder beside it, and no recipe.yaml that names one",
            "give the model's folder with --tokenizer",
        )
    config = _json(model / "config.json")
    decoder, note = _decoder(files, asked, Path(plugin) if plugin else None, config)
    generation = _json(model / "generation_config.json")
    loaded = _tokenizer(model)
    end = _end_tokens(generation, config, loaded)
    return Generator(decoder, loaded, end, _sampling(generation), note)


@dataclass(frozen=True)
class _Files:
    """What there is to run, and the folder of the tokenizer."""

    path: Path
    engine: Path | None
    onnx: Path | None
    model: Path | None


def _files(path: Path) -> _Files:
    if not path.exists():
        raise PatchCompileError(f"there is no {path}", fix="build it: patch-compile build MODEL_DIR")
    if path.is_file():
        is_onnx = path.suffix == ".onnx"
        return _Files(path, None if is_onnx else path, path if is_onnx else None, _model(path.parent.parent))
    engine, onnx = path / _ENGINE, path / _ONNX
    return _Files(path, engine if engine.is_file() else None, onnx if onnx.is_file() else None, _model(path))


def _model(out: Path) -> Path | None:
    """The pruned model of OUT, or the one that it was compiled from."""
    if (out / _MODEL / "config.json").is_file():
        return out / _MODEL
    recipe = out / _RECIPE
    if not recipe.is_file():
        return None
    named = Path(str(yaml.safe_load(recipe.read_text()).get("model", "")))
    return named if (named / "config.json").is_file() else None


def _decoder(
    files: _Files, asked: Runner | None, plugin: Path | None, config: dict[str, Any]
) -> tuple[Decoder, str]:
    """What runs it, and why not its engine, in words."""
    limits = Limits(total=_positions(config))
    why_not = "it was not asked for"
    if asked is not Runner.ONNX:
        why = "there is none" if files.engine is None else _why_not(files.engine)
        if files.engine is not None and why is None:
            return _open_engine(files.engine, plugin, limits, _window(config)), ""
        why_not = why or ""
    if files.onnx is None or asked is Runner.ENGINE:
        built = files.engine or files.onnx
        raise PatchCompileError(
            f"no engine of {files.path} can be run here" if built else f"{files.path} is no build",
            why_not if built else f"it holds neither {_ENGINE} nor {_ONNX}",
            "run its ONNX file: --runner onnx" if files.onnx else "build it: patch-compile build MODEL_DIR",
        )
    return OnnxDecoder(files.onnx, limits, gpu=True), f"not its engine: {why_not}"


def _open_engine(engine: Path, plugin: Path | None, limits: Limits, window: int | None) -> Decoder:
    from patch_compile.runtime.engine_decoder import open_engine

    backend = load_backend(_backend(engine))
    return open_engine(engine, backend, _plugin_for(engine, plugin), limits, window)


def _plugin_for(engine: Path, given: Path | None) -> Path | None:
    """The library to register before an engine is loaded: none where it carries its own.

    Raises PatchCompileError when there is none, or the one given is of another version than the engine's own.
    """
    carried, beside = _identity(engine), engine.parent / LIBRARY_NAME
    if given is None:
        if carried is None and not beside.is_file() and _built(engine).get("patch_linears"):
            raise PatchCompileError(
                f"{engine} needs the PatchLinear plugin, and there is none",
                f"none is in it, and no {LIBRARY_NAME} beside it",
                "name one with --plugin, or make one: patch-compile plugin",
            )
        return beside if carried is None and beside.is_file() else None
    version = read_identity(given).version
    if carried is not None and carried.version != version:
        raise PatchCompileError(
            f"{given} is version {version} of the plugin, and {engine} was built with version {carried.version}",
            "the two may read packed weights differently",
            "leave --plugin out: the engine carries its own",
        )
    return given


def _identity(engine: Path) -> PluginIdentity | None:
    """Of the plugin that an engine carries."""
    try:
        return read_identity(engine)
    except PatchCompileError:
        return None


def _why_not(engine: Path) -> str | None:
    """Why this machine can't run an engine, in words; None where it can, as far as is known without trying."""
    gpu = local_gpu()
    if gpu is None:
        return "no GPU answers"
    name = _backend(engine)
    try:
        version = load_backend(name).version
    except PatchCompileError as error:
        return error.why
    built = _built(engine)
    here = "sm{}{}".format(*gpu.compute_capability)
    if built and here not in built["targets"]:
        return f"it was built for {', '.join(built['targets'])}, and this GPU ({gpu.name}) is {here}"
    if built and built["version"] != version:
        return f"it was built by {name} {built['version']}, and {version} is installed"
    return None


def _built(engine: Path) -> dict[str, Any]:
    """What the build wrote about an engine, {} for one that stands alone."""
    about = _json(engine.parent / "engine.json")
    return about if {"targets", "version", "backend"} <= about.keys() else {}


def _backend(engine: Path) -> str:
    """The library that built an engine. An engine of TensorRT-RTX shows its program, one of TensorRT does not."""
    known = _built(engine).get("backend")
    return str(known or (BackendName.TENSORRT_RTX if read_programs(engine) else BackendName.TENSORRT))


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    text: dict[str, Any] = config.get("text_config") or config
    return text


def _positions(config: dict[str, Any]) -> int | None:
    text = _text_config(config)
    return text.get("max_position_embeddings") or text.get("n_positions")


def _window(config: dict[str, Any]) -> int | None:
    """Tokens that the model's sliding window reaches, as the exported mask has it; None where there is none."""
    text = _text_config(config)
    kinds = text.get("layer_types")
    return text.get("sliding_window") if kinds is None or "sliding_attention" in kinds else None


def _end_tokens(generation: dict[str, Any], config: dict[str, Any], tokenizer: Any) -> frozenset[int]:
    """Ids that end a text: the model's own say, which may name several, before the tokenizer's."""
    for found in (generation.get("eos_token_id"), config.get("eos_token_id"), tokenizer.eos_token_id):
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


def _sampling(generation: dict[str, Any]) -> Sampling:
    """What the model's authors sample with: generation_config.json, as `transformers` reads it."""
    penalty = generation.get("repetition_penalty") or 1.0
    if not generation.get("do_sample"):
        return Sampling(repetition_penalty=penalty)

    def setting(name: str, default: float) -> float:
        value = generation.get(name)
        return default if value is None else float(value)

    return Sampling(setting("temperature", 1.0), int(setting("top_k", 50)), setting("top_p", 1.0), penalty)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PatchCompileError(f"{path} is not JSON", str(error)) from None
    return found if isinstance(found, dict) else {}


def _tokenizer(model: Path) -> Any:
    from masklearn.calibrate import load_tokenizer

    tokenizer = load_tokenizer(model)
    if not getattr(tokenizer, "is_fast", False):
        raise PatchCompileError(
            f"the tokenizer of {model} is not a fast one",
            "text is made piece by piece from a tokenizer.json",
            "convert it: transformers.AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(…)",
        )
    return tokenizer
