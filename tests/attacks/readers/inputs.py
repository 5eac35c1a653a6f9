"""Readers of models, masks, ONNX files, texts, engines, requests, and of values that users spell."""

from __future__ import annotations

import os
import shutil
from contextlib import chdir
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from masklearn.base.safe_read import parse_json
from masklearn.base.shard import Shard, write_shard
from masklearn.choice.goal import Goal
from masklearn.importers.importing import import_masks
from masklearn.masks.maskset import MaskSet
from masklearn.masks.name_globs import check_patterns
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage
from masklearn.model.pretrained import load_tokenizer
from masklearn.text.files import file_text
from masklearn.text.source import open_text
from patch_compile import Sampling
from patch_compile.engine.profiles import parse_profile
from patch_compile.errors import PatchCompileError
from patch_compile.hardware.cards import parse_targets
from patch_compile.inspection.binaries import inspect_engine_file, inspect_plugin
from patch_compile.inspection.folders import inspect_checkpoint
from patch_compile.inspection.onnx_graph import inspect_onnx
from patch_compile.inspection.tensors import inspect_tensors
from patch_compile.onnx_io.feeds import feeds_from_npz
from patch_compile.onnx_io.graph_inputs import GraphInput
from patch_compile.pipeline.plan import plan
from patch_compile.planning.lowering import asked_lowerings
from patch_compile.recipe import Recipe
from patch_compile.runtime.engine_fit import engine_facts
from patch_compile.runtime.model_configs import read_model_configs
from patch_compile.sources.onnx_model.facts import examine
from samples.serve_http.protocol import ApiError, ChatRequest, CompletionRequest, parse
from tests.attacks.mutations import (
    Mutation,
    change_bytes,
    change_json,
    change_json_lines,
    change_npz,
    change_onnx,
    change_safetensors,
    change_words,
)
from tests.attacks.reader import CORPUS, accepted, placed, reader

_BLOCK, _H, _I, _V = "model.layers.0", 16, 32, 24
_COVERED = {f"{_BLOCK}.mlp.up_proj": (_I, _H), f"{_BLOCK}.mlp.down_proj": (_H, _I)}
# Weights of the model of corpus/config/llama.json.
_WEIGHTS: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (_V, _H), "model.norm.weight": (_H,),
    f"{_BLOCK}.input_layernorm.weight": (_H,), f"{_BLOCK}.post_attention_layernorm.weight": (_H,),
    **{f"{_BLOCK}.self_attn.{name}_proj.weight": (_H, _H) for name in "qkvo"},
    **{f"{name}.weight": shape for name, shape in _COVERED.items()}, f"{_BLOCK}.mlp.gate_proj.weight": (_I, _H),
}  # fmt: skip


def _dense(folder: Path) -> Path:
    """Write a dense model into a folder, once; no weight is zero."""
    if not folder.is_dir():
        folder.mkdir()
        shutil.copyfile(CORPUS / "config" / "llama.json", folder / "config.json")
        rng = np.random.default_rng(0)
        write_shard(
            folder / "model.safetensors",
            {name: ("F32", shape) for name, shape in _WEIGHTS.items()},
            lambda name: rng.random(_WEIGHTS[name], np.float32) + np.float32(0.1),
            {"format": "pt"},
        )
    return folder


@reader("safetensors", change_safetensors)
def _safetensors(data: bytes, folder: Path) -> None:
    shard = Shard.open(placed(folder, "t.safetensors", data))
    for name, entry in shard.tensors.items():
        assert shard.read(name).shape == entry.shape


@reader("masks", change_safetensors)
def _masks(data: bytes, folder: Path) -> None:
    path = placed(folder, "masks.safetensors", data)
    inspect_tensors(path)
    masks = MaskSet.load(path)
    again = folder / "again.safetensors"
    masks.save(again)
    same = MaskSet.load(again)
    assert same.tile_sizes() == masks.tile_sizes() and same.shapes() == masks.shapes()
    for name, mask in masks.items():
        assert (same[name].pattern == mask.pattern).all() and (same[name].mask16 == mask.mask16).all()
        assert (same[name].mask8 == mask.mask8).all()
        assert (same[name].kinds == mask.kinds).all()
    assert same.grids.keys() == masks.grids.keys()
    for name, grid in masks.grids.items():
        assert same.grids[name].type == grid.type
        assert same.grids[name].scales.tobytes() == grid.scales.tobytes()


