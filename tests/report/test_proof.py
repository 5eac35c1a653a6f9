"""Comparisons in words: tolerances, texts and inputs."""

import pytest

from patch_compile.artifacts.proof import (
    AskedTolerance,
    ComparedInputs,
    InputsFile,
    RandomInputs,
    TextRunner,
    TextWindows,
    Tolerance,
    ToleranceOrigin,
)
from patch_compile.artifacts.report import Kind
from patch_compile.report.proof import compared_words, pruned_words, text_words, tolerance_words

DERIVED = Tolerance(share=0.0083, origin=ToleranceOrigin.ROUNDINGS, dtype="float16", roundings=32, layers=2)
ASKED = AskedTolerance(atol=1e-7, rtol=0.0, statistic="max")
TEXT = TextWindows(name="a.txt", windows=8, length=1024, dtype="float16", runner=TextRunner.ONNX_RUNTIME)


@pytest.mark.parametrize(
    ("tolerance", "words"),
    [
        (DERIVED, "3·u·√n, u = 4.88e-04 for float16, n = 32 roundings in 2 layers"),
        (
            DERIVED.model_copy(update={"layers": None, "rounding_models": 2}),
            "2 × 3·u·√n, u = 4.88e-04 for float16, n = 32 roundings: both round",
        ),
        (
            DERIVED.model_copy(update={"origin": ToleranceOrigin.ROUNDED_LINEARS}),
            "what rounding X and Y of the same linears does to the pruned model",
        ),
        (
            Tolerance(share=1e-8, origin=ToleranceOrigin.ASKED, asked=ASKED),
            "as asked: --atol 1e-07 --rtol 0 --check-error-stat max, in logits",
        ),
    ],
)
def test_a_tolerance_is_derived(tolerance: Tolerance, words: str) -> None:
    assert tolerance_words(tolerance) == words


def test_a_text_names_who_read_it() -> None:
    assert text_words(TEXT) == "a.txt, 8 windows × 1024 tokens, float16, ONNX Runtime"
    one = TEXT.model_copy(update={"windows": 1, "runner": None})
    assert text_words(one) == "a.txt, 1 window × 1024 tokens, float16"
    fp32 = TEXT.model_copy(update={"dtype": "float32", "runner": TextRunner.CHECKPOINTS})
    assert text_words(fp32) == "a.txt, 8 windows × 1024 tokens, fp32, both checkpoints"


def test_inputs_are_described_by_where_they_come_from() -> None:
    file = ComparedInputs(given=InputsFile(name="x.npz", runs=5), compared=1)
    assert compared_words(file) == "1 run of x.npz (5 runs)"
    drawn = RandomInputs(runs=4, seed=0, shapes={"x": (2, 64), "s": ()})
    assert compared_words(ComparedInputs(given=drawn, compared=4)) == (
        "4 runs of random inputs (4 runs, seed 0; x 2×64, s scalar; floats normal, integers 0 or 1)"
    )


def test_the_reference_is_named_by_the_kind_of_model() -> None:
    assert pruned_words(Kind.ONNX) == "pruned ONNX"
    assert pruned_words(Kind.ENCODER) == pruned_words(Kind.DECODER) == "pruned checkpoint"
