import pickle
from pathlib import Path

import numpy as np
import torch

from masklearn.importers import formats
from masklearn.importers.base import IMPORTERS, Importer, detect_format
from tests.masklearn.importers import sources
from tests.masklearn.importers.conftest import Model
from tests.refusals import refused

BITS = {"x": np.ones((4, 8), np.bool_)}


def test_documentation_names_every_format_file() -> None:
    files = {file.stem for file in Path(formats.__path__[0]).glob("*.py")} - {"__init__"}
    assert files == {name.replace("-", "_") for name in IMPORTERS}
    page = (Path(__file__).parents[3] / "docs/howto/published-masks.md").read_text()
    for name, kind in IMPORTERS.items():
        assert kind.name == name and kind.summary and issubclass(kind, Importer)
        assert f"`{name}`" in page, f"docs/howto/published-masks.md has no line on {name}"


def test_formats_by_content(dense: Model, tmp_path: Path) -> None:
    keeps = {name: mask.keep() for name, mask in sources.uniform(dense.coverage).items()}
    patch = sources.patch_members(BITS)
    shapes_only = {key: data for key, data in patch.items() if key != "__meta__"}
    for source, expected in (
        (sources.write_npz(tmp_path / "a.npz", sources.maskllm_members(BITS)), "maskllm"),
        (sources.write_npz(tmp_path / "b.anything", patch), "patch"),
        (sources.write_npz(tmp_path / "c.npz", shapes_only), "patch"),
        (dense.checkpoint.path, "checkpoint"),
        (sources.write_compressed(tmp_path / "ct", dense.checkpoint, keeps), "compressed-tensors"),
    ):
        assert detect_format(source)[0] == expected


def test_what_cannot_be_imported(dense: Model, tmp_path: Path) -> None:
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"x": 1}))
    torch.save({"x": torch.ones(2)}, tmp_path / "mask.pt")
    (tmp_path / "empty").mkdir()
    for source in (
        tmp_path / "nowhere",
        tmp_path / "p.pkl",
        tmp_path / "mask.pt",
        tmp_path / "empty",
        dense.checkpoint.path / "model.safetensors",
    ):
        with refused():
            detect_format(source)
