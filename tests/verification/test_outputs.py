"""Builds of encoders, whose proof compares hidden states."""

from pathlib import Path
from typing import Any

import pytest

from patch_compile.api.results import Result
from patch_compile.artifacts.report import read_report
from patch_compile.report.terminal import show
from patch_compile.sources.checkpoint.encoder import EncoderSource
from tests.builds import TINY, build
from tests.refusals import refused


@pytest.fixture
def settings(make_model: Any, text_file: Path, tmp_path: Path) -> dict[str, Any]:
    model = make_model("bert", hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    settings = {"model": model, "calib": str(text_file), "out": tmp_path / "out", "ratio": 0.4, **TINY}
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
    assert any("the calibration text" in note for note in report["notes"])
    show(Result(read_report(settings["out"])).sections())
    assert "Compiled right? ✓ yes" in capsys.readouterr().out


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


def test_without_text_it_is_refused_before_any_work(settings: dict[str, Any]) -> None:
    settings |= {"method": "magnitude"}
    del settings["calib"]
    with refused():
        build(settings)
    assert not settings["out"].exists()
