import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from masklearn.errors import PatchCompileError
from masklearn.importers import IMPORTERS, Format, detect_format
from tests.masklearn.importers import sources
from tests.masklearn.importers.conftest import Model

BITS = {"x": np.ones((4, 8), np.bool_)}


def test_every_format_has_an_importer() -> None:
    assert set(IMPORTERS) == set(Format)


def test_formats_by_content(dense: Model, tmp_path: Path) -> None:
    keeps = {name: mask.keep() for name, mask in sources.uniform(dense.coverage).items()}
    patch = sources.patch_members(BITS)
    shapes_only = {key: data for key, data in patch.items() if key != "__meta__"}
    for source, expected in (
        (sources.write_npz(tmp_path / "a.npz", sources.maskllm_members(BITS)), Format.MASKLLM),
        (sources.write_npz(tmp_path / "b.anything", patch), Format.PATCH),
        (sources.write_npz(tmp_path / "c.npz", shapes_only), Format.PATCH),
        (dense.checkpoint.path, Format.CHECKPOINT),
        (sources.write_compressed(tmp_path / "ct", dense.checkpoint, keeps), Format.COMPRESSED_TENSORS),
    ):
        assert detect_format(source)[0] is expected


def test_what_cannot_be_imported(dense: Model, tmp_path: Path) -> None:
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"x": 1}))
    torch.save({"x": torch.ones(2)}, tmp_path / "mask.pt")
    (tmp_path / "empty").mkdir()
    for source, said in (
        (tmp_path / "nowhere", "no such file or folder.*nothing is downloaded"),
        (tmp_path / "p.pkl", "pickled files are not read"),
        (tmp_path / "mask.pt", r"data\.pkl in .* is pickled"),
        (tmp_path / "empty", r"has no config\.json"),
        (dense.checkpoint.path / "model.safetensors", "single safetensors file.*build --mask"),
    ):
        with pytest.raises(PatchCompileError, match=said):
            detect_format(source)
