"""Builds of encoders, whose proof compares hidden states."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from patch_compile.api.results import Result
from patch_compile.artifacts.report import read_report
from patch_compile.report.terminal import show
from patch_compile.sources.checkpoint.encoder import EncoderSource
from tests.builds import TINY, build
from tests.conftest import EVAL_TEXT, texts_in
from tests.refusals import refused


@pytest.fixture
def settings(make_model: Any, tmp_path: Path) -> dict[str, Any]:
    model = make_model("bert", hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    settings = {"model": model, **texts_in(tmp_path), "out": tmp_path / "out", "ratio": 0.4, **TINY}
    return settings | {"lowering": "plugin"}


def test_the_report_compares_hidden_states(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    report = build(settings | {"eval_length": 80})
    agreement = report["agreement"]
    assert 0 < agreement["error"] <= agreement["tolerance"]["share"] < 0.02
    outputs = {one["output"]: one["relative"] for one in report["difference"]["outputs"]}
    assert set(outputs) == {"last_hidden_state", "pooler_output"}
    assert min(outputs.values()) > 10 * agreement["error"]
    # 80 tokens are more than the learned positions
    given = report["inputs"]["given"]
    assert (given["windows"], given["length"], given["dtype"]) == (2, 64, "float16")
    assert {"perplexity", "generated"}.isdisjoint(report)
    assert any("positions of the model reach" in note for note in report["notes"])
    show(Result(read_report(settings["out"])).sections())
    assert "Compiled right? ✓ yes" in capsys.readouterr().out


def test_rounded_inputs_are_allowed_for(settings: dict[str, Any]) -> None:
    """Roundings to float16 carry inputs of w8a8 to other integers, as they do in transformers."""
    report = build(settings | {"weights": "w8a8", "tile": (64, 64), "kinds": "2:4"})
    agreement = report["agreement"]
    assert {row["weights"] for row in report["linears"]} == {"w8a8"}
    assert agreement["tolerance"]["origin"] == "sixteen-bits"
    assert 0 < agreement["error"] <= agreement["tolerance"]["share"] < 0.3


def test_embeddings_are_compared_by_cosine(settings: dict[str, Any]) -> None:
    """transformers gives the same cosines."""
    report = build(settings | {"eval_length": 80, "eval_windows": 6})
    found = report["embeddings"]
    assert (found["pooling"], found["texts"]) == ("mean", 6)
    assert found["worst"] < found["mean"] < 1 and -1 < found["different"] < 1
    means = pooled_by_transformers(settings["model"]), pooled_by_transformers(settings["out"] / "model")
    cosines = torch.nn.functional.cosine_similarity(*means)
    assert found["mean"] == pytest.approx(float(cosines.mean()), abs=2e-3)
    assert found["worst"] == pytest.approx(float(cosines.min()), abs=2e-3)


def pooled_by_transformers(model: Path) -> torch.Tensor:
    """Returns mean hidden states of six windows of the text; the second half of every second window is padding."""
    tokenizer, encoder = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    windows = torch.tensor(tokenizer(EVAL_TEXT)["input_ids"][: 6 * 64]).reshape(6, 64)
    read = [slice(0, 64 if i % 2 == 0 else 32) for i in range(6)]
    with torch.no_grad():
        hidden = [
            encoder(input_ids=windows[i : i + 1, part]).last_hidden_state for i, part in enumerate(read)
        ]
    return torch.stack([one[0].mean(dim=0) for one in hidden])


def test_the_models_own_pooling_is_taken(settings: dict[str, Any]) -> None:
    (settings["model"] / "1_Pooling").mkdir()
    (settings["model"] / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    assert build(settings)["embeddings"]["pooling"] == "first"


def test_a_single_text_has_no_cosine_of_others(settings: dict[str, Any]) -> None:
    assert build(settings | {"eval_windows": 1})["embeddings"] is None


def test_an_encoder_that_was_not_compiled_right_fails(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing the hybrid with the dense model instead of the pruned model must fail."""
    run = EncoderSource.pruned_outputs

    def run_dense(source: EncoderSource, pruned: Path, *rest: Any) -> Any:
        return run(source, settings["model"], *rest)

    monkeypatch.setattr(EncoderSource, "pruned_outputs", run_dense)
    with refused():
        build(settings)
