"""Reads the settings of a text model from its config.json, tells its linears by them and the table of architectures, and
describes checkpoints that have no weights.

Importing transformers takes seconds, and it completes a config by its own defaults. The table of types below tells which
settings must be stated so that none of these defaults is needed; tests compare every type with transformers. Building the
model with transformers gives the same linears, needs torch, which a plain installation leaves out, and takes seconds. Tests
compare the two for every architecture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from masklearn.base.extras import require_extra
from masklearn.base.shard import Shard, TensorEntry
from masklearn.model.architectures import Architecture
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.folder import CONFIG, read_config, stated_dtype
from masklearn.model.models import meta_model
from masklearn.model.naming import linear_name, stored_shape
from masklearn.model.pretrained import load_config
from masklearn.model.quantised.base import dense_config, describe_packed

_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings")
_ALIASES = {
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "n_embd": "hidden_size",
    "dim": "hidden_size",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}


class _Type(NamedTuple):
    """A model type. needed: sizes besides `_SIZES` that must be stated; optional: sizes for which transformers takes what
    `sizes_of` takes; tied: value of `tie_word_embeddings` where it is absent."""

    needed: tuple[str, ...] = ("intermediate_size",)
    optional: tuple[str, ...] = ()
    tied: bool = False


_HEADS = ("num_key_value_heads", "head_dim")
_GEMMA = _Type(("intermediate_size", *_HEADS), tied=True)
_BERT = _Type(tied=True)
_TYPES = {
    "llama": _Type(optional=_HEADS),
    "mistral": _Type(("intermediate_size", "num_key_value_heads"), ("head_dim",)),
    "qwen2": _Type(("intermediate_size", "num_key_value_heads"), ("head_dim",)),
    "qwen3": _Type(("intermediate_size", *_HEADS)),
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": _Type(optional=_HEADS),
    "gpt2": _Type((), ("n_inner",), tied=True),
    "opt": _Type(("ffn_dim", "word_embed_proj_dim"), tied=True),
    "gpt_neox": _Type(),
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": _Type(("hidden_dim",), tied=True),
    "mpnet": _BERT,
}
_OF_SOME = {name for row in _TYPES.values() for name in (*row.needed, *row.optional)}
_ROPE_TYPES = {"default", "linear", "llama3"}  # transformers completes or renames others


def text_settings(model: Path) -> Any:
    """Returns the settings of the text model of a folder with config.json, or of that file, as attributes.

    They are the content of config.json if it states all sizes, else the text config of transformers. The caller has checked
    config.json (`check_config`). Raises MaskLearnError as `load_config` does.
    """
    folder = model.parent if model.is_file() else model
    content = read_config(folder)
    row = _TYPES.get(str(content.get("model_type")))
    stated = {_ALIASES.get(name, name): value for name, value in content.items() if value is not None}
    if row is None or not stated.keys() >= {*_SIZES, *row.needed}:
        return load_config(folder).get_text_config()
    ropes = stated.get("rope_scaling", stated.get("rope_parameters", {}))
    if not isinstance(ropes, dict) or not _rope_types(ropes) <= _ROPE_TYPES:
        return load_config(folder).get_text_config()
    foreign = _OF_SOME - {*row.needed, *row.optional}  # the type ignores them
    own = {name: value for name, value in stated.items() if name not in foreign}
    return SimpleNamespace(**({"tie_word_embeddings": row.tied} | own | {"rope_parameters": ropes}))


def _rope_types(ropes: dict[str, Any]) -> set[str]:
    """Returns the types of rotary embeddings: Gemma 3 has a type for each kind of layer. Old files write `type`."""
    kinds = [kind for kind in ropes.values() if isinstance(kind, dict)] or [ropes]
    return {str(kind.get("rope_type", kind.get("type", "default"))) for kind in kinds}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a text model. intermediate: hidden channels of the feed-forward part of a block."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def q(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim


def sizes_of(config: Any) -> Sizes:
    """Returns the sizes of a text model. config: from `text_settings`, or a text config of transformers."""
    heads, hidden = config.num_attention_heads, config.hidden_size
    # OPT says ffn_dim, DistilBERT hidden_dim; GPT-2 leaves n_inner empty for four times its width.
    wide = _first(config, "intermediate_size", "ffn_dim", "hidden_dim", "n_inner") or 4 * hidden
    return Sizes(
        layers=config.num_hidden_layers,
        hidden=hidden,
        intermediate=wide,
        heads=heads,
        kv_heads=_first(config, "num_key_value_heads") or heads,
        head_dim=_first(config, "head_dim") or hidden // heads,
        vocabulary=config.vocab_size,
    )


def _first(config: Any, *names: str) -> int | None:
    return next((int(value) for name in names if (value := getattr(config, name, None))), None)


class ListedLinear(NamedTuple):
    """A linear of a model. module: its module name; shape: (N, K); tied: True if another module shares the weight."""

    module: str
    shape: tuple[int, int]
    tied: bool


def listed_linears(checkpoint: Checkpoint) -> dict[str, ListedLinear]:
    """Returns all linears of the model by checkpoint name, in the order of the model.

    Shapes come from the shards if these hold the weight, without a check that they fit config.json. Raises MaskLearnError
    for an architecture whose linears are not in the table.
    """
    row = checkpoint.architecture
    if not row.linears:
        require_extra("build", f"Finding the linears of the architecture {checkpoint.config['model_type']}")
    # A checkpoint may lack a pooler.
    optional = [f"{module}.dense" for module in row.tail] if checkpoint.names() else []
    linears = {}
    for linear in _by_table(checkpoint, row):
        weight = f"{(name := linear_name(checkpoint, linear.module))}.weight"
        if weight in checkpoint:
            # A transpose is its own inverse.
            n, k = stored_shape(checkpoint, weight, checkpoint.shape(weight))
            linears[name] = linear._replace(shape=(n, k))
        elif linear.module not in optional:
            linears[name] = linear
    return linears


def _by_table(checkpoint: Checkpoint, row: Architecture) -> Iterator[ListedLinear]:
    config = text_settings(checkpoint.path)
    sizes = sizes_of(config)
    square = (sizes.hidden, sizes.hidden)
    vocabulary, width = _embedding(config, sizes)
    if row.before and width != sizes.hidden:
        shapes = ((width, sizes.hidden), (sizes.hidden, width))
        for module, shape in zip(row.before, shapes, strict=True):
            yield ListedLinear(module, shape, tied=False)
    for block in range(sizes.layers):
        for linear in row.linears:
            yield ListedLinear(f"{row.blocks}.{block}.{linear}", _shape(row, linear, sizes), tied=False)
    if row.encoder:
        yield from (ListedLinear(f"{module}.dense", square, tied=False) for module in row.tail)
    else:
        yield ListedLinear(row.head, (vocabulary, width), bool(config.tie_word_embeddings))


def _embedding(config: Any, sizes: Sizes) -> tuple[int, int]:
    """Returns the shape of the embedding and of the head, which OPT may project."""
    return sizes.vocabulary, _first(config, "word_embed_proj_dim") or sizes.hidden


def _shape(row: Architecture, linear: str, sizes: Sizes) -> tuple[int, int]:
    """Returns [N, K] of a linear of a block: a linear of the feed-forward part, q, k, v, a linear that makes all three, or
    the output projection of attention."""
    first, last = row.mlp
    end = linear.rpartition(".")[2]
    if linear.endswith(last) and "attn" not in linear and "attention" not in linear:
        return sizes.hidden, sizes.intermediate
    if any(linear.endswith(name) for name in first):
        joined = 2 if end == "gate_up_proj" else 1
        return joined * sizes.intermediate, sizes.hidden
    if end in row.qkv:
        return sizes.q if end == row.qkv[0] else sizes.kv, sizes.hidden
    if end in ("qkv_proj", "c_attn", "query_key_value"):
        return sizes.q + 2 * sizes.kv, sizes.hidden
    return sizes.hidden, sizes.q


def describe_checkpoint(model_dir: Path) -> Checkpoint:
    """Returns the checkpoint of a folder with config.json, which need not have weights, or of that file without any.

    A checkpoint without any *.safetensors has the linears and the embedding by the table of architectures, with names, types
    and shapes, and none of them can be read. If its linears are not in the table, it has all tensors of transformers' model.

    Raises MaskLearnError as `Checkpoint.open`, `Checkpoint.architecture` and `meta_model` do.
    """
    named = model_dir.name == CONFIG and model_dir.is_file()
    folder = model_dir.parent if named else model_dir
    if not named and (not (folder / CONFIG).is_file() or any(folder.glob("*.safetensors"))):
        return Checkpoint.open(folder)
    bare = Checkpoint.of_config(folder)
    dtype = stated_dtype(bare.config) or "BF16"
    tensors = {
        name: TensorEntry(dtype, stored_shape(bare, name, shape), 0, 0) for name, shape in _tensors(bare)
    }
    blocks, config = f"{bare.architecture.blocks}.", read_config(folder)
    linears = (
        {
            f"{name}.weight": linear.shape
            for name, linear in listed_linears(bare).items()
            if name.startswith(blocks)
        }
        if dense_config(config) != config
        else {}
    )
    packed = describe_packed(folder, config, linears, dtype)
    shard = Shard(folder / CONFIG, {name: entry for name, entry in tensors.items() if name not in packed}, {})
    return Checkpoint(folder, bare.config, {CONFIG: shard}, packed=packed)


def _tensors(bare: Checkpoint) -> Iterator[tuple[str, tuple[int, ...]]]:
    row = bare.architecture
    if not row.linears:
        require_extra("build", f"Finding the linears of the architecture {bare.config['model_type']}")
        yield from (
            (name, tuple(parameter.shape))
            for name, parameter in meta_model(bare, buffers=False).named_parameters()
        )
        return
    config = text_settings(bare.path)
    yield f"{row.embedding}.weight", _embedding(config, sizes_of(config))
    for linear in listed_linears(bare).values():
        if not linear.tied:
            yield f"{linear.module}.weight", linear.shape
