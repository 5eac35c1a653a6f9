"""Describes a checkpoint by its config.json alone, for plans of models that are not downloaded yet."""

from collections.abc import Iterator
from pathlib import Path

from masklearn.base.extras import is_installed, require_extra
from masklearn.base.shard import Shard, TensorEntry
from masklearn.model.architectures import Architecture, architecture_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.folder import stated_dtype
from masklearn.model.models import meta_model
from masklearn.model.orientation import stored_shape
from masklearn.model.pretrained import load_config
from masklearn.model.sizes import Sizes, sizes_of

__all__ = ["describe_checkpoint", "listed_tensors"]

_Shape = tuple[int, ...]


def describe_checkpoint(model_dir: Path) -> Checkpoint:
    """Returns the checkpoint of a folder with config.json, or of that file, which need not have weights.

    A checkpoint without any *.safetensors has the tensors that transformers would save, with names, types and shapes, and
    none of them can be read. Without torch they are the linears and the embedding, by the table of architectures.

    Raises MaskLearnError as `Checkpoint.open`, `architecture_of` and `meta_model` do.
    """
    folder = model_dir.parent if model_dir.name == "config.json" and model_dir.is_file() else model_dir
    if not (folder / "config.json").is_file() or any(folder.glob("*.safetensors")):
        return Checkpoint.open(folder)
    bare = Checkpoint.of_config(folder)
    architecture_of(bare)
    dtype = stated_dtype(bare.config) or "BF16"
    tensors = {
        name: TensorEntry(dtype, stored_shape(bare, name, shape), 0, 0) for name, shape in _tensors(bare)
    }
    return Checkpoint(folder, bare.config, {"config.json": Shard(folder / "config.json", tensors, {})})


def _tensors(bare: Checkpoint) -> Iterator[tuple[str, _Shape]]:
    if not is_installed("torch"):
        yield from listed_tensors(bare)
        return
    for name, weight in meta_model(bare).named_parameters():
        yield name, tuple(weight.shape)


def listed_tensors(bare: Checkpoint) -> Iterator[tuple[str, _Shape]]:
    """Yield name and shape of the linears of the blocks, the embedding and the head, by the table of architectures.

    Raises MaskLearnError for an architecture whose linears are not in the table.
    """
    row = architecture_of(bare)
    if not row.linears:
        require_extra("build", f"Finding the linears of the architecture {bare.config['model_type']}")
    config = load_config(bare.path).get_text_config()
    sizes = sizes_of(config)
    base = f"{row.base}." if row.base else ""
    yield f"{base}embed_tokens.weight", (sizes.vocabulary, sizes.hidden)
    for block in range(sizes.layers):
        for linear in row.linears:
            yield f"{row.blocks}.{block}.{linear}.weight", _shape(row, linear, sizes)
    if row.head and not config.tie_word_embeddings:
        yield f"{row.head}.weight", (sizes.vocabulary, sizes.hidden)


def _shape(row: Architecture, linear: str, sizes: Sizes) -> _Shape:
    """Returns [N, K] of a linear of a block: one of the feed-forward part, q, k or v, one that makes all three, or the
    output projection of attention."""
    first, last = row.mlp
    end = linear.rpartition(".")[2]
    if linear.endswith(last) and not _attends(linear):
        return sizes.hidden, sizes.intermediate
    if any(linear.endswith(name) for name in first):
        joined = 2 if end == "gate_up_proj" else 1
        return joined * sizes.intermediate, sizes.hidden
    if end in row.qkv:
        return sizes.q if end == row.qkv[0] else sizes.kv, sizes.hidden
    if end in ("qkv_proj", "c_attn", "query_key_value"):
        return sizes.q + 2 * sizes.kv, sizes.hidden
    return sizes.hidden, sizes.q


def _attends(linear: str) -> bool:
    return "attn" in linear or "attention" in linear
