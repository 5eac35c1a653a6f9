"""Steps of learning, in words."""

from masklearn.masks.record import InputsRecord, MaskRecord, SmoothedRecord
from patch_compile.report.learned import learned_lines


def test_int8_inputs_are_told_with_their_worst() -> None:
    whole = tuple(f"encoder.layer.{i}.output.dense" for i in range(3))
    record = MaskRecord(
        smoothed=SmoothedRecord(sites=9, scaled=7, whole=whole, strength=0.5, dense_error=0.0),
        rounded_inputs=InputsRecord(kept=("a.down",), worst=(("b.down", 0.02), ("c.v", 0.012)), usual=0.005),
    )
    lines = dict(learned_lines(record))
    assert lines["smoothed"].startswith("the channels of 7 of 9 inputs, by powers of two")
    assert lines["smoothed"].endswith(
        "nothing takes exact scales in for 3 linears: encoder.layer.*.output.dense"
    )
    assert lines["inputs of int8"] == (
        "16 bits are kept for a.down, which rounding harms most; rounding a linear’s inputs changes its block’s output by "
        "0.5% (median); at most 2.0% (b.down), 1.2% (c.v)"
    )
