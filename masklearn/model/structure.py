"""Finds the parts of a decoder that has no row in the table, in the model that transformers builds from its config.

The parts found by name are then checked numerically, with a small random model of the same config: its blocks run one after
the other and read nothing of the text but hidden states, its last modules and head give its logits, and its experts and
linears keep their results as `nn.Linear`s. The first thing that differs is the reason for refusing the architecture.
"""

import copy
import json
from functools import lru_cache
from typing import Any

from masklearn.base.progress import without_bars
from masklearn.base.safe_read import parse_json
from masklearn.model.config_bounds import MOST_LAYERS
from masklearn.model.known_architectures import Architecture, NotCoveredError
from masklearn.model.pretrained import build_model

_VOCABULARY = 64
_WIDE = 96  # hidden channels of the feed-forward part
_HEADS = 4
_LAYERS = 4
_WIDTHS = (
    "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "intermediate_size_mlp", "moe_intermediate_size",
    "shared_expert_intermediate_size", "shared_intermediate_size",
)  # fmt: skip
_KV_HEADS = ("num_key_value_heads", "num_kv_heads")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def shrunk(config: Any) -> Any:
    """Returns a copy with the first layers, few heads, and a small vocabulary.

    It has four layers, or more if it takes more to include each kind that the config lists. The size of a head stays,
    and as many query heads share a key.
    """
    firsts = [values.index(value) + 1 for values in per_layer(config).values() for value in values]
    small = shortened(config, min(config.num_hidden_layers, max([_LAYERS, *firsts])))
    small.vocab_size = min(config.vocab_size, _VOCABULARY)
    for name in _TOKENS:
        if getattr(small, name, None) is not None:
            setattr(small, name, 0)
    for name in _WIDTHS:
        if _is_size(getattr(config, name, None)):
            setattr(small, name, min(getattr(config, name), _WIDE))
    _take_heads_away(small)
    return small


def shortened(config: Any, layers: int) -> Any:
    """Returns a copy with the first `layers` layers."""
    shorter, lists = copy.deepcopy(config), per_layer(config)
    for name, values in lists.items():
        setattr(shorter, name, values[:layers])
    shorter.num_hidden_layers = layers
    return shorter


def per_layer(config: Any) -> dict[str, list[Any]]:
    """Returns the settings that list a value for each layer, such as `layer_types`."""
    return {
        name: value
        for name, value in vars(config).items()
        if isinstance(value, list)
        and len(value) == config.num_hidden_layers
        and not name.startswith("_")
        and name != "architectures"
        and not name.endswith("_token_id")
    }


def _take_heads_away(small: Any) -> None:
    heads: Any = getattr(small, "num_attention_heads", None)
    if not _is_size(heads):
        return
    shared: Any = next((n for name in _KV_HEADS if _is_size(n := getattr(small, name, None))), heads)
    if heads % shared or small.hidden_size % heads:
        return
    group, width = heads // shared, small.hidden_size // heads
    fewer = max(1, _HEADS // group)
    if fewer >= shared:
        return
    small.num_attention_heads, small.hidden_size = fewer * group, fewer * group * width
    for name in _KV_HEADS:
        if _is_size(getattr(small, name, None)):
            setattr(small, name, fewer)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


_LARGEST_PROOF = 2**28  # weights of the small model, 1 GiB
# Settings that change neither the modules nor their names.
_OF_PLACE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")


def structure_of(config: Any) -> Architecture:
    """Returns the architecture of a transformers config, found in its model and proven. Needs torch.

    Raises NotCoveredError if the model is not a decoder whose blocks run one after the other.
    """
    config_class: Any = type(config)
    settings = {name: value for name, value in config.to_dict().items() if name not in _OF_PLACE}
    row = _known(config_class, json.dumps(settings, sort_keys=True, default=str))
    if isinstance(row, str):
        raise NotCoveredError(row)
    return row


@lru_cache(maxsize=64)
def _known(config_class: Any, settings: str) -> Architecture | str:
    """Returns the architecture, or the reason why it has none: both take a good part of a second to find."""
    from masklearn.model.structure_proof import prove

    try:
        config = config_class.from_dict(parse_json(settings, finite=False))
        _check_kind(config)
        model = _small_model(config)
        return prove(model, _named(model))
    except NotCoveredError as error:
        return str(error)


def _check_kind(config: Any) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise NotCoveredError("It is an encoder with a decoder, whose blocks do not run one after the other.")
    if config.get_text_config() is not config:
        raise NotCoveredError("It reads more than text; of such models only gemma3 is covered.")
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int) or not 1 <= layers <= MOST_LAYERS:
        raise NotCoveredError(f"Its num_hidden_layers is {layers}, not a number of 1 to {MOST_LAYERS}.")


def _small_model(config: Any) -> Any:
    """Returns a random model of the config, small, in fp32 and eval mode, without changing torch's random numbers."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.utils import logging

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise NotCoveredError("transformers has no model of this type that predicts next tokens.")
    try:
        with without_bars(logging), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            small = shrunk(config)
            with torch.device("meta"):
                weights = sum(p.numel() for p in build_model(AutoModelForCausalLM, small).parameters())
            if weights > _LARGEST_PROOF:
                raise NotCoveredError(f"Its smallest model has {weights} weights, which are too many to run.")
            model = build_model(AutoModelForCausalLM, small, dtype=torch.float32).eval()
            with torch.no_grad():
                # Norms start at 1 and biases at 0, which would hide that a parameter is missing.
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.05)
            return model
    except (MemoryError, NotCoveredError):
        raise
    except Exception as error:  # of any type: see `pretrained._explained`
        raise NotCoveredError.of("transformers can't build a small model of it", error) from error


def _named(model: Any) -> Architecture:
    """Returns the names of the parts. The proof completes and checks them."""
    names = {module: name for name, module in model.named_modules()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or head is None:
        raise NotCoveredError(f"It has no {'embedding' if embedding is None else 'output head'}.")
    blocks = _blocks(model)
    prefix = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    return Architecture(
        base=blocks.rpartition(".")[0],
        embedding=names[embedding],
        blocks=blocks,
        tail=(names[head],),
        head=names[head],
        prefixes=(prefix, "") if prefix else ("",),
        linears=(),
        mlp=((), ""),
        qkv=(),
        own_masks=True,
    )


def _blocks(model: Any) -> str:
    """Returns the name of the only list of as many modules as the model has layers, each with linears."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    layers = model.config.num_hidden_layers
    stacks: list[str] = [
        name
        for name, stack in model.named_modules()
        if isinstance(stack, nn.ModuleList)
        and len(stack) == layers
        and all(any(isinstance(part, (nn.Linear, Conv1D)) for part in block.modules()) for block in stack)
    ]
    stacks = [name for name in stacks if not any(name.startswith(f"{outer}.") for outer in stacks)]
    if len(stacks) != 1:
        count = f"{len(stacks)} stacks of blocks: {', '.join(stacks)}"
        raise NotCoveredError(f"It has {count if stacks else f'no stack of {layers} blocks'}.")
    return stacks[0]
