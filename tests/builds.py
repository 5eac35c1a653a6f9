"""Builds tiny models with every stage real, from the fixture `settings` of conftest."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.pipeline.build import build as build_recipe
from patch_compile.recipe import Recipe

TINY: dict[str, Any] = {
    "method": "wanda",
    "tile": (64, 64),
    "windows": 2,
    "length": 24,
    "eval_windows": 2,
    "eval_length": 24,
    "backend": "onnx",
    "lowering": "plugin",  # `auto` would leave such small linears dense
}


def build(settings: dict[str, Any], **options: bool) -> dict[str, Any]:
    """Build, and return the report as `--json` prints it."""
    report = build_recipe(
        Recipe.parse(settings), force=options.get("force", False), resume=options.get("resume", False)
    )
    return report.as_json()


def check_out(out: Path, report: dict[str, Any], model_file: str) -> dict[str, Any]:
    """Check that a finished OUT is complete and is what its manifest and the report say; returns the manifest."""
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    files = {str(f.relative_to(out)) for f in out.rglob("*") if f.is_file()} - {"manifest.json"}
    assert files == set(manifest["files"])
    assert all(sha256_of(out / name) == digest for name, digest in manifest["files"].items())
    assert {"masks.safetensors", "recipe.yaml", "report.json", "onnx/model.onnx", model_file} <= files
    assert report == json.loads((out / "report.json").read_text())
    assert not out.with_name("out.partial").exists()
    texts = [out / name for name in files if Path(name).suffix in (".json", ".yaml", ".html")]
    assert len(texts) > 3 and [text for text in texts if ".partial" in text.read_text()] == []
    return manifest


def narrow_model(make_model: Any) -> Path:
    """A model of one block, of whose linears all but `o_proj` gain on an L4."""
    model: Path = make_model(
        hidden_size=384, intermediate_size=1536, num_hidden_layers=1, num_attention_heads=6
    )
    file = model / "model.safetensors"
    # The weights of a small random model are too large for this model.
    save_file({name: w * 0.1 if w.ndim == 2 else w for name, w in load_file(file).items()}, file)
    return model


def zeros(model: Path) -> dict[str, int]:
    """Number of zeros in each tensor of a model of one shard."""
    return {name: int((w == 0).sum()) for name, w in load_file(model / "model.safetensors").items()}
