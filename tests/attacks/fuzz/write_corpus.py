"""Writes tests/attacks/corpus anew, with the program's own writers: `python -m tests.attacks.fuzz.write_corpus`.

Inputs that once led to an error lie beside these, named after it. They are kept: nothing is deleted here.
"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow
from onnx import TensorProto, helper
from pyarrow import parquet

from masklearn.base.shard import dtype_code, write_shard
from masklearn.masks.kinds.table import FAMILIES
from masklearn.masks.linear_mask import LinearMask, kept_per_group
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import BudgetRecord, ImportRecord, MaskRecord, RepairRecord, TextRecord
from masklearn.model.checkpoint import Checkpoint
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT4, INT8
from patch_compile.artifacts.layout import BENCH, MANIFEST, RECIPE, REPORT, STATE, VERIFY
from patch_compile.artifacts.manifest import Manifest, Ratio
from patch_compile.artifacts.plan import Plan
from patch_compile.artifacts.proof import OutputDifference, OutputsDifference
from patch_compile.artifacts.record import FileRecord
from patch_compile.artifacts.state import StageRecord, WorkspaceState
from patch_compile.packing.format import pack
from patch_compile.planning.measured import MeasuredCard
from patch_compile.planning.roofline.assumptions import ASSUMED
from patch_compile.recipe import Recipe
from tests.artifacts.benched import benched
from tests.artifacts.examples import (
    MODEL,
    TOLERANCE,
    decoder_report,
    engine_report,
    linear_row,
    outputs_report,
)
from tests.attacks.fuzz.dense import CONFIG, COVERED, write_dense
from tests.attacks.fuzz.quantised import CONFIGS, TENSORS
from tests.attacks.fuzz.reader import CORPUS
from tests.attacks.fuzz.readers.shown import sound_build
from tests.conftest import write_model
from tests.engine.test_plan_program import TEXT as PROGRAM
from tests.masklearn.importers.sources import (
    maskllm_members,
    mosaic,
    patch_members,
    write_compressed,
    write_npz,
)
from tests.mosaics import random_mask, random_weight
from tests.packing.test_function import one_linear
from tests.report.page.found import verified
from tests.report.page.outs import Out

_RNG = np.random.default_rng(0)
_OUT = Path("/builds/out")
_IDENTITY = (
    b"\x7fELF"
    + bytes(12)
    + b"patch-linear-plugin version=2 backend=tensorrt cuda=13.0 archs=800,860 headers=11.0.0\0"
)
_SETTINGS = {
    "ratio": ("0.4", "mlp.*=0.5,q_proj=0", "re:.*(up|gate)_proj=0.3,*=0.1"),
    "tile": ("64x64", "128x*"),
    "lowering": ("auto", "mlp.*=plugin,q_proj=dense"),
    "target": ("a6000", "sm86,RTX 4090, 9.0"),
    "opt_shapes": ("batch=2,sequence=8,past=4", "ids:2x8,past.0:2x3x4,mask:2x12"),
    "max_shapes": ("batch=2,sequence=8,past=4",),
    "kinds": ("auto", "8:16,12:16", "mlp.*=8:16,12:16,re:.*(q|k)_proj=2:4"),
    "include": ("mlp.*", "re:.*q_proj"),
    "fuse": ("all", "qkv,gated"),
    "method": ("wanda",),
    "seed": ("3",),
}
_ONNX = """<ir_version: 10, opset_import: ["": 20]>
g (float[batch, 8] x) => (float[batch, 4] y)
   <float[8, 16] W1, float[16] b1, float[16, 4] W2 = {W2}, float[1] c>
{{ h = MatMul (x, W1)  i = Add (h, b1)  j = Relu (i)  k = MatMul (j, W2)  y = Add (k, c) }}"""


def main() -> None:
    """Write every reader's inputs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in (
            _tensors,
            _quantised,
            _published,
            _models,
            _requests,
            _texts,
            _onnx_files,
            _out,
            _engines,
        ):
            part(folder)
    for setting, texts in _SETTINGS.items():
        for i, text in enumerate(texts):
            _put("setting", f"{setting}-{i}", f"{setting} {text}".encode())


def _put(reader: str, name: str, content: bytes) -> None:
    (CORPUS / reader).mkdir(parents=True, exist_ok=True)
    (CORPUS / reader / name).write_bytes(content)


def _put_json(reader: str, name: str, content: Any) -> None:
    _put(reader, name, json.dumps(content).encode())


def _written(path: Path) -> bytes:
    content = path.read_bytes()
    path.unlink()
    return content


