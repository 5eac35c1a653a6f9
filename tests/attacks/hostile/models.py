"""Hostile model folders: configs, tokenizers, the index of shards, links and code that come with a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.attacks.hostile.case import (
    LEARN,
    WANDA,
    Case,
    Make,
    Sound,
    cases,
    contents,
    in_model,
    places,
    rewritten,
    written,
)
from tests.attacks.values import CANARY, PLACES, TEXTS, VALUES, swapped

_PLAN, _INSPECT, _LEARN = "plan stranger --ratio 0.4", "inspect stranger", f"learn stranger -o out {LEARN}"
_TOKENIZED = f"learn stranger -o out {WANDA}"
_CONFIG, _INDEX = "config.json", "model.safetensors.index.json"
_CODE = written(CANARY.replace("; ", "\n") + "\nclass Stranger:\n    pass\n")
# Sizes that a config may name: none of them is a reason to fill the memory or to run for minutes.
_SIZES: dict[str, tuple[float, ...]] = {
    "num_hidden_layers": (0, 10**6, 2**31), "hidden_size": (0, 2, 66, 10**9), "intermediate_size": (0, 10**12),
    "num_attention_heads": (0, 3, 10**6), "num_key_value_heads": (0, 3, 10**6), "vocab_size": (0, 1, 10**12),
    "max_position_embeddings": (0, 1, 2**40), "head_dim": (0, 1, 7, 10**9), "rms_norm_eps": (-1.0, 1e300),
}  # fmt: skip
_TYPES = (
    "stranger", "t5", "clip", "mamba", "llava", "gpt2", "bert", "qwen2_moe", "gemma3", "phi3", "../llama", "LLAMA",
)  # fmt: skip
_ADDED = (
    "text_config", "quantization_config", "rope_scaling", "rope_parameters", "layer_types", "head_dim",
    "pad_token_id", "sliding_window", "attn_implementation", "_attn_implementation", "torch_dtype",
    "tie_word_embeddings", "transformers_version", "_name_or_path", "id2label", "num_labels", "is_encoder_decoder",
)  # fmt: skip
_OTHER_FILES = (
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "chat_template.jinja", "preprocessor_config.json",
)  # fmt: skip
_SHARDS = (
    "/etc/passwd", "../outside", "../../outside", "", ".", "..", "sub/model.safetensors", "a\0b", "x" * 5000,
    "\x1b[31m", _CONFIG, "missing.safetensors", "stranger\\x", "\ud800",
)  # fmt: skip
_LINKS = {
    "/etc": "data", "/etc/passwd": "README.md", "..": "parent", ".": "self", "/proc/self/mem": "memory.json",
    "/dev/zero": "z",
}  # fmt: skip
_AUTO = {
    "AutoConfig": _CONFIG, "AutoModelForCausalLM": _CONFIG, "AutoModel": _CONFIG, "AutoTokenizer": "tokenizer_config.json",
}  # fmt: skip
_SPELLED: tuple[Any, ...] = (
    "stranger.Stranger", "owner/stranger--stranger.Stranger", ["stranger.Stranger", None], "../x.Y", 7,
)  # fmt: skip
_MODULES = (
    "modeling_llama.py", "__init__.py", "sitecustomize.py", "torch.py", "json.py", "conftest.py", "tokenization.py",
)  # fmt: skip
_PICKLES = (
    "pytorch_model.bin", "model.pt", "optimizer.pt", "training_args.bin", "adapter_model.bin", "tokenizer.pkl",
)  # fmt: skip


def _set(**changed: Any) -> Callable[[Any], Any]:
    return lambda found: found | changed


def _in_turn(number: int, _name: str) -> tuple[str, ...]:
    return ((_PLAN, _INSPECT, _LEARN)[number % 3],)


def _configs(sound: Sound) -> Iterator[Case]:
    def config(change: Callable[[Any], Any]) -> Make:
        return in_model(_CONFIG, rewritten(change))

    changes = swapped(sound.json(f"model/{_CONFIG}"), 5, "config")
    yield from cases("config", _in_turn, contents(_CONFIG, changes, in_model))
    sizes = ((name, value) for name, values in _SIZES.items() for value in values)
    makes = [(f"{name} is {value:g}", config(_set(**{name: value}))) for name, value in sizes]
    makes += [(f"model_type {kind}", config(_set(model_type=kind))) for kind in _TYPES]
    yield from cases("config", (_PLAN, _LEARN), makes)
    for key in _ADDED:
        for name in ("colours", "list", "-1", "escape", "deep", "many"):
            make = config(_set(**{key: VALUES[name]}))
            yield Case("config", f"{key} added as {name}", make, _in_turn(len(key + name), name))
    yield from cases("config", (_PLAN, _INSPECT), contents(_CONFIG, TEXTS.items(), in_model))


def _tokenizers(sound: Sound) -> Iterator[tuple[str, Make]]:
    for file, each in (("tokenizer.json", 1), ("tokenizer_config.json", 3), ("generation_config.json", 2)):
        yield from contents(file, swapped(sound.json(f"model/{file}"), each, file), in_model, f"{file} ")
        yield from contents(file, TEXTS.items(), in_model, f"{file} is ")
    some = [(name, TEXTS[name]) for name in ("deep lists", "not UTF-8", "a list")]
    for file in _OTHER_FILES:
        yield from contents(file, some, in_model, f"{file} is ")
    bomb = _set(chat_template="{% for a in range(999999999) %}{{ a }}{% endfor %}")
    grows = {"type": "Replace", "pattern": {"String": "t"}, "content": "t" * 100}
    for part, steps in (("normalizer", "normalizers"), ("decoder", "decoders")):
        much = {part: {"type": "Sequence", steps: [grows] * 5}}
        yield f"a {part} that fills the memory", in_model("tokenizer.json", rewritten(_set(**much)))
    yield "a template that never ends", in_model("tokenizer_config.json", rewritten(bomb))


def _indices(sound: Sound) -> Iterator[Case]:
    header = (sound.root / "model" / "model.safetensors").read_bytes()[8:].split(b"}}", 1)[0] + b"}}"
    names = list(json.loads(header))
    shards = {name: "model.safetensors" for name in names if name != "__metadata__"}
    values = [(f"a shard at {p[:12]!r}", {"weight_map": shards | {names[-1]: p}}) for p in _SHARDS]
    values += swapped({"weight_map": {"a": "b"}, "metadata": {}}, 8, "index")
    yield from cases("index", (_INSPECT, _LEARN), contents(_INDEX, values, in_model))
    yield from cases("index", (_PLAN, _LEARN), contents(_INDEX, TEXTS.items(), in_model))


def _places() -> Iterator[Case]:
    kind = "model folder"
    for file in (_CONFIG, "tokenizer.json", "tokenizer_config.json", "generation_config.json", _INDEX):
        commands = (_LEARN if file == _CONFIG else _TOKENIZED, _INSPECT)
        yield from cases(kind, commands, places(file, in_model, f"{file} is "))
    for to, name in _LINKS.items():
        link = in_model(name, lambda path, to=to: path.symlink_to(to))
        yield Case(kind, f"a link to {to}", link, (_LEARN,))
    yield Case(kind, "a FIFO beside", in_model("extra.json", PLACES["a FIFO"]), (_LEARN,))
    red = in_model("\x1b[31mred.json", PLACES["zeros"])
    yield Case(kind, "a name with colours", red, (_LEARN, _INSPECT))


def _codes() -> Iterator[Case]:
    """Model folders with Python code, which must never run."""
    for auto, file in _AUTO.items():
        for spelled in _SPELLED:
            for own in (True, False):
                changed = {"auto_map": {auto: spelled}, "trust_remote_code": True}
                kinds = (
                    {"model_type": "stranger"}
                    if file == _CONFIG
                    else {"tokenizer_class": "StrangerTokenizer"}
                )
                make = _coded(file, changed | (kinds if own else {}))
                yield Case("code", f"{auto} {spelled}{' of its own' * own}", make, (_TOKENIZED,))
    for file in _MODULES:
        yield Case("code", f"{file} beside", in_model(file, _CODE), (_TOKENIZED,))
        yield Case("code", f"{file} in the current folder", _here(file), (_LEARN,))
    for file in _PICKLES:
        yield Case("code", f"{file} beside", in_model(file, PLACES["a pickle of torch"]), (_TOKENIZED,))


def _coded(file: str, changed: dict[str, Any]) -> Make:
    def make(sound: Sound, folder: Path) -> None:
        in_model(file, rewritten(_set(**changed)))(sound, folder)
        _CODE(folder / "stranger" / "stranger.py")

    return make


def _here(file: str) -> Make:
    return lambda sound, folder: (sound.copy("model", folder / "stranger"), _CODE(folder / file))


def model_cases(sound: Sound) -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from _configs(sound)
    yield from cases("tokenizer", (_TOKENIZED,), _tokenizers(sound))
    yield from _indices(sound)
    yield from _places()
    yield from _codes()
