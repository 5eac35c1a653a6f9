"""The formats in which a model to prune, and its pruned form, lie on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.folder import CONFIG, files_beside
from patch_compile.artifacts.layout import MODEL, PRUNED_ONNX
from patch_compile.artifacts.stage_files import sha256_of


@dataclass(frozen=True)
class ModelFormat:
    """A format of models.

    texts: settings whose value is a text for `masklearn.text.open_text`; pruned_file: path of the pruned model in OUT;
    pruned_words: what it is; to_report: the file to attach to a report of a compiler fault; rounds_pruned: True if the
    weights of the pruned model are rounded to the recipe's type; files_of: returns the files that the fingerprint covers,
    configuration and weights; fingerprint_of: returns the sha256 of a model; files_beside: returns all other files that are
    read or copied with a model, by name, in their present state.
    """

    texts: tuple[str, ...]
    pruned_file: str
    pruned_words: str
    to_report: str
    rounds_pruned: bool
    files_of: Callable[[Path], Sequence[Path]]
    fingerprint_of: Callable[[Path], str]
    files_beside: Callable[[Path], Mapping[str, Path]]


def _onnx_files(path: Path) -> Sequence[Path]:
    from patch_compile.onnx_io.external import external_files
    from patch_compile.onnx_io.proto import refusing_invalid

    with refusing_invalid(path):
        return (path, *external_files(path))


CHECKPOINT = ModelFormat(
    texts=("calib", "eval_text"),
    pruned_file=MODEL,
    pruned_words="pruned checkpoint",
    to_report="the model's config.json",
    rounds_pruned=False,
    files_of=lambda path: (path / CONFIG, *Checkpoint.open(path).files()),
    fingerprint_of=lambda path: Checkpoint.open(path).fingerprint(),
    files_beside=files_beside,
)
ONNX_FILE = ModelFormat(
    texts=(),
    pruned_file=PRUNED_ONNX,
    pruned_words="pruned ONNX",
    to_report="the ONNX file",
    rounds_pruned=True,
    files_of=_onnx_files,
    fingerprint_of=lambda path: hashlib.sha256(
        "".join(map(sha256_of, _onnx_files(path))).encode()
    ).hexdigest(),
    files_beside=lambda _: {},
)
