"""Chooses which file of an OUT folder to run on this machine: its engine or its ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from masklearn.base.errors import member
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import ENGINE, ENGINE_FOLDER, MANIFEST, MODEL, ONNX, ONNX_FOLDER, RECIPE
from patch_compile.artifacts.place import no_build
from patch_compile.artifacts.recipe_file import read_recipe
from patch_compile.engine.backend import Runner, load_backend
from patch_compile.engine.plan_program import is_engine
from patch_compile.errors import PatchCompileError, sentence
from patch_compile.runtime.decoder import Decoder, Limits
from patch_compile.runtime.engine_fit import EngineFacts, HostCode, engine_facts, host_code, why_not
from patch_compile.runtime.generator import Generator
from patch_compile.runtime.model_configs import ModelConfigs, read_model_configs
from patch_compile.runtime.onnx_decoder import open_onnx


def open_generator(
    path: str | Path,
    *,
    runner: Runner | str | None = None,
    plugin: str | Path | None = None,
    trust: bool = False,
    tokenizer: str | Path | None = None,
    check: bool = False,
) -> Generator:
    """Load a build, ready to generate. `about` of the returned generator names the runtime and the reason for it.

    path: OUT, an engine or an ONNX file; runner: None takes the engine if this machine can run it, else the ONNX file;
    plugin: library to use instead of the library that was compiled here; trust: run the plugin that came with the engine,
    whoever compiled it; tokenizer: folder of a model, default OUT/model; check: compare every file of OUT with the sha256 in
    its manifest first. The sizes of engine and ONNX file are compared always.

    Raises PatchCompileError with the reason when this machine can't run any of it, or OUT is not what its manifest says.
    """
    asked = None if runner is None else member(Runner, runner, "runner")
    files = _files(Path(path))
    if not files.engine and not files.onnx:
        raise no_build(files.path, f"It holds neither {ENGINE} nor {ONNX}.")
    _check_whole(files, check)
    model = Path(tokenizer) if tokenizer else files.model
    if model is None:
        raise PatchCompileError(
            f"{path} comes without a tokenizer",
            f"No model folder is next to it, and no {RECIPE} names a model folder.",
            "Give the model's folder with `tokenizer`.",
        )
    configs = read_model_configs(model)
    code = partial(host_code, given=Path(plugin) if plugin else None, trust=trust)
    decoder, note = _decoder(files, asked, code, configs)
    loaded = _tokenizer(model)
    return Generator(decoder, loaded, frozenset(configs.end_tokens(loaded)), configs.sampling, note)


@dataclass(frozen=True)
class _Files:
    """Files of a build that can be run, and the folder of its tokenizer."""

    path: Path
    engine: Path | None
    onnx: Path | None
    model: Path | None


def _files(path: Path) -> _Files:
    if not path.exists():
        raise no_build(path, "")
    if path.is_file():
        is_onnx = path.suffix == ".onnx"
        if not is_onnx and not is_engine(path):
            raise PatchCompileError(
                f"{path} is neither an engine nor an ONNX file",
                "Its name and its content are of another kind.",
                f"Give OUT, OUT/{ENGINE} or OUT/{ONNX}.",
            )
        return _Files(path, None if is_onnx else path, path if is_onnx else None, _model(path.parent.parent))
    engine, onnx = path / ENGINE, path / ONNX
    return _Files(path, engine if engine.is_file() else None, onnx if onnx.is_file() else None, _model(path))


def _check_whole(files: _Files, check: bool) -> None:
    """Raise PatchCompileError if the build is not what its manifest says. check: read every file, instead of its size."""
    out = files.path if files.path.is_dir() else files.path.parent.parent
    if check or (out / MANIFEST).is_file():
        OutFolder.open(out, check=check).check_sizes((ENGINE_FOLDER, ONNX_FOLDER))


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
    files: _Files, asked: Runner | None, code: Callable[[EngineFacts], HostCode], configs: ModelConfigs
) -> tuple[Decoder, str]:
    """Returns the decoder, and a note with the reason if it does not run the engine."""
    limits = Limits(total=configs.positions)
    reason = "it was not asked for"
    if asked is not Runner.ONNX:
        facts = engine_facts(files.engine) if files.engine else None
        why = why_not(facts) if facts else "there is none"
        if facts and why is None:
            from patch_compile.runtime.engine_decoder import open_engine

            backend = load_backend(facts.backend)
            return open_engine(facts.path, backend, code(facts), limits, configs.window), ""
        reason = why or ""
    if files.onnx is None or asked is Runner.ENGINE:
        raise _nothing_runs(files, asked, reason)
    decoder, note = open_onnx(files.onnx, limits)
    return decoder, "; ".join(filter(None, (f"not its engine: {reason}", note)))


def _nothing_runs(files: _Files, asked: Runner | None, reason: str) -> PatchCompileError:
    if asked is Runner.ONNX:
        what, why = f"{files.path} has no ONNX file to run", f"It holds no {ONNX}."
    elif files.engine is None:
        why = f"It holds no {ENGINE}." if files.path.is_dir() else "It is an ONNX file."
        what = f"{files.path} has no engine to run"
    else:
        what, why = f"The engine of {files.path} can't run here", sentence(reason)
    fix = "Run its ONNX file: `runner` onnx." if files.onnx else "Build it: `patch-compile build MODEL_DIR`."
    return PatchCompileError(what, why, fix)


def _tokenizer(model: Path) -> Any:
    from masklearn.model.pretrained import load_tokenizer

    tokenizer = load_tokenizer(model)
    if not getattr(tokenizer, "is_fast", False):
        raise PatchCompileError(
            f"The tokenizer of {model} is not a fast tokenizer",
            "Text is made piece by piece from a tokenizer.json.",
            "Convert it: `transformers.AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(…)`.",
        )
    return tokenizer
