"""`benchmarks.quality.beyond`: figures by their definitions, and the table of a dense model and a kept row."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.quality import beyond
from benchmarks.quality.beyond import Tokens, calibration_error, predictions
from benchmarks.quality.page import _beyond, page
from benchmarks.quality.run import arguments
from benchmarks.quality.run import main as run
from masklearn.model.models import load_model
from tests.conftest import ModelMaker


def test_predictions_are_the_model_s(make_model: ModelMaker) -> None:
    model = load_model(make_model())
    windows = np.arange(600).reshape(2, 300) % model.config.vocab_size
    found = predictions(model, windows)
    with torch.no_grad():
        chances = model(torch.from_numpy(windows)).logits[:, :-1].double().softmax(dim=-1).numpy()
    labels = windows[:, 1:]
    taken = np.take_along_axis(chances, labels[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found.loss, -np.log(taken).ravel(), atol=1e-4)
    np.testing.assert_allclose(found.sure, chances.max(axis=-1).ravel(), atol=1e-5)
    assert (found.right == (chances.argmax(axis=-1) == labels).ravel()).all()


def test_calibration_error_by_hand() -> None:
    """Two of four guesses of .9 are right, and all of four guesses of .4."""
    sure, right = np.array([0.9] * 4 + [0.4] * 4), np.array([1, 1, 0, 0, 1, 1, 1, 1], bool)
    assert calibration_error(Tokens(sure, sure, right)) == pytest.approx((0.4 + 0.6) / 2)


def test_a_kept_row_is_compared_with_dense(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    model, small = str(make_model()), ["--tile", "16x16", "--windows", "4", "--length", "16"]
    texts = ["--calib", str(text_file), "--eval", str(text_file)]
    shared = ["--scratch", str(tmp_path / "runs")]
    command = [model, *texts, *shared, *small, "--eval-windows", "2", "--eval-length", "20"]
    command += ["--out", str(tmp_path / "page.md"), "--only", "oneshot, no repair", "--ratio", "0.45"]
    assert run(command) == 0
    asks = ["--other", str(text_file), "--length", "20", "40", "--tokens", "80"]
    beyond.main([model, *texts, *shared, *asks, "--state", str(tmp_path / "page.json")])
    state = json.loads((tmp_path / "page.json").read_text())
    rows = [state[f"beyond {text_file.stem} {name}"] for name in ("dense None", "oneshot, no repair 0.45")]
    assert [(row["method"], row["ratio"]) for row in rows] == [("dense", None), ("oneshot, no repair", 0.45)]
    for row in rows:
        losses = row["beyond"]["losses"]
        assert losses["this text"] == losses[text_file.stem] != losses["windows of 40"]
    text = page([], arguments(command), beyond=rows)
    lost = rows[1]["beyond"]["losses"]["rare"] - rows[0]["beyond"]["losses"]["rare"]
    assert f"| {lost:+.3f} |" in text.splitlines()[-1] + text.splitlines()[-2]


def test_each_other_text_has_a_table() -> None:
    shares = {"choice": 0.5}
    rows = [
        {
            "method": "dense",
            "ratio": None,
            "beyond": {"losses": {"this text": 3.0, text: loss}, "shares": shares},
        }
        for text, loss in (("sums", 1.0), ("poems", 2.0))
    ]
    tables = _beyond(rows).split("\n\n")
    assert ["sums" in one for one in tables] == [True, False]
    assert "2.000" in tables[1]