def _tensors(folder: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.zeros((0, 4), np.float32)}
    specs: dict[str, tuple[str, tuple[int, ...]]] = {"a": ("F16", (2, 3)), "b": ("F32", (0, 4))}
    write_shard(folder / "t", specs, arrays.__getitem__, {"format": "pt"})
    _put("safetensors", "two.safetensors", _written(folder / "t"))
    text = TextRecord(source="file", name="t.txt", sha256="ab" * 32, tokens=64, windows=2, length=32, seed=0)
    record = MaskRecord(
        skipped={"lm_head": "it is tied"}, budget=BudgetRecord(ratio=0.4, unit="weights"), text=text,
        repair=RepairRecord(method="distill", steps=4, kl_first=0.5, kl_last=0.1), criterion="wanda",
    )  # fmt: skip
    masks = {name: mosaic(_RNG, shape, (8, 8)) for name, shape in COVERED.items()}
    orders = {next(iter(COVERED)): _RNG.permutation(8).astype(np.int32)}
    for name, more in (("plain", {}), ("permuted", {"record": record, "orders": orders})):
        made = MaskSet(
            masks, method="wanda", seed=0, base_model="m", base_sha256="ab" * 32, ratio_asked=0.4, **more
        )
        made.save(folder / "m")
        _put("masks", f"{name}.safetensors", _written(folder / "m"))
    _kinds(folder)
    _grids(folder)
    imported = ImportRecord(
        source="mask.npz",
        sha256="cd" * 32,
        format="patch",
        zeros=3,
        unmasked=[],
        ignored=[],
        meta={"pattern": "2:4"},
    )
    one = dict([next(iter(masks.items()))])
    made = MaskSet(
        one, method="import:patch", seed=0, base_model="m", base_sha256="ab" * 32, ratio_asked=0.4,
        record=MaskRecord(imported=imported),
    )  # fmt: skip
    made.save(folder / "m")
    _put("masks", "imported.safetensors", _written(folder / "m"))


def _kinds(folder: Path) -> None:
    """A mask file of version 2, with its own random numbers."""
    rng, shape, tile = np.random.default_rng(1), (12, 192), (8, 64)
    kinds = np.asarray([[1, 2, 3], [0, 4, 1]], np.uint8)
    scores, kept = rng.random(shape), kept_per_group(kinds, shape, tile, "n:16")
    codes = {"2:4": FAMILIES["2:4"].best(scores, 2), "n:16": FAMILIES["n:16"].best(scores, kept)}
    masks = {
        "model.layers.0.mlp.up_proj": LinearMask.from_codes(shape, tile, kinds, codes),
        "model.layers.0.mlp.down_proj": mosaic(rng, (8, 16), (8, 8)),
    }
    made = MaskSet(masks, method="oneshot", seed=0, base_model="m", base_sha256="ab" * 32, ratio_asked=0.4)
    made.save(folder / "m")
    _put("masks", "kinds.safetensors", _written(folder / "m"))


def _grids(folder: Path) -> None:
    """A mask file of version 3: two quantised linears, one of each type, beside one that is not."""
    rng, scales = np.random.default_rng(2), np.arange(1, 9, dtype=np.float32) / 8
    masks = {f"model.layers.0.mlp.{name}": mosaic(rng, (8, 64), (8, 8)) for name in ("up", "down", "gate")}
    up, down, _ = masks
    grids = {up: Grid(INT8, scales), down: Grid(INT4, -scales.reshape(8, 1))}
    made = MaskSet(
        masks, method="oneshot", seed=0, base_model="m", base_sha256="ab" * 32, ratio_asked=0.4, grids=grids
    )
    made.save(folder / "m")
    _put("masks", "grids.safetensors", _written(folder / "m"))


def _quantised(folder: Path) -> None:
    for name, about in CONFIGS.items():
        tensors = TENSORS[name]
        specs = {tensor: (dtype_code(array.dtype), array.shape) for tensor, array in tensors.items()}
        write_shard(folder / "t", specs, tensors.__getitem__, {"format": "pt"})
        _put("quantised", f"{name}.safetensors", _written(folder / "t"))
        _put_json("quantisation", f"{name}.json", {"quantization_config": about})
    refused = CONFIGS["ct-int4"] | {"kv_cache_scheme": {"num_bits": 8}}
    _put_json("quantisation", "refused-cache.json", {"quantization_config": refused})


