"""Finds the quantised weights of a model folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masklearn.base.printable import shown
from masklearn.base.shard import Shard
from masklearn.model.folder import stated_dtype
from masklearn.model.quantised.base import QUANTISATIONS, PackedWeight
from masklearn.model.quantised.errors import damaged, refused
from masklearn.model.quantised.stored import StoredTensors

__all__ = ["dense_config", "find_packed"]

_KEYS = ("quantization_config", "compression_config")  # the second is that of early compressed-tensors


def dense_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config.json's object without what it says of quantisation."""
    return {key: value for key, value in config.items() if key not in _KEYS}


def find_packed(
    folder: Path, config: Mapping[str, Any], shards: Mapping[str, Shard]
) -> dict[str, PackedWeight]:
    """Returns the quantised weights by their names in a dense checkpoint, none for a dense checkpoint.

    config: the object in config.json; shards: file name in the folder to header; without any, only the config is checked.
    Raises MaskLearnError for a checkpoint that is damaged, or quantised in a way that is not read.
    """
    key = next((key for key in _KEYS if config.get(key) is not None), None)
    if key is None:
        return {}
    about = config[key]
    if not isinstance(about, dict):
        raise damaged(folder, f"{key} = {shown(about)}", "It is no object.")
    method = about.get("quant_method", "compressed-tensors" if key == _KEYS[1] else None)
    if not isinstance(method, str) or method not in QUANTISATIONS:
        known = "; ".join(f"{name} ({one.summary})" for name, one in QUANTISATIONS.items())
        raise refused(folder, f"{key}.quant_method = {shown(method)}", f"Read are {known}.")
    kind = QUANTISATIONS[method]()
    settings = kind.settings(folder, about)
    if not shards:
        return {}
    stored = StoredTensors(folder, shards)
    dtype = stated_dtype(config) or "F32"
    packed = {weight.name: weight for weight in kind.weights(stored, settings, dtype)}
    hidden = {part for weight in packed.values() for part in weight.parts}
    for name in packed:
        if name in stored and name not in hidden:
            raise damaged(folder, name, "It is stored twice, as integers and as it is.")
    if not packed:
        raise damaged(folder, key, f"It says {method}, but no tensor is quantised so.")
    return packed
