import pytest

from patch_compile.artifacts.proof import TextWindows
from patch_compile.artifacts.verify import LogitErrorStats, PrunedPerplexity, PrunedTokens
from patch_compile.verification.request import check_figures, parse_limit
from tests.refusals import refused

PRUNED = PrunedTokens(
    perplexity=PrunedPerplexity(dense=10.0, pruned=10.6),
    kl=0.05,
    top1_agreement=0.9,
    logits=LogitErrorStats(max=3.0, mean=0.2, median=0.1, rms=0.3, scale=20.0),
    tokens=64,
    on=TextWindows(name="text", windows=2, length=32, dtype="float32", runner="checkpoints"),
)


@pytest.mark.parametrize(
    ("spelled", "limit", "passed"),
    [
        ("ppl:+5%", 10.5, False),
        ("ppl:+6.1%", 10.61, True),
        ("ppl:10.6", 10.6, True),
        ("ppl:10.5", 10.5, False),
        ("kl:5e-2", 0.05, True),
        ("kl:0.01", 0.01, False),
        ("top1:90%", 0.9, True),
        ("top1:0.95", 0.95, False),
        ("logits:0.1", 0.1, False),
    ],
)
def test_limits(spelled, limit, passed):
    row = parse_limit(spelled).check(PRUNED)
    assert row.ask == spelled
    assert row.limit == pytest.approx(limit)
    assert row.passed is passed


@pytest.mark.parametrize(
    "spelled", ["ppl", "ppl:", "ppl:5%", "ppl:+5", "kl:+5%", "speed:3", "ppl:-1", "ppl:+5%%", "top1:nan", ""]
)
def test_what_is_no_limit_is_refused(spelled):
    with refused(ValueError):
        parse_limit(spelled)


def test_missing_figures_do_not_pass():
    with refused():
        check_figures((parse_limit("kl:1"), parse_limit("output:1")), decoder=True)
    with refused():
        check_figures((parse_limit("output:1"), parse_limit("ppl:12")), decoder=False)
    check_figures((parse_limit("ppl:12"), parse_limit("top1:90%")), decoder=True)
    check_figures((parse_limit("output:1"),), decoder=False)
