"""Writes the files that onnxruntime-genai needs next to a decoder's ONNX file: genai_config.json and the tokenizer's files.

The format is described by onnxruntime-genai 0.18 (its page "Config reference"). The model has the generic type `decoder`:
everything that differs between architectures is in the graph, masks of sliding windows too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masklearn.model.folder import copy_tokenizer
from masklearn.model.pretrained import load_config, load_tokenizer
from patch_compile.artifacts.layout import GENAI_CONFIG_NAME
from patch_compile.artifacts.record import write_json
from patch_compile.onnx_export.wrappers import LARGEST
from patch_compile.onnx_io.graph_inputs import Dim, read_inputs
from patch_compile.onnx_io.tensor_names import LOGITS, PAST, PRESENT
from patch_compile.runtime.model_configs import ModelConfigs, read_model_configs
from patch_compile.runtime.sampling import Sampling

_Inputs = Mapping[str, tuple[Dim, ...]]


def write_genai(model: Path, onnx: Path) -> None:
    """Make the folder of an ONNX file loadable by onnxruntime-genai. It has a single cache size for all layers, so a model
    with several sizes gets no genai_config.json.

    model: the model folder; onnx: a decoder with the inputs and outputs of `onnx_export.wrappers.decoder_interface`. Raises
    PatchCompileError if only the tokenizer can tell the end of a text and it can't be loaded.
    """
    inputs = {given.name: given.dims for given in read_inputs(onnx)}
    caches = [dims for name, dims in inputs.items() if name.startswith(PAST)]
    if len({(len(dims), *dims[1::2]) for dims in caches}) != 1:
        return
    configs = read_model_configs(model)
    ends = configs.end_tokens(None)
    if copy_tokenizer(model, onnx.parent) and not ends:
        ends = configs.end_tokens(load_tokenizer(model))
    write_json(onnx.parent / GENAI_CONFIG_NAME, _genai_config(model, configs, ends, onnx.name, inputs))


def _genai_config(
    model: Path, configs: ModelConfigs, ends: tuple[int, ...], file: str, inputs: _Inputs
) -> dict[str, Any]:
    config = load_config(model).get_text_config()
    length = configs.positions or LARGEST
    first = next(iter(ends), None)
    padding = configs.token("pad_token_id")
    tokens = {
        "bos_token_id": configs.token("bos_token_id"),
        "eos_token_id": list(ends) if len(ends) > 1 else first,
        "pad_token_id": first if padding is None else padding,
    }
    return {
        "model": {
            "type": "decoder",
            **{name: token for name, token in tokens.items() if token is not None},
            "context_length": length,
            "vocab_size": config.vocab_size,
            "decoder": _decoder(config, file, inputs),
        },
        "search": {"max_length": length, "past_present_share_buffer": False, **_sampling(configs.sampling)},
    }


def _decoder(config: Any, file: str, inputs: _Inputs) -> dict[str, Any]:
    """Returns the section about the graph. Sizes of the cache are read from its inputs.

    config: the transformers config of the text model; some configs have another name for a size.
    """
    _, kv_heads, _, head_size = inputs[f"{PAST}0.key"]
    sizes = {name: getattr(config, name, None) for name in ("hidden_size", "num_attention_heads")}
    layers = sum(name.startswith(PAST) for name in inputs) // 2
    return {
        "session_options": {"provider_options": []},
        "filename": file,
        **{name: size for name, size in sizes.items() if size is not None},
        "head_size": head_size,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": layers,
        "inputs": {
            **{name: name for name in inputs if not name.startswith(PAST)},
            "past_key_names": f"{PAST}%d.key",
            "past_value_names": f"{PAST}%d.value",
        },
        "outputs": {
            "logits": LOGITS,
            "present_key_names": f"{PRESENT}%d.key",
            "present_value_names": f"{PRESENT}%d.value",
        },
    }


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """Returns the model's default settings for sampling."""
    drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    return {
        "do_sample": sampling.temperature > 0,
        **(drawn if sampling.temperature > 0 else {}),
        "repetition_penalty": sampling.repetition_penalty,
    }
