from hypothesis import given
from hypothesis import strategies as st

from patch_compile.report.page.sections import differing_words

TEXTS = st.text(st.sampled_from("ab \n"), max_size=40)


@given(TEXTS, TEXTS)
def test_runs_joined_are_the_texts(before: str, after: str) -> None:
    left, right = differing_words(before, after)
    assert "".join(text for text, _ in left) == before
    assert "".join(text for text, _ in right) == after
    assert before != after or not any(differs for _, differs in left + right)


def test_only_what_differs_is_marked() -> None:
    left, right = differing_words(" Paris, the old city.", " Paris, the large old town.")
    assert left == [(" Paris, the", False), (" old", False), (" city.", True)]
    assert right == [(" Paris, the", False), (" large", True), (" old", False), (" town.", True)]