def _published(folder: Path) -> None:
    checkpoint = Checkpoint.open(write_dense(folder / "dense"))
    two_four = {name: mosaic(_RNG, shape, (4096, 4096), sparse=1.1).keep() for name, shape in COVERED.items()}
    mixed = {name: mosaic(_RNG, shape, (16, 16)).keep() for name, shape in COVERED.items()}
    for name, members in (("maskllm", maskllm_members(two_four)), ("patch", patch_members(mixed))):
        _put("published-npz", f"{name}.npz", _written(write_npz(folder / "m.npz", members)))
    for name, keeps in (("two-four", two_four), ("any", mixed)):
        source = write_compressed(folder / name, checkpoint, keeps)
        _put("published-folder", f"{name}.safetensors", (source / "model.safetensors").read_bytes())


def _models(folder: Path) -> None:
    _put_json("config", "llama.json", CONFIG)
    _put_json("config-alone", "llama.json", CONFIG)
    for kind in ("gpt2", "bert", "qwen3", "gemma3", "mixtral"):
        model = write_model(folder / kind, kind)
        _put("config-alone", f"{kind}.json", (model / "config.json").read_bytes())
    _put_json("generation-of-config", "llama.json", CONFIG | {"eos_token_id": [1, 2]})
    generation = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "eos_token_id": [1, 2]}
    _put_json("generation", "sampling.json", generation)
    names = Checkpoint.open(folder / "dense").names()
    index = {"metadata": {"total_size": 9}, "weight_map": dict.fromkeys(names[:3], "model.safetensors")}
    _put_json("index", "one.json", index)
    for file, reader in (("tokenizer", "tokenizer"), ("tokenizer_config", "tokenizer-config")):
        _put(reader, "word-level.json", (folder / "bert" / f"{file}.json").read_bytes())
    _put("json", "object", b'{"a": [1, -2.5e3, true, null, "\\u00e9\\n"], "b": {"c": {}}}')
    _put("json", "number", b" -0.5E-2 ")
    _put("json", "refused-surrogates", b'["\\ud83d\\ude00", "\\ud800"]')


def _requests(folder: Path) -> None:
    common = {"max_tokens": 8, "temperature": 0.7, "top_p": 0.9, "seed": -3, "stop": ["."], "stream": True}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    _put_json("request", "completion.json", common | {"prompt": ["the cat", "sat"], "logprobs": 2})
    _put_json("request", "tokens.json", {"prompt": [[1, 2], [3]], "n": 2, "best_of": 1, "logit_bias": {}})
    chat = {
        "messages": messages,
        "logprobs": True,
        "top_logprobs": 3,
        "stream_options": {"include_usage": True},
    }
    _put_json("request", "chat.json", common | chat)


def _texts(folder: Path) -> None:
    _put("text-plain", "two-lines", "the cat sat é\nand ran".encode())
    _put("text-plain", "byte-order-mark", "\ufeffthe cat".encode())
    _put("text-json-lines", "two.jsonl", b'{"text": "the cat", "id": 1}\n\n{"text": null}\n{"text": "sat"}\n')
    _put("text-json-lines", "other-column.jsonl", b'{"id": 1, "story": "the cat"}\n')
    _put("text-json-lines", "refused-chat.jsonl", b'{"messages": [{"role": "user", "content": "hi"}]}\n')
    _put_json("text-json", "array.json", [{"text": "the cat"}, {"text": None}, {"text": "sat"}])
    for name, columns in (("text", {"text": ["the cat", None]}), ("number", {"n": [1, 2], "s": ["a", "b"]})):
        written = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), written)
        _put("text-parquet", f"{name}.parquet", written.getvalue())
    for i, spec in enumerate(
        ("a.txt", "b.jsonl:text", ".:config:train", "owner/name:config:split:text", "b.jsonl")
    ):
        _put("text-name", f"{i}", spec.encode())


