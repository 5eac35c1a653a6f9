"""Hostile files, folders and words: each broke a command once, or is the sharpest of its kind.

A case is a sound file with one thing wrong. `readers` and `fuzz` change all fields of all formats. They can't see that a
command names the file, stays within its OUT, its time and its memory, and neither runs nor prints what it is given. What the
tests of a reader already refuse (FIFOs, pickles, deep or huge JSON, archives and tensors that lie) is not repeated here.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import onnx
from onnx import TensorProto, helper

from patch_compile.artifacts import layout
from tests.attacks.attack import BUILD, Attack
from tests.attacks.hostile import changes
from tests.attacks.hostile.changes import (
    CANARY,
    FIFO,
    alone,
    changed,
    graph,
    in_model,
    in_out,
    link,
    write,
)
from tests.attacks.sandbox import Case, judged

_SHORT = (
    "--ratio 0.4 --method {} --tile 32x32 --calib {} --eval SOUND/eval.txt --eval-windows 1 --eval-length 16"
)
_LEARN = _SHORT.format("magnitude", "SOUND/text.txt")
_WANDA = _SHORT.format("wanda --windows 1 --length 16", "{}")  # it reads text
_MADE = "--backend onnx --lowering plugin"
LEARN, PLAN, INSPECT = f"learn stranger -o out {_LEARN}", "plan stranger --ratio 0.4", "inspect stranger"
TOKENIZED = f"learn stranger -o out {_WANDA.format('SOUND/text.txt')}"
OF_WEIGHTS, WEIGHTS = f"{INSPECT}/model.safetensors", "model.safetensors"
_W = "model.layers.0.self_attn.q_proj.weight"
ONNX = f"inspect {changes.ONNX}"
_BUILD = f"build {changes.ONNX} -o out --ratio 0.4 --method {{}} --tile 32x32 {_MADE}"
ONNX_BUILD, ONNX_SOLVE = _BUILD.format("magnitude"), f"{_BUILD.format('sparsegpt')} --calib inputs.npz"
ONNX_RUN = f"run {changes.ONNX} 'the cat' --runner onnx --tokenizer SOUND/model --new-tokens 2"
RECIPE = f"build --recipe stranger.yaml -o out --force {_MADE}"
RUN, RUN_ENGINE = (f"run stranger 'the cat' --new-tokens 2{runner}" for runner in (" --runner onnx", ""))
VERIFY = "verify stranger --only pruned --lengths {}"
ENGINE = f"inspect stranger/{layout.ENGINE}"
RED, UP = "\x1b[31mred", "../../outside"
_ALIASES = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(30))
_OWN = {"auto_map": {"AutoConfig": "stranger.Stranger", "AutoModelForCausalLM": "stranger.Stranger"}}


def _reads(file: str) -> str:
    return f"learn SOUND/model -o out {_WANDA.format(file)}"


def _both(*makes: Any) -> Any:
    return lambda sound, folder: [make(sound, folder) for make in makes]


def _entry(**settings: Any) -> Any:
    return in_model(WEIGHTS, changes.header(lambda header: header[_W].update(settings)))


def _mask(change: Any) -> Any:
    return changed("masks.safetensors", "", changes.header(change), to="stranger.safetensors")


def _named(place: str) -> Any:
    """A manifest that names a file."""
    rename = changes.rewrite(lambda manifest: manifest["files"].update({place: "0" * 64}))
    return in_out(layout.MANIFEST, rename)


def _input(shape: Any, kind: int = TensorProto.FLOAT) -> Any:
    return graph(lambda model: model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", kind, shape)))


def _loop(source: str, *given: Any) -> Any:
    return graph(changes.loop(*given), source)


def _patch(**attributes: Any) -> Any:
    return graph(changes.patch(**attributes), f"out/{layout.ONNX}")


_SOUND = _both(changed("model", "", lambda path: None), alone("stranger-link", link("stranger")))
# Name, maker, command. A rule that differs is in `_RULES`.
_INPUTS: tuple[tuple[str, Any, str], ...] = (
    ("weights: called with colours", in_model(WEIGHTS, changes.header(lambda h: h.update({RED: h.pop(_W)}))), LEARN),
    ("weights: no rows", _entry(shape=[0, 64], data_offsets=[0, 0]), LEARN),
    ("weights: 3e38", in_model(WEIGHTS, changes.number(_W, 3e38)), LEARN),
    ("masks: deep metadata", _mask(lambda h: h["__metadata__"].update(extra="[" * 10**5)), "inspect stranger.safetensors"),
    ("masks: a flat pattern", _mask(lambda h: [one.update(dtype="F64", shape=[8]) for name, one in h.items()
        if name.endswith(".pattern")]), "plan SOUND/model --mask stranger.safetensors"),
    ("config: coloured type", in_model("config.json", changes.fields(model_type=RED)), LEARN),
    ("config: a link to itself", in_model("config.json", link("config.json")), PLAN),
    ("tokenizer: a FIFO", in_model("tokenizer.json", FIFO), TOKENIZED),
    *((f"index: a shard at {place!r}", in_model("model.safetensors.index.json", write({"weight_map": {_W: place}})), LEARN)
        for place in (UP, "/etc/passwd", "a\0b", "\ud800", RED)),
    *((f"folder: a link to {to}", in_model(name, link(to)), LEARN)
        for to, name in (("/etc", "data"), ("/dev/zero", "z.json"), (".", "self"))),
    ("folder: a FIFO beside", in_model("extra.json", FIFO), LEARN),
    ("folder: a coloured name", in_model(f"{RED}.json", write(b"{}")), INSPECT),
    ("code: a model's own", _both(in_model("config.json", changes.fields(**_OWN, model_type="stranger")),
        alone("stranger/stranger.py", write(CANARY))), LEARN),
    ("code: a tokenizer's own", _both(in_model("tokenizer_config.json", changes.fields(
        auto_map={"AutoTokenizer": ["stranger.Stranger", None]}, tokenizer_class="StrangerTokenizer")),
        alone("stranger/stranger.py", write(CANARY))), TOKENIZED),
    ("text: a dataset's script", alone("stranger/stranger.py", write(CANARY)), _reads("stranger::train")),
    ("text: a FIFO", alone("stranger.jsonl", FIFO), _reads("stranger.jsonl")),
    ("text: a word of 30 MB", alone("stranger.txt", write(b"c" * 30_000_000)), _reads("stranger.txt")),
    ("text: a coloured key", alone("stranger.jsonl", write(b'{"\\u001b[31m": 1}\n')), _reads("stranger.jsonl")),
    *((f"recipe: {name}", alone("stranger.yaml", write(content)), RECIPE) for name, content in {
        "aliases": _ALIASES, "an alias of itself": "a: &a [*a]\n",
        "Python": f"model: !!python/object/apply:builtins.exec [\"{CANARY}\"]\n", "a raw escape": f"model: {RED}\n",
        "NaN": "model: stranger\nratio: .nan\n", "OUT above": "model: stranger\nout: ../..\n"}.items()),
    *((f"onnx: a linear called {name[:12]!r}", graph(changes.renamed(f"{name}.weight")), ONNX_SOLVE)
        for name in (f"../{UP}", "/outside", "x" * 300, RED)),
    ("onnx: a loop", _loop("model.onnx", "second", TensorProto.FLOAT, [64, 64], "Relu"), ONNX_BUILD),
    ("onnx: 3e38", graph(lambda m: m.graph.initializer[0].CopyFrom(
        helper.make_tensor("first", TensorProto.FLOAT, [64, 64], [3e38] * 4096))), ONNX_SOLVE),
    ("onnx: no operator of ONNX Runtime", graph(
        lambda m: m.graph.node[0].MergeFrom(onnx.NodeProto(op_type="Stranger", name=RED))), ONNX_BUILD),
    ("onnx: a circle", graph(lambda m: m.graph.node[0].input.__setitem__(0, "y")), ONNX_BUILD),
    ("onnx: an input without rows", _input([0, 64]), ONNX_BUILD),
    ("onnx: deep", graph(changes.nested_graphs), ONNX),
    ("onnx: sides that wrap", graph(changes.weight(dims=[2**32, 2**32])), ONNX_BUILD),
    ("onnx: an unknown type", graph(changes.weight(data_type=99)), ONNX),
    ("onnx: IR version 2**62", graph(lambda m: setattr(m, "ir_version", 2**62)), ONNX_BUILD),
    ("onnx: coloured metadata", graph(lambda m: m.metadata_props.add(key=RED, value=RED)), ONNX),
    ("hybrid: a negative index", _patch(index=[-(2**63)] * 9), ONNX_RUN),
    ("hybrid: a coloured plugin", _patch(plugin_namespace=RED), ONNX),
    ("hybrid: a loop", _loop(f"out/{layout.ONNX}", "input_ids", TensorProto.INT64, None, "Abs"), ONNX_RUN),
    ("OUT: names half a character", _named("\ud800"), VERIFY.format(1)),
    ("OUT: a recipe with a tag", in_out(layout.RECIPE, write("model: !stranger x\n")),
        VERIFY.format(1)),
    *((f"engine: {name}", in_out(layout.ENGINE, change), command) for command in (ENGINE, RUN_ENGINE) for name, change in {
        "empty": write(b""), "a FIFO": FIFO, "/dev/zero": link("/dev/zero"),
        "long names": write(b'header {\n}\nmain {\n x={ name="' + b"[profile 1" * 500_000 + b'" }\n\0'),
        "unclosed": write(b'header {\n}\nmain {\n x={ name="q" input={' + b'"a" ' * 300_000 + b" }\n\0"),
        "coloured": write(b"header {\n  accelerators={\x1b[31m }\n}\nmain {\n\0")}.items()),
    *((f"code: a plugin at {place}, {command.split()[0]}", lambda sound, folder, place=place: in_out(
        place, write((sound / "planted.so").read_bytes()))(sound, folder), command)
        for place in (f"{layout.ENGINE_FOLDER}/libpatch_linear.so", "libpatch_linear.so", layout.ENGINE)
        for command in (RUN_ENGINE, INSPECT, ENGINE, "verify stranger --only built --lengths 1")),
    *((f"words: {words[:30]!r}", _SOUND, f"{LEARN} {words}") for words in (
        "--include 're:(a+)+$'", f"--seed {'9' * 5000}", "--ratio ٣", f"--exclude '{RED}'", "--calib /dev/zero")),
    ("words: --lengths of digits", changed("out", "", lambda path: None), VERIFY.format("9" * 30)),
    *((f"paths: OUT is {out!r}", _SOUND, f"learn stranger -o {quote(out)} {_LEARN} --force") for out in (
        "", ".", "..", "/dev/null", "stranger", "stranger-link", "stranger/..", "stranger/config.json", RED, "\udcff")),
    *((f"paths: a model {path!r}", _SOUND, f"plan {quote(path)} --ratio 0.4") for path in (
        "", "/dev/stdin", "/proc/self/mem", "stranger/config.json/x", "\udcff\udcfe", "x/" * 5000)),
    *((f"environment: {name}", _SOUND, command) for command in (LEARN, "doctor") for name in (
        "RANK=7", "WORLD_SIZE=stranger", "LOCAL_RANK=-1", "CXX=touch canary;", "TMPDIR=/nowhere/at/all", "HOME=/nowhere",
        "PYTHONWARNINGS=error", "OMP_NUM_THREADS=-4", "PATCH_COMPILE_LEARN_RATIO=nan")),
    *((f"control: {command.split()[0]} {what}", changed(what, "", lambda path: None, to=name), command)
        for what, name, commands in (
            ("model", "stranger", (INSPECT, OF_WEIGHTS, PLAN, LEARN)), ("model.onnx", changes.ONNX, (ONNX, ONNX_BUILD)),
            ("out", "stranger", (INSPECT, RUN, VERIFY.format(1))), ("text.txt", "stranger.txt", (_reads("stranger.txt"),)))
        for command in commands),
)  # fmt: skip
_BESIDE = (
    layout.VERIFY_FOLDER,
    layout.BENCH_FOLDER,
    layout.MANIFEST,
    "report.",
    ".",
    layout.PAGE,
    layout.CARD,
)
_WRITES = tuple(f"stranger/{name}" for name in _BESIDE)
# By the beginning of a name: the rules that differ.
_RULES: dict[str, dict[str, Any]] = {
    "onnx": {"named": ("stranger", "first", "second"), "env": {"PATCH_COMPILE_ONNX_SECONDS": "8"}},
    "hybrid": {"env": {"PATCH_COMPILE_ONNX_SECONDS": "5"}},
    "OUT: ": {"writes": ("stranger",)},
    "words": {"named": ("",), "writes": _WRITES},
    "paths": {"named": ("",), "writes": (RED, "\udcff")},
    "code: a plugin": {"writes": _WRITES},
    "control": {"codes": (0,), "writes": _WRITES},
}
_IMPORTED_FIRST = (
    "torch", "transformers", "transformers.models.llama.modeling_llama", "torch.onnx._internal.exporter._core", "onnx",
    "onnx_ir", "onnxscript", "onnxruntime", "pyarrow.parquet", "datasets", "accelerate", "scipy.linalg", "tokenizers",
    "numba",
)  # fmt: skip


def all_cases() -> list[Case]:
    """Returns every input. Names differ."""
    found = []
    for name, make, command in _INPUTS:
        rules = next((rules for start, rules in _RULES.items() if name.startswith(start)), {})
        if name.startswith("environment"):
            variable, _, value = name.partition(": ")[2].partition("=")
            name, rules = f"{name}, {command.split()[0]}", {"named": ("",), "env": {variable: value}}
        found.append(Case(name, make, command, **rules))
    return found


def attack(*, only: Sequence[str] = ()) -> list[Attack]:
    """Give every input to its command. only: the inputs whose names contain one of these words."""
    sound = changes.make_sound(BUILD / "sound")
    taken = [case for case in all_cases() if not only or any(word in case.name for word in only)]
    _prepare()
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as folder:
        judgements = ((case, judged(case, sound, Path(folder) / "box")) for case in taken)
        broken = [
            f"{case.name} | {case.command} | {'; '.join(faults)}" for case, faults in judgements if faults
        ]
    return [Attack("hostile files, folders, words and variables", len(taken), broken)]


def _prepare() -> None:
    """Import what commands import, so that no fork does it again."""
    os.environ |= {
        "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    for name in [*os.environ]:
        if name.startswith("PATCH_COMPILE_") or name in ("COLUMNS", "FORCE_COLOR"):
            del os.environ[name]
    for name in _IMPORTED_FIRST:
        importlib.import_module(name)
    for package in ("masklearn", "patch_compile"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    gc.freeze()  # no fork copies the memory of these modules to count what refers to it
