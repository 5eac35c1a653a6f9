"""Finds the architecture of a model: its row in the table, or a row inferred from its structure."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn.base.errors import MaskLearnError
from masklearn.base.extras import require_extra
from masklearn.model.config_bounds import check_config
from masklearn.model.known_architectures import ARCHITECTURES as ARCHITECTURES
from masklearn.model.known_architectures import Architecture as Architecture
from masklearn.model.known_architectures import NotCoveredError
from masklearn.model.pretrained import OWN_CODE, load_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def architecture_at(path: Path, settings: Mapping[str, Any], *, quantised: bool) -> Architecture:
    """Returns the architecture of the model of a folder; settings: its config.json. `Checkpoint.architecture` holds it.

    Raises MaskLearnError if it is not covered or not covered for quantised checkpoints, and as `check_config` does.
    """
    model_type = check_type(path, settings)
    check_config(path / "config.json", settings)
    row = ARCHITECTURES.get(model_type) or architecture_of_config(load_config(path))
    if quantised and row.conv1d:
        raise MaskLearnError(
            f"{path} is a quantised model of the type {model_type}",
            "Such a model stores its weights transposed, and quantised weights are only read as [N, K].",
            "Use the checkpoint that it was quantised from.",
        )
    return row


def check_type(path: Path, settings: Mapping[str, Any]) -> str:
    """Returns the `model_type` of the content of a config.json.

    Raises MaskLearnError if it names none, or if the model would run code of its own and has no row.
    """
    model_type = settings.get("model_type")
    if not isinstance(model_type, str):
        raise _not_covered(path, model_type, "config.json names no type.")
    if model_type not in ARCHITECTURES and "auto_map" in settings:
        raise _not_covered(path, model_type, OWN_CODE)
    return model_type


def architecture_of_config(config: Any) -> Architecture:
    """Returns the architecture of a transformers config.

    Raises MaskLearnError if it is not covered. A type without a row needs torch.
    """
    if config.model_type in ARCHITECTURES:
        return ARCHITECTURES[config.model_type]
    require_extra("build", f"Finding the linears of the architecture {config.model_type}")
    from masklearn.model.structure import structure_of

    try:
        row = structure_of(config)
        if row.conv1d:
            raise NotCoveredError("Its blocks are Conv1D, which only types with a row may have.")
        return row
    except NotCoveredError as error:
        path = Path(config.name_or_path)
        raise _not_covered(path, config.model_type, str(error), _how_to_export(path)) from error


def _not_covered(
    path: Path, model_type: object, why: str, fix: str = "Use a model of a covered type."
) -> MaskLearnError:
    return MaskLearnError(
        f"The architecture {model_type!r} of {path} is not covered",
        f"{why} Covered are the model types {', '.join(ARCHITECTURES)}, and every other decoder of transformers whose "
        "blocks run one after the other.",
        fix,
    )


def _how_to_export(path: Path) -> str:
    """Returns how to compile a model of another architecture. optimum cannot tell the task of a local folder."""
    onnx = f"{path.absolute().name}-onnx"
    export = shlex.join(["optimum-cli", "export", "onnx", "--model", str(path), "--task", "TASK", onnx])
    built = shlex.quote(f"{onnx}/model.onnx")
    return (
        f"Export it to ONNX, and build each .onnx file: `pip install optimum-onnx`, `{export}` (TASK is "
        f"image-classification for ViT, text2text-generation for T5), `patch-compile build {built}`. For a type that "
        "optimum does not know, such as Mamba, call torch.onnx.export."
    )


def longest_window(architecture: Architecture, config: "PretrainedConfig") -> int | None:
    """Returns the largest number of tokens of a window with learned positions, or None if positions are not learned."""
    if architecture.positions is None:
        return None
    return int(config.max_position_embeddings) - architecture.positions


def check_window(architecture: Architecture, config: "PretrainedConfig", length: int) -> None:
    """Raises MaskLearnError if windows of this length exceed the learned positions of the model."""
    longest = longest_window(architecture, config)
    if longest is not None and length > longest:
        raise MaskLearnError(
            f"Windows of {length} tokens are too long for this {config.model_type} model",
            f"Its positions are learned, and reach {longest} tokens.",
            f"Give `length` {longest} or less, or for evaluation text `eval_length` {longest} or less.",
        )