@cache
def _target(folder: Path) -> tuple[Checkpoint, Coverage]:
    return Checkpoint.open(_dense(folder / "dense")), Coverage(_COVERED, {})


@reader("published-npz", change_npz)
def _archive(data: bytes, folder: Path) -> None:
    import_masks(placed(folder, "mask.npz", data), *_target(folder))


@reader("published-folder", change_safetensors)
def _compressed(data: bytes, folder: Path) -> None:
    source = _dense(folder / "compressed")
    placed(source, "model.safetensors", data)
    import_masks(source, *_target(folder))


@reader("json", change_json, refuses=(ValueError,))
def _json(data: bytes, folder: Path) -> None:
    parse_json(data)


@reader("config-alone", change_json)
def _config_alone(data: bytes, folder: Path) -> None:
    model = placed(folder / "config-alone", "config.json", data).parent
    plan(Recipe.parse({"model": model, "ratio": 0.4, "target": "a6000"}))


@reader("config", change_json)
def _config(data: bytes, folder: Path) -> None:
    inspect_checkpoint(placed(_dense(folder / "config"), "config.json", data).parent)


@reader("index", change_json)
def _index(data: bytes, folder: Path) -> None:
    model = _dense(folder / "index")
    checkpoint = Checkpoint.open(placed(model, "model.safetensors.index.json", data).parent)
    assert {file.parent for file in checkpoint.files()} == {model.resolve()}


@reader("generation", change_json)
def _generation(data: bytes, folder: Path) -> None:
    """Read the settings of generating as `open_generator` does, but without a decoder."""
    found = read_model_configs(placed(folder / "generation", "generation_config.json", data).parent)
    assert all(isinstance(token, int) for token in found.end_tokens(SimpleNamespace(eos_token_id=1)))


@reader("generation-of-config", change_json)
def _generation_of_config(data: bytes, folder: Path) -> None:
    found = read_model_configs(placed(folder / "generation-config", "config.json", data).parent)
    assert found.positions is None or found.positions > 0
    assert found.window is None or found.window >= 0
    assert all(isinstance(token, int) for token in found.end_tokens(SimpleNamespace(eos_token_id=1)))


@reader("tokenizer", change_json)
def _tokenizer(data: bytes, folder: Path) -> None:
    load_tokenizer(placed(_dense(folder / "tokenizer"), "tokenizer.json", data).parent)


@reader("tokenizer-config", change_json)
def _tokenizer_config(data: bytes, folder: Path) -> None:
    model = _dense(folder / "tokenizer-config")
    placed(model, "tokenizer.json", (CORPUS / "tokenizer" / "word-level.json").read_bytes())
    load_tokenizer(placed(model, "tokenizer_config.json", data).parent)


def _quantised_with(data: bytes, name: str, folder: Path, others: str, other: str) -> None:
    """Read a file of a quantised model next to each sound file of another kind, of which at most one is its own."""
    model, refused = placed(folder / "quantised", name, data).parent, None
    for file in accepted(others):
        placed(model, other, file.read_bytes())
        try:
            _read_all(model)
            return
        except PatchCompileError as error:
            refused = error
    assert refused is not None
    raise refused


@reader("quantised", change_safetensors)
def _quantised(data: bytes, folder: Path) -> None:
    _quantised_with(data, "model.safetensors", folder, "quantisation", "config.json")


@reader("quantisation", change_json)
def _quantisation(data: bytes, folder: Path) -> None:
    _quantised_with(data, "config.json", folder, "quantised", "model.safetensors")


def _read_all(model: Path) -> None:
    checkpoint = Checkpoint.open(model)
    for name in checkpoint.names():
        assert checkpoint.read(name).shape == checkpoint.shape(name)
    for linear, grid in checkpoint.grids.items():
        weight = checkpoint.read(f"{linear}.weight")
        if np.isfinite(weight.astype(np.float32)).all():
            grid.integers(weight)


def _text(data: bytes, folder: Path, suffix: str) -> None:
    for piece in file_text(placed(folder, f"text{suffix}", data)):
        assert isinstance(piece, str)


_TEXTS: dict[str, tuple[str, Mutation]] = {
    "plain": (".txt", change_bytes), "json-lines": (".jsonl", change_json_lines), "json": (".json", change_json),
    "parquet": (".parquet", change_bytes),
}  # fmt: skip
for _name, (_suffix, _mutate) in _TEXTS.items():
    reader(f"text-{_name}", _mutate)(partial(_text, suffix=_suffix))


