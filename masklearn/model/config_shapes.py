"""Tells the linears of a model by its config and the table of architectures, and describes checkpoints that have no weights.

Building the model with transformers gives the same linears, needs torch, which a plain installation leaves out, and takes
seconds. Tests compare the two for every architecture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from masklearn.base.extras import require_extra
from masklearn.base.shard import Shard, TensorEntry
from masklearn.model.architectures import Architecture
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.folder import CONFIG, read_config, stated_dtype
from masklearn.model.models import meta_model
from masklearn.model.naming import linear_name, stored_shape
from masklearn.model.quantised.base import dense_config, describe_packed
from masklearn.model.text_settings import text_settings


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
    found = {}
    for one in _by_table(checkpoint, row):
        weight = f"{(name := linear_name(checkpoint, one.module))}.weight"
        if weight in checkpoint:
            n, k = stored_shape(
                checkpoint, weight, checkpoint.shape(weight)
            )  # a transpose is its own inverse
            found[name] = one._replace(shape=(n, k))
        elif one.module not in optional:
            found[name] = one
    return found


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
        {f"{name}.weight": one.shape for name, one in listed_linears(bare).items() if name.startswith(blocks)}
        if dense_config(config) != config
        else {}
    )
    packed = describe_packed(folder, config, linears, dtype)
    shard = Shard(folder / CONFIG, {name: one for name, one in tensors.items() if name not in packed}, {})
    return Checkpoint(folder, bare.config, {CONFIG: shard}, packed=packed)


def _tensors(bare: Checkpoint) -> Iterator[tuple[str, tuple[int, ...]]]:
    row = bare.architecture
    if not row.linears:
        require_extra("build", f"Finding the linears of the architecture {bare.config['model_type']}")
        yield from (
            (name, tuple(one.shape)) for name, one in meta_model(bare, buffers=False).named_parameters()
        )
        return
    config = text_settings(bare.path)
    yield f"{row.embedding}.weight", _embedding(config, sizes_of(config))
    yield from ((f"{one.module}.weight", one.shape) for one in listed_linears(bare).values() if not one.tied)