def _onnx_files(folder: Path) -> None:
    model = onnx.parser.parse_model(_ONNX.format(W2="{" + ", ".join(["0.5"] * 64) + "}"))
    for name, shape in (("W1", (8, 16)), ("b1", (16,)), ("c", (1,))):
        model.graph.initializer.append(
            helper.make_tensor(name, TensorProto.FLOAT, shape, np.ones(shape, np.float32).tobytes(), raw=True)
        )
    _put("onnx", "two-linears.onnx", model.SerializeToString())
    first = next(tensor for tensor in model.graph.initializer if tensor.name == "W1")
    first.ClearField("raw_data")
    first.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "data.bin"), ("offset", "0"), ("length", "512")):
        first.external_data.add(key=key, value=value)
    _put("onnx", "external.onnx", model.SerializeToString())
    mask, _ = random_mask((4, 4), (4, 4), 1.0, 0)
    packed = pack(random_weight((4, 4), np.float16, 0).view(np.uint16), mask, 64)
    _put("onnx-inspect", "sparse.onnx", one_linear(packed, np.float16).SerializeToString())
    arrays = {
        "runs": {
            "ids": np.zeros((2, 3, 4), np.int64), "x": np.zeros((2, 3, 8), np.float32), "scale": np.ones(2, np.float32),
        },
        "samples": {"ids": np.zeros((3, 4), np.int32), "x": np.zeros((3, 8), np.float16), "scale": np.float32(1)},
    }  # fmt: skip
    for name, given in arrays.items():
        written = io.BytesIO()
        np.savez_compressed(written, **given)
        _put("inputs-npz", f"{name}.npz", written.getvalue())


def _out(folder: Path) -> None:
    recipe = Recipe.parse({"model": "/models/m", "ratio": "mlp.*=0.5", "tile": "64x64", "target": "a6000"})
    recipe.save(folder / RECIPE, texts=())
    _put("recipe", "ratio.yaml", _written(folder / RECIPE))
    _put_json(
        "recipe",
        "mask.json",
        {"model": "m", "mask": "masks.safetensors", "fuse": ["qkv"], "opt_shapes": "x:1x8"},
    )
    stages = {"masks": StageRecord("ab" * 32, {"masks.safetensors": "cd" * 32})}
    manifest = Manifest(
        model=MODEL, ratio=Ratio(asked=0.4, reached=0.4), method="wanda", seed=0, versions={"python": "3.11"},
        files=stages["masks"].files, stages=stages,
    )  # fmt: skip
    plan = Plan.model_validate(
        {"totals": {"bytes_before": 9, "bytes_after": 8}, "whole": None, "card": None, "workload": None,
         "unpredicted": "no-card", "linears": [linear_row("q")]}
    )  # fmt: skip
    made = Out(folder / "verified")
    records: dict[str, FileRecord] = {
        "manifest": manifest, "engine": engine_report(), "plan": plan, "bench": benched(),
        "verify": verified(made).model_copy(update={"where": None}),
    }  # fmt: skip
    for name, record in records.items():
        _put_json("record", f"{name}.json", _without(record.as_json(), folder))
    _put_json("manifest-inspect", MANIFEST, manifest.as_json())
    shown = sound_build(folder / "shown")
    for reader, place in (
        ("page-report", REPORT),
        ("page-verify", VERIFY),
        ("page-bench", BENCH),
        ("page-recipe", RECIPE),
    ):
        _put(reader, Path(place).name, (shown / place).read_bytes().replace(bytes(folder), b"/builds"))
    _put("compared", REPORT, (shown / REPORT).read_bytes().replace(bytes(folder), b"/builds"))
    _put_json("engine-described", "engine.json", engine_report().as_json())
    difference = OutputsDifference(
        outputs=(OutputDifference(output="y", largest=0.1, relative=0.2, floating=True),)
    )
    for name, report in (
        ("decoder", decoder_report(_OUT)),
        ("onnx", outputs_report(_OUT, difference, TOLERANCE)),
    ):
        _put_json("report", f"{name}.{REPORT}", report.as_json())
    WorkspaceState(stages).write(folder)
    _put("state", STATE, _written(folder / STATE))
    _put_json("measured", "card.json", _measured())


def _without(content: Any, folder: Path) -> Any:
    return json.loads(json.dumps(content).replace(str(folder), "/builds"))


def _measured() -> dict[str, Any]:
    card = MeasuredCard(
        gpu="NVIDIA RTX A6000", card="A6000", own=True, clocks={"sm_mhz": 1755.0}, driver="580.82", backend="tensorrt",
        version="11.0.1", date="2026-11-25T12:00:00+00:00", model="m", assumptions={"bandwidth": ASSUMED.bandwidth},
        left={"launch": "these times hardly depend on it"}, times=16, error={"before": 0.21, "after": 0.03},
    )  # fmt: skip
    return {"schema": 1, **card.model_dump(mode="json")}


def _engines(folder: Path) -> None:
    second = PROGRAM.replace('proj" output', 'proj [profile 1]" output')
    _put("engine", "two-profiles", b"ELF\0" + PROGRAM.encode() + b"\0weights" + second.encode())
    _put("engine", "with-plugin", PROGRAM.encode() + b"\0" + _IDENTITY)
    _put("plugin", "identity", _IDENTITY)


if __name__ == "__main__":
    main()