@reader("text-name", change_words)
def _named(data: bytes, folder: Path) -> None:
    """Find the text that a user names, below a folder with some texts; the rest of the disk is not searched."""
    spec = data.decode(errors="surrogateescape")
    if spec.startswith(("/", "~")) or ".." in spec:
        return
    texts = folder / "named"
    placed(texts, "a.txt", b"the cat")
    placed(texts, "b.jsonl", b'{"text": "the cat"}')
    with chdir(texts):
        os.fspath(open_text(spec).spec)


_INPUTS = (GraphInput("ids", ("batch", 4)), GraphInput("x", ("batch", 8)), GraphInput("scale", ()))
_DTYPES = {"ids": np.dtype(np.int64), "x": np.dtype(np.float32), "scale": np.dtype(np.float32)}


def _beside_its_data(data: bytes, folder: Path) -> Path:
    placed(folder, "data.bin", bytes(range(256)) * 16)
    return placed(folder, "model.onnx", data)


@reader("onnx", change_onnx)
def _onnx(data: bytes, folder: Path) -> None:
    examine(Recipe.parse({"model": _beside_its_data(data, folder), "ratio": 0.4}))


@reader("onnx-inspect", change_onnx)
def _onnx_inspect(data: bytes, folder: Path) -> None:
    inspect_onnx(_beside_its_data(data, folder))


@reader("inputs-npz", change_npz)
def _inputs_npz(data: bytes, folder: Path) -> None:
    for feed in feeds_from_npz(placed(folder, "inputs.npz", data), _INPUTS, _DTYPES):
        assert {name: array.dtype for name, array in feed.items()} == _DTYPES


@reader("engine", change_words)
def _engine(data: bytes, folder: Path) -> None:
    engine = placed(folder, "model.engine", data)
    assert engine_facts(engine).path == engine
    inspect_engine_file(engine)


@reader("engine-described", change_json)
def _engine_described(data: bytes, folder: Path) -> None:
    described = placed(folder / "described", "engine.json", data).parent
    engine_facts(placed(described, "model.engine", b"\x7fELF"))


@reader("plugin", change_bytes)
def _plugin(data: bytes, folder: Path) -> None:
    inspect_plugin(placed(folder, "libpatch_linear.so", data))


@reader("request", change_json, refuses=(ApiError,))
def _request(data: bytes, folder: Path) -> None:
    """Read a body as the kind of request that it looks like. An ApiError is the server's answer."""
    kind = ChatRequest if b'"messages"' in data else CompletionRequest
    request = parse(kind, data)
    request.sampling(Sampling())
    assert (request.asked_tokens or 1) >= 1
    assert (request.asked_logprobs or 0) <= 20


_NAMES = [f"model.layers.{i}.{part}" for i in range(2) for part in ("mlp.up_proj", "self_attn.q_proj")]
_DECODER = (
    GraphInput("ids", ("batch", "sequence")),
    GraphInput("past.0", ("batch", 3, "past")),
    GraphInput("mask", ("batch", "past + sequence")),
)
_PATTERNS = ("include", "exclude")


@reader("setting", change_words)
def _setting(data: bytes, folder: Path) -> None:
    """Check `SETTING TEXT`, and take its value as a build does. Regular expressions are compiled, and not run: their time
    has no bound."""
    name, _, text = data.decode(errors="replace").partition(" ")
    settings: dict[str, Any] = {"model": "m", "ratio": 0.4} | {name: (text,) if name in _PATTERNS else text}
    recipe = Recipe.parse(settings)
    assert Recipe.parse(recipe.model_dump()) == recipe
    if recipe.target is not None:
        parse_targets(recipe.target)
    shapes = (recipe.min_shapes, recipe.opt_shapes, recipe.max_shapes)
    if any(shapes):
        parse_profile(_DECODER, min_shapes=shapes[0], opt_shapes=shapes[1], max_shapes=shapes[2])
    if "re:" in text:
        return
    for option in _PATTERNS:
        check_patterns(getattr(recipe, option), _NAMES, f"--{option}")
    asked_lowerings(recipe.lowering, _NAMES)
    if recipe.ratio is not None:
        budget = Goal.of_ratio(recipe.ratio)
        assert all(0 <= ratio <= 0.5 for ratio in budget.evenly(dict.fromkeys(_NAMES, 64)).values())
