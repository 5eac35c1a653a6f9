"""Formats are told by their content, and a new format needs only a class to be detected and imported."""

import json
import pickle
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from masklearn.base.safe_read import sha256_of
from masklearn.importers import formats
from masklearn.importers.base import IMPORTERS, Importer, Published, check_known, detect_format
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage
from tests.commands import run_here
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


class OddOnes(Importer):
    """A zip archive of one JSON list: linears that keep k = 1 and 3 of each four."""

    name = "odd-ones"
    summary = "a list of linears that keep their odd columns"

    def detect(self, source: Path) -> str | None:
        return "it ends in .odd" if source.suffix == ".odd" else None

    def open(self, source: Path, checkpoint: Checkpoint, coverage: Coverage) -> Published:
        with zipfile.ZipFile(source) as archive:
            names, ignored = check_known(source, json.loads(archive.read("list")), checkpoint, coverage)

        def read(name: str) -> np.ndarray:
            kept = np.zeros(coverage.linears[name], np.bool_)
            kept[:, 1::2] = True
            return kept

        return Published(names, read, partial(sha256_of, source), uniform=frozenset(names), ignored=ignored)


class AlsoOdd(OddOnes):
    name = "also-odd"


@pytest.fixture
def source(dense: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(IMPORTERS._classes, OddOnes.name, OddOnes)
    with zipfile.ZipFile(tmp_path / "masks.odd", "w") as archive:
        archive.writestr("list", json.dumps([name for name in dense.coverage.linears if "mlp" in name]))
    return tmp_path / "masks.odd"


def test_it_is_found_despite_unreadable_neighbours(source: Path) -> None:
    assert detect_format(source) == ("odd-ones", "it ends in .odd")


def test_the_command_imports_it(dense: Model, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks.safetensors"
    asked = ("--model", dense.checkpoint.path, "-o", out, "--tile", "16x16", "--json")
    done = run_here("import-mask", source, *asked)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["format"] == "odd-ones"
    assert "format: odd-ones (it ends in .odd)" in done.stderr
    masks = MaskSet.load(out)
    assert masks.method == "import:odd-ones"
    for name, mask in masks.items():
        assert mask.tiles.all() == mask.tiles.any() == ("mlp" in name)
        if "mlp" in name:
            assert (mask.keep() == np.tile([False, True], mask.shape[1] // 2)).all()


def test_what_two_formats_claim_is_not_guessed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMPORTERS._classes, AlsoOdd.name, AlsoOdd)
    with refused():
        detect_format(source)
