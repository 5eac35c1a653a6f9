"""Describes a checkpoint by its config.json alone, for plans of models that are not downloaded yet."""

from pathlib import Path

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.models import meta_model
from masklearn.checkpoint.orientation import stored_shape
from masklearn.shard import Shard, TensorEntry

__all__ = ["describe_checkpoint"]

_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


def describe_checkpoint(model_dir: Path) -> Checkpoint:
    """Returns the checkpoint of a folder with config.json, or of that file, which need not have weights.

    A checkpoint without any *.safetensors has the tensors that transformers would save, with names, types and shapes, and
    none of them can be read. Raises PatchCompileError as `Checkpoint.open`, `architecture_of` and `meta_model` do.
    """
    folder = model_dir.parent if model_dir.name == "config.json" and model_dir.is_file() else model_dir
    if not (folder / "config.json").is_file() or any(folder.glob("*.safetensors")):
        return Checkpoint.open(folder)
    bare = Checkpoint.of_config(folder)
    text = bare.config.get("text_config") or {}
    spelled = next((d for c in (bare.config, text) for d in (c.get("dtype"), c.get("torch_dtype")) if d), "")
    dtype = _DTYPES.get(spelled, "BF16")
    tensors = {
        name: TensorEntry(dtype, stored_shape(bare, name, tuple(weight.shape)), 0, 0)
        for name, weight in meta_model(bare).named_parameters()
    }
    return Checkpoint(folder, bare.config, {"config.json": Shard(folder / "config.json", tensors, {})})
