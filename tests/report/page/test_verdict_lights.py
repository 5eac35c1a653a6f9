"""The lights at the top: their questions, and the reasons for their colours."""

from pathlib import Path
from typing import Any

import pytest

from patch_compile.artifacts.plan import Asked
from patch_compile.artifacts.proof import (
    ComparedInputs,
    EmbeddingsDifference,
    OutputDifference,
    OutputsDifference,
)
from patch_compile.artifacts.report import BuildReport, Kind
from patch_compile.artifacts.verify import EngineCompared, PrunedPerplexity, VerifyReport
from patch_compile.report.page.page_data import Sources
from patch_compile.report.page.verdict import Light, lights
from tests.artifacts.examples import PROOF, TOLERANCE, outputs_report
from tests.report.page.found import baselines, compiled, verified
from tests.report.page.outs import Out, llama_shapes


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out(tmp_path / "out", llama_shapes(2, 256, 128, 384))


def lit(out: Out, *found: Any) -> tuple[Light, Light, Light]:
    right, lost, fast = lights(Sources.read(out.write(*found)))
    assert [one.asked for one in (right, lost, fast)] == ["Right?", "How much lost?", "How fast?"]
    return right, lost, fast


def with_perplexity(found: VerifyReport, pruned: float, **changed: Any) -> VerifyReport:
    assert found.pruned is not None
    perplexity = PrunedPerplexity(dense=10.0, pruned=pruned)
    answer = found.pruned.model_copy(update={"perplexity": perplexity})
    fair = baselines().model_copy(update={"beaten_by": ()})
    return found.model_copy(update={"pruned": answer, "checks": (), "baselines": fair} | changed)


def as_encoder(out: Out, embeddings: EmbeddingsDifference) -> Out:
    """Make the build one of an encoder."""
    outputs = OutputsDifference(
        outputs=(OutputDifference(output="h", largest=0.7, relative=0.6, floating=True),)
    )
    made = outputs_report(out.path, outputs, TOLERANCE, kind=Kind.ENCODER).as_json()
    built = {name: out.report[name] for name in BuildReport.model_fields if name != "kind"}
    inputs = ComparedInputs(given=PROOF.perplexity.on, compared=4).as_json()
    out.report = made | built | {"embeddings": embeddings.as_json(), "inputs": inputs}
    return out


class TestRight:
    def engine(self, passed: bool) -> EngineCompared:
        return EngineCompared(engine="e", passed=passed, error=0.1, tolerance=TOLERANCE, runs=())

    def test_all_was_compared(self, out: Out) -> None:
        right, _, _ = lit(out, verified(out).model_copy(update={"built": self.engine(True)}))
        assert (right.colour, right.answer) == ("green", "Yes")
        out.report["engine"] = None
        assert lit(out)[0].colour == "green"  # a build compares its ONNX file itself

    def test_a_fault(self, out: Out) -> None:
        wrong = compiled().model_copy(update={"passed": False})
        right, _, _ = lit(out, verified(out).model_copy(update={"compiled": wrong}))
        assert right.colour == "red" and "The ONNX file computes something else" in right.why
        right, _, _ = lit(out, verified(out).model_copy(update={"built": self.engine(False)}))
        assert right.colour == "red" and "The engine computes something else" in right.why


class TestLost:
    @pytest.mark.parametrize(
        ("pruned", "colour", "said"),
        [
            (9.9, "green", "Green up to 5%."),
            (10.49, "green", "Green up to 5%."),
            (10.6, "yellow", "Yellow from 5% to 20%: try --repair distill and --ratio 0.35."),
            (11.9, "yellow", "Yellow from 5% to 20%: try --repair distill and --ratio 0.2."),
            (12.1, "red", "Red above 20%: try --repair distill and --ratio 0.35."),
            (18.0, "red", "Red above 20%: try --repair distill and --ratio 0.2."),
            (999.0, "red", "Red above 20%: try --repair distill."),
            (float("inf"), "red", "Red above 20%: try --repair distill."),
        ],
    )
    def test_by_the_rise_of_the_perplexity(self, out: Out, pruned: float, colour: str, said: str) -> None:
        _, lost, _ = lit(out, with_perplexity(verified(out), pruned))
        assert lost.colour == colour and lost.why.endswith(f"pruned. {said}")

    def test_limits_of_a_cosine_lie_between_texts(self, out: Out) -> None:
        for mean, colour, said in (
            (0.99, "green", "Green from 0.970."),
            (0.95, "yellow", "Yellow from 0.970 to 0.880: try --repair distill and --ratio 0.3."),
            (0.8, "red", "Red below 0.880: try --repair distill and --ratio 0.3."),
        ):
            found = EmbeddingsDifference(pooling="mean", texts=8, mean=mean, worst=0.7, different=0.4)
            _, lost, _ = lit(as_encoder(out, found))
            assert (lost.colour, lost.answer) == (colour, f"{mean:.3f} cosine to dense")
            assert lost.why.endswith(said) and "8 texts, the mean of their last hidden states" in lost.why

    def test_text_of_the_model_is_not_held_out(self, out: Out) -> None:
        assert "on held-out text:" in lit(out)[1].why
        out.report["text"]["eval"] |= {"name": "text that the model wrote", "path": None}
        assert "on text that the model wrote:" in lit(out)[1].why

    def test_asked_speed_gives_no_advised_ratio(self, out: Out) -> None:
        out.report["asked"] = Asked(speedup=1.3).as_json()
        assert lit(out)[1].why.endswith("Red above 20%: try --repair distill.")

    def test_a_limit_of_the_user_counts_instead(self, out: Out) -> None:
        failed, kept = verified(out).checks
        _, lost, _ = lit(out, with_perplexity(verified(out), 10.1, checks=(failed, kept)))
        assert lost.colour == "red" and "beyond the limit ppl:+5%" in lost.why
        _, lost, _ = lit(out, with_perplexity(verified(out), 19.0, checks=(kept,)))
        assert lost.colour == "green" and "keeps the limit top1:60%" in lost.why

    def test_a_simpler_way_that_loses_less_is_named(self, out: Out) -> None:
        _, lost, _ = lit(out, with_perplexity(verified(out), 10.1, baselines=baselines()))
        assert lost.colour == "yellow" and "A simpler way of pruning loses less: uniform-2:4." in lost.why
