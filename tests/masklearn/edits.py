"""Changes the files of a tiny model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def edit_config(model: Path, **settings: Any) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | settings))


@contextmanager
def edited_weights(model: Path) -> Iterator[dict[str, torch.Tensor]]:
    """All tensors of a model of one file, which then holds what the block makes of them."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    yield tensors
    save_file(tensors, file, {"format": "pt"})
