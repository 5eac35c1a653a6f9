"""Steps of learning, in words."""

from masklearn.masks.record import MaskRecord, SmoothedRecord
from patch_compile.report.learned import learned_lines


def test_smoothing_tells_linears_without_a_site() -> None:
    whole = tuple(f"encoder.layer.{i}.output.dense" for i in range(3))
    record = MaskRecord(
        smoothed=SmoothedRecord(sites=9, scaled=7, whole=whole, strength=0.5, dense_error=0.0),
    )
    lines = dict(learned_lines(record))
    assert lines["smoothed"].startswith("the channels of 7 of 9 inputs, by powers of two")
    assert lines["smoothed"].endswith(
        "nothing takes exact scales in for 3 linears: encoder.layer.*.output.dense"
    )
