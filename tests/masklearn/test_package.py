import textwrap
from pathlib import Path

import pytest

import masklearn
from masklearn import MaskSet
from tests.conftest import ModelMaker


def test_the_example_of_the_package_runs(
    make_model: ModelMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert masklearn.__doc__
    _, _, rest = masklearn.__doc__.partition("\n\n")
    code, _, _ = rest.partition("\n\nImporting")
    code = textwrap.dedent(code).replace("models/smollm2-135m", str(make_model()))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert MaskSet.load(tmp_path / "masks.safetensors").ratio == pytest.approx(0.4, abs=0.01)
