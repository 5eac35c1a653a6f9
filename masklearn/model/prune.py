"""Writes pruned checkpoints: the files of the source with new values and zeroed weights, in the same dense layout, or with
quantised linears as a folder of compressed-tensors: in its format pack-quantized, or int-quantized for w8a8.

Other programs, transformers among them, read such a folder. Pruned weights are integers 0 in it: these formats have no
sparse form, and the library reads none since 0.15.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.durable import write_whole
from masklearn.base.errors import MaskLearnError
from masklearn.base.progress import OnStep
from masklearn.base.shard import numpy_dtype, write_shard
from masklearn.masks.kinds.table import DENSE
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.folder import (
    CONFIG,
    INDEX,
    ROUNDED_INPUTS,
    copy_beside,
    rounded_inputs_setting,
    write_index,
)
from masklearn.model.models import meta_model
from masklearn.model.naming import linear_name, to_stored
from masklearn.model.quantised.formats.compressed_tensors import pack_integers
from masklearn.quant.grid import Grid
from masklearn.quant.table import FLOAT16, QUANTISED, W8A8, WeightType

_SPARSITY = "sparsity_config"
_NO_STRUCTURE = "unstructured"  # compressed-tensors' word for every mixture


def masked_weight(weight: NDArray[Any], keep: NDArray[np.bool_]) -> NDArray[Any]:
    """Returns W∘M in the layout and type of W. Pruned weights are +0, also if they were negative."""
    return np.where(keep, weight, np.zeros((), weight.dtype))


def write_pruned_checkpoint(
    checkpoint: Checkpoint,
    masks: MaskSet,
    out: Path,
    progress: Callable[[str, int, int], object] | None = None,
) -> None:
    """Write the Hugging Face folder `out` with the same shards and tensor names. One tensor is in memory at a time.

    config.json gets a description of the zeros (`sparsity_config`), and names the linears that round their inputs
    (`rounded_inputs`), as the models of `load_model` then do. Tensors with new values (`Checkpoint.with_weights`) are
    written with the new values. A quantised checkpoint is written as the equivalent dense checkpoint: its values, without
    settings of quantisation. Of the other files, those of `files_beside` are copied, with no more permissions than they
    have.

    progress: called with a tensor's name, the number of tensors so far and the number of all tensors.
    """
    copy_beside(checkpoint.path, out)
    _write_config(checkpoint, masks, out)
    if checkpoint.quantised and (out / INDEX).is_file():  # the copy is of the quantised values
        weight_map = {name: file for file, shard in checkpoint.shards().items() for name in shard.tensors}
        write_index(out, weight_map, checkpoint.bytes())
    total, done = len(checkpoint.names()), 0

    def tensor(name: str) -> NDArray[Any]:
        nonlocal done
        done += 1
        if progress:
            progress(name, done, total)
        weight = checkpoint.read(name)
        linear = name.removesuffix(".weight")
        if linear not in masks:
            return weight
        return masked_weight(weight, to_stored(checkpoint, name, masks[linear].keep()))

    for file_name, shard in checkpoint.shards().items():
        specs = {name: (entry.dtype, entry.shape) for name, entry in shard.tensors.items()}
        write_shard(out / file_name, specs, tensor, shard.metadata, like=shard.path)


def _write_config(checkpoint: Checkpoint, masks: MaskSet, out: Path) -> None:
    """Write the dense model's config with the block of its sparsity and the linears that round their inputs over the copy,
    unless nothing changes.

    Blocks of the model itself, which was pruned before, would be wrong.
    """
    config = {
        key: value for key, value in checkpoint.config.items() if key not in (_SPARSITY, ROUNDED_INPUTS)
    }
    if rounded := {name: grid.activations for name, grid in masks.grids.items() if grid.type is W8A8}:
        config[ROUNDED_INPUTS] = rounded_inputs_setting(rounded)
    if sparsity := _sparsity_config(checkpoint, masks):
        config[_SPARSITY] = sparsity
    if config != checkpoint.config or checkpoint.quantised:
        write_whole(out / CONFIG, json.dumps(config, indent=2) + "\n")


def _sparsity_config(checkpoint: Checkpoint, masks: MaskSet) -> dict[str, Any] | None:
    """Returns the block of a checkpoint that is pruned by these masks; None if they prune nothing.

    It has the fields of compressed-tensors' `SparsityCompressionConfig`. The format is `dense`: zeros are stored, so that
    every program loads the weights as they are.

    targets: the linears that have zeroed tiles; global_sparsity: zeroed weights / all weights of the model;
    sparsity_structure: the kind of the tiles if all tiles of the targets have the same kind. compressed-tensors has no word
    for a mosaic, so `mosaic`, which it ignores, holds the ratio over the covered linears, their tile sizes (rows x columns,
    with the number of linears) and the share of their weights in tiles of each kind.
    """
    if not masks.zeroed:
        return None
    shares = masks.by_kind()
    total = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())
    sizes = [f"{rows}x{columns}" for rows, columns in masks.tile_sizes().values()]
    return {
        "format": "dense",
        "targets": [name for name, kinds in masks.kind_maps().items() if (kinds != DENSE.code).any()],
        "ignore": [],
        "global_sparsity": masks.zeroed / total,
        "sparsity_structure": next(iter(shares)).name if len(shares) == 1 else _NO_STRUCTURE,
        "mosaic": {
            "ratio": masks.ratio,
            "tiles": {size: sizes.count(size) for size in dict.fromkeys(sizes)},
            "kinds": {kind.name: weights / masks.weights for kind, weights in shares.items()},
        },
    }


_Spec = tuple[str, tuple[int, ...]]
_PACKED, _PLAIN, _MIXED = "pack-quantized", "int-quantized", "mixed-precision"


def _format(kind: WeightType) -> str:
    """Returns the format of linears of this type. Programs look for int8 products in int-quantized."""
    return _PLAIN if kind is W8A8 else _PACKED


def write_compressed(
    checkpoint: Checkpoint, grids: Mapping[str, Grid], out: Path, progress: OnStep | None = None
) -> None:
    """Write the folder `out`, with one tensor in memory at a time.

    checkpoint: a dense checkpoint, whose weights lie on their grids; grids: by linear (its name without `.weight`). Raises
    MaskLearnError for a model that the format does not hold, and ValueError if a weight is not on its grid.
    """
    _check_model(checkpoint, grids)
    copy_beside(checkpoint.path, out)
    config = {key: value for key, value in checkpoint.config.items() if key != ROUNDED_INPUTS}
    config["quantization_config"] = _quantization_config(checkpoint, grids)
    write_whole(out / CONFIG, json.dumps(config, indent=2) + "\n")
    done, total, weight_map, size = 0, len(checkpoint.names()), {}, 0
    for file, shard in checkpoint.shards().items():
        parts: dict[str, Callable[[], NDArray[Any]]] = {}
        specs: dict[str, _Spec] = {}
        for name in shard.tensors:
            for part, spec, read in _parts(checkpoint, grids, name):
                specs[part], parts[part], weight_map[part] = spec, read, file
                size += math.prod(spec[1]) * numpy_dtype(spec[0]).itemsize

        def tensor(part: str, parts: dict[str, Callable[[], NDArray[Any]]] = parts) -> NDArray[Any]:
            nonlocal done
            if progress and not part.endswith(("_scale", "_shape")):
                done += 1
                progress("compressing", done, total)
            return parts[part]()

        write_shard(out / file, specs, tensor, shard.metadata, like=shard.path)
    if (out / INDEX).is_file():
        write_index(out, weight_map, size)


def _parts(
    checkpoint: Checkpoint, grids: Mapping[str, Grid], name: str
) -> Iterator[tuple[str, _Spec, Callable[[], NDArray[Any]]]]:
    entry, linear = checkpoint.entry(name), name.removesuffix(".weight")
    if linear not in grids or name == linear:
        yield name, (entry.dtype, entry.shape), lambda: checkpoint.read(name)
        return
    grid, (n, k) = grids[linear], (entry.shape[0], entry.shape[1])
    grid.check_shape((n, k))
    bits, scales = grid.type.bits, grid.scales.reshape(n, -1)
    code = _scale_code(entry.dtype, scales)
    packed = _format(grid.type) == _PACKED
    if packed:
        yield (
            f"{name}_packed",
            ("I32", (n, -(-k * bits // 32))),
            lambda: pack_integers(grid.integers(checkpoint.read(name)), bits),
        )
    else:
        yield name, ("I8", (n, k)), lambda: grid.integers(checkpoint.read(name))
    yield f"{name}_scale", (code, scales.shape), lambda: scales.astype(numpy_dtype(code))
    if packed:
        yield f"{name}_shape", ("I64", (2,)), lambda: np.asarray([n, k], np.int64)


def _scale_code(dtype: str, scales: NDArray[np.float32]) -> str:
    """Returns the type of the scales: the type of the weights if it holds the scales exactly."""
    with np.errstate(over="ignore"):
        held = scales.astype(numpy_dtype(dtype)).astype(np.float32)
    return dtype if np.array_equal(held, scales) else "F32"


def _quantization_config(checkpoint: Checkpoint, grids: Mapping[str, Grid]) -> dict[str, Any]:
    """Returns the `quantization_config`: a group for each type of weights."""
    import torch

    named: dict[str, list[str]] = {}
    for name, module in meta_model(checkpoint).named_modules():
        if isinstance(module, torch.nn.Linear):
            linear = linear_name(checkpoint, name)
            kind = grids[linear].type.name if linear in grids else ""
            # Programs look for either name.
            named.setdefault(kind, []).extend(dict.fromkeys((name, linear)))
    plain = named.pop("", [])
    groups = {
        f"group_{i}": _group(QUANTISED[kind], ["Linear"] if len(named) == 1 else names)
        for i, (kind, names) in enumerate(sorted(named.items()))
    }
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else _MIXED,
        "config_groups": groups,
        "ignore": plain,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _group(kind: WeightType, targets: list[str]) -> dict[str, Any]:
    integers = {"num_bits": kind.bits, "type": "int", "symmetric": True}
    strategy = "channel" if kind.span is None else "group"
    inputs = {
        **integers,
        "num_bits": kind.input_bits,
        "dynamic": True,
        "strategy": "token",
        "group_size": None,
    }
    return {
        "targets": targets,
        "weights": {**integers, "dynamic": False, "strategy": strategy, "group_size": kind.span},
        "input_activations": inputs if kind.input_bits < FLOAT16.bits else None,
        "output_activations": None,
        "format": _format(kind),
    }


def _check_model(checkpoint: Checkpoint, grids: Mapping[str, Grid]) -> None:
    if not grids:
        raise MaskLearnError(
            f"{checkpoint.path} has no quantised linears",
            "All its weights have 16 bits or more, and a dense checkpoint holds these as they are.",
            f"Use {checkpoint.path} itself, or learn with `weights` int4 or int8.",
        )
    row = checkpoint.architecture
    if row.conv1d or not row.linears:
        why = "its weights are stored transposed" if row.conv1d else "its experts are fused in transformers"
        raise MaskLearnError(
            f"compressed-tensors holds no model of the type {checkpoint.config['model_type']}",
            f"The library only quantises the weights of nn.Linear, and {why}.",
            f"Use the dense checkpoint {checkpoint.path}.",
        )
