"""The golden files of refusals hold the refusals of all tests that need one, and no others."""

import pytest

from masklearn.base.errors import UsageError
from tests.refusals import WRITES, missing, refused, renew, stale


def test_every_golden_text_has_its_test(request: pytest.FixtureRequest) -> None:
    found = stale(request.config)
    if WRITES:
        for path, names in found.items():
            renew(path, {name: set() for name in names})
    else:
        assert not found, (
            f"Their tests are gone or have other names, run `GOLDEN=write make test-full`: {found}"
        )


def test_every_refusal_has_its_golden_text(request: pytest.FixtureRequest) -> None:
    found = missing(request.config)
    assert WRITES or not found, "\n".join(("Run `GOLDEN=write make test-full`.", *found))


def test_another_text_class_or_none_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"), refused():
        pass
    with pytest.raises(KeyError), refused(ValueError):
        raise KeyError
    with pytest.raises(AssertionError, match="is not in this text"), refused(varies="MiB"):
        raise UsageError("It fails", "", "")
    with refused(ValueError):
        raise ValueError("only this text is in the golden file")
