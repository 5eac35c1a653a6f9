import pytest

from samples.brown import detag


@pytest.mark.parametrize(
    ("tagged", "text"),
    [
        ("\tThe/at jury/nn said/vbd ``/`` no/at evidence/nn ''/'' ./.", 'The jury said "no evidence".'),
        (
            "\tIt/pps didn't/dod* (/( he/pps said/vbd )/) ,/, did/dod it/pps ?/. ?/.",
            "It didn't (he said), did it?",
        ),
        ("\tand/cc ;/. ;/. or/cc 1/2/cd cup/nn", "and; or 1/2 cup"),
        ("\tOne/cd ./.\nTwo/cd ./.\n\n\n\tThree/cd ./.\n", "One. Two.\nThree."),
        ("\tMr./np Ames'/np$ hat/nn", "Mr. Ames' hat"),
        ("", ""),
    ],
)
def test_tagged_to_text(tagged: str, text: str) -> None:
    assert detag(tagged) == text
