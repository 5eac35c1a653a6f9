"""Hostile model folders: configs, tokenizers, the index of shards, links and code that come with a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.attacks.hostile.case import Case, Sound
from tests.attacks.hostile.mutations import PLACES, TEXTS, VALUES, dump, swapped
from tests.attacks.hostile.sound import LEARN

__all__ = ["model_cases", "model_with"]

_LEARN = f"learn stranger -o out {LEARN}"
_TOKENIZED = _LEARN.replace("magnitude", "wanda --windows 1 --length 16")
_INDEX = "model.safetensors.index.json"
_CODE = "import os\nopen(os.environ['HOSTILE_CANARY'], 'w')\nclass Stranger:\n    pass\n"
# Sizes that a config may name: none of them is a reason to fill the memory or to run for minutes.
_SIZES = {
    "num_hidden_layers": (0, 10**6, 2**31), "hidden_size": (0, 2, 66, 10**9), "intermediate_size": (0, 10**12),
    "num_attention_heads": (0, 3, 10**6), "num_key_value_heads": (0, 3, 10**6), "vocab_size": (0, 1, 10**12),
    "max_position_embeddings": (0, 1, 2**40), "head_dim": (0, 1, 7, 10**9), "rms_norm_eps": (-1.0, 1e300),
}  # fmt: skip
_TYPES = (
    "stranger",
    "t5",
    "clip",
    "mamba",
    "llava",
    "gpt2",
    "bert",
    "qwen2_moe",
    "gemma3",
    "phi3",
    "../llama",
    "LLAMA",
)


def model_with(sound: Sound, folder: Path, **files: Any) -> Path:
    """Copy the sound model, replace some of its files, and return its folder."""
    return sound.copy("model", folder / "stranger")


def _config(sound: Sound) -> Any:
    return json.loads((sound.root / "model" / "config.json").read_text())


def _json(file: str, value: Any) -> Callable[[Sound, Path], None]:
    """Returns a maker that writes JSON in the place of a file. value: the JSON value, or a function of the sound one."""

    def make(sound: Sound, folder: Path) -> None:
        place = model_with(sound, folder) / file
        place.write_text(
            dump(value(json.loads(place.read_text())) if callable(value) else value), errors="surrogatepass"
        )

    return make


def _set(**changed: Any) -> Callable[[Any], Any]:
    return lambda found: found | changed


def _commands(number: int) -> tuple[str, ...]:
    return ("plan stranger --ratio 0.4", "inspect stranger", _LEARN)[number % 3 : number % 3 + 1]


def _configs(sound: Sound) -> Iterator[Case]:
    for number, (name, value) in enumerate(swapped(_config(sound), 5, "config")):
        yield Case("config", name, _json("config.json", value), _commands(number))
    for name, values in _SIZES.items():
        for value in values:
            yield Case(
                "config",
                f"{name} is {value:g}",
                _json("config.json", _set(**{name: value})),
                ("plan stranger --ratio 0.4", _LEARN),
            )
    for kind in _TYPES:
        yield Case(
            "config",
            f"model_type {kind}",
            _json("config.json", _set(model_type=kind)),
            ("plan stranger --ratio 0.4", _LEARN),
        )
    for key in ("text_config", "quantization_config", "rope_scaling", "rope_parameters", "layer_types", "head_dim",
    "pad_token_id",
                "sliding_window", "attn_implementation", "_attn_implementation", "torch_dtype", "tie_word_embeddings",
                "transformers_version", "_name_or_path", "id2label", "num_labels", "is_encoder_decoder"):  # fmt: skip
        for name in ("colours", "list", "-1", "escape", "deep", "many"):
            yield Case(
                "config",
                f"{key} added as {name}",
                _json("config.json", _set(**{key: VALUES[name]})),
                _commands(len(key + name)),
            )
    for name, content in TEXTS.items():
        yield Case(
            "config", name, _text("config.json", content), ("plan stranger --ratio 0.4", "inspect stranger")
        )


def _text(file: str, content: bytes) -> Callable[[Sound, Path], None]:
    def make(sound: Sound, folder: Path) -> None:
        (model_with(sound, folder) / file).write_bytes(content)

    return make


def _tokenizers(sound: Sound) -> Iterator[Case]:
    for file, each in (("tokenizer.json", 1), ("tokenizer_config.json", 3), ("generation_config.json", 2)):
        value = json.loads((sound.root / "model" / file).read_text())
        for name, changed in swapped(value, each, file):
            yield Case("tokenizer", f"{file} {name}", _json(file, changed), (_TOKENIZED,))
        for name, content in TEXTS.items():
            yield Case("tokenizer", f"{file} is {name}", _text(file, content), (_TOKENIZED,))
    for name in (
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "chat_template.jinja",
        "preprocessor_config.json",
    ):
        for what in ("deep lists", "not UTF-8", "a list"):
            yield Case("tokenizer", f"{name} is {what}", _text(name, TEXTS[what]), (_TOKENIZED,))
    bomb = "{% for a in range(999999999) %}{{ a }}{% endfor %}"
    yield Case(
        "tokenizer",
        "a template that never ends",
        _json("tokenizer_config.json", _set(chat_template=bomb)),
        (_TOKENIZED,),
    )


def _indices(sound: Sound) -> Iterator[Case]:
    names = list(
        json.loads((sound.root / "model" / "model.safetensors").read_bytes()[8:].split(b"}}", 1)[0] + b"}}")
    )
    whole = {
        "metadata": {"total_size": 1},
        "weight_map": {name: "model.safetensors" for name in names if name != "__metadata__"},
    }
    places = ("/etc/passwd", "../outside", "../../outside", "", ".", "..", "sub/model.safetensors", "a\0b", "x" * 5000,
    "\x1b[31m",
              "config.json", "missing.safetensors", "stranger\\x", "\ud800")  # fmt: skip
    for place in places:
        value = {"weight_map": whole["weight_map"] | {names[-1]: place}}
        yield Case("index", f"a shard at {place[:12]!r}", _json(_INDEX, value), ("inspect stranger", _LEARN))
    for name, value in swapped({"weight_map": {"a": "b"}, "metadata": {}}, 8, "index"):
        yield Case("index", name, _json(_INDEX, value), ("inspect stranger", _LEARN))
    for name, content in TEXTS.items():
        yield Case("index", name, _text(_INDEX, content), ("plan stranger --ratio 0.4", _LEARN))


def _places() -> Iterator[Case]:
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", _INDEX):
        for name, put in PLACES.items():
            command = _TOKENIZED if file != "config.json" else _LEARN
            yield Case("model folder", f"{file} is {name}", _put(file, put), (command, "inspect stranger"))
    links = {
        "/etc": "data",
        "/etc/passwd": "README.md",
        "..": "parent",
        ".": "self",
        "/proc/self/mem": "memory.json",
        "/dev/zero": "z",
    }
    for target, name in links.items():
        yield Case("model folder", f"a link to {target}", _link(name, target), (_LEARN,))
    yield Case("model folder", "a FIFO beside", _put("extra.json", PLACES["a FIFO"]), (_LEARN,))
    yield Case(
        "model folder",
        "a name with colours",
        _put("\x1b[31mred.json", PLACES["zeros"]),
        (_LEARN, "inspect stranger"),
    )


def _put(file: str, put: Callable[[Path], None]) -> Callable[[Sound, Path], None]:
    def make(sound: Sound, folder: Path) -> None:
        place = model_with(sound, folder) / file
        place.unlink(missing_ok=True)
        put(place)

    return make


def _link(name: str, target: str) -> Callable[[Sound, Path], None]:
    return lambda sound, folder: (model_with(sound, folder) / name).symlink_to(target)


def _codes() -> Iterator[Case]:
    """Model folders with Python code, which must never run."""
    maps = {
        "AutoConfig": "config.json", "AutoModelForCausalLM": "config.json", "AutoModel": "config.json",
        "AutoTokenizer": "tokenizer_config.json",
    }  # fmt: skip
    for auto, file in maps.items():
        for spelled in (
            "stranger.Stranger",
            "owner/stranger--stranger.Stranger",
            ["stranger.Stranger", None],
            "../x.Y",
            7,
        ):
            for own in (True, False):
                changed = {"auto_map": {auto: spelled}, "trust_remote_code": True}
                if own:
                    changed |= (
                        {"model_type": "stranger"}
                        if file == "config.json"
                        else {"tokenizer_class": "StrangerTokenizer"}
                    )
                yield Case(
                    "code", f"{auto} {spelled}{' of its own' * own}", _coded(file, changed), (_TOKENIZED,)
                )
    for file in (
        "modeling_llama.py",
        "__init__.py",
        "sitecustomize.py",
        "torch.py",
        "json.py",
        "conftest.py",
        "tokenization.py",
    ):
        yield Case("code", f"{file} beside", _text(file, _CODE.encode()), (_TOKENIZED,))
        yield Case("code", f"{file} in the current folder", _here(file), (f"learn stranger -o out {LEARN}",))
    for file in (
        "pytorch_model.bin",
        "model.pt",
        "optimizer.pt",
        "training_args.bin",
        "adapter_model.bin",
        "tokenizer.pkl",
    ):
        yield Case("code", f"{file} beside", _put(file, PLACES["a pickle of torch"]), (_TOKENIZED,))


def _coded(file: str, changed: dict[str, Any]) -> Callable[[Sound, Path], None]:
    def make(sound: Sound, folder: Path) -> None:
        _json(file, lambda found: found | changed)(sound, folder)
        (folder / "stranger" / "stranger.py").write_text(_CODE)

    return make


def _here(file: str) -> Callable[[Sound, Path], None]:
    def make(sound: Sound, folder: Path) -> None:
        model_with(sound, folder)
        (folder / file).write_text(_CODE)

    return make


def model_cases(sound: Sound) -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from _configs(sound)
    yield from _tokenizers(sound)
    yield from _indices(sound)
    yield from _places()
    yield from _codes()
