"""The golden files of refusals hold the refusals of all tests that need one, and no others."""

from pathlib import Path

import pytest

from masklearn.base.errors import UsageError
from patch_compile.errors import PatchCompileError
from tests.commands import Done
from tests.refusals import WRITES, golden_texts, missing, refusal, refused, renew, stale


def test_every_golden_text_has_its_test(request: pytest.FixtureRequest) -> None:
    found = stale(request.config)
    if WRITES:
        for path, names in found.items():
            renew(path, {name: set() for name in names})
    else:
        assert not found, f"Their tests are gone or have other names, run `make golden`: {found}"


def test_every_refusal_has_its_golden_text(request: pytest.FixtureRequest) -> None:
    found = missing(request.config)
    assert WRITES or not found, "\n".join(("Run `make golden`.", *found))


def test_what_varies_is_not_in_golden_texts(tmp_path: Path) -> None:
    with refused(varies=r"\d+ MiB"):
        raise PatchCompileError(f"{tmp_path}/model needs 17 MiB (pid 123)", "A process holds them.", "Wait.")
    with refused() as caught:
        raise UsageError("The setting ratio = 9 is not valid", "It has\n\ntwo lines.")
    assert caught.error.why == "It has\n\ntwo lines."
    refusal(Done(3, "", f"note\nerror: {'0' * 64} is wrong\n  fix: Correct it in {Path(__file__)}.\n"))


def test_another_text_class_or_none_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"), refused():
        pass
    with pytest.raises(KeyError), refused(ValueError):
        raise KeyError
    with pytest.raises(AssertionError, match="is not in this text"), refused(varies="MiB"):
        raise UsageError("It fails", "", "")
    with refused(ValueError):
        raise ValueError("only this text is in the golden file")


def test_cases_with_the_same_refusal_share_a_line(tmp_path: Path) -> None:
    path = tmp_path / "refusals.txt"
    renew(path, {"a.py::none": set()})
    assert not path.exists()
    two, one = {"exit 1: It fails", "exit 2: Again"}, {"ValueError: odd"}
    renew(path, {"a.py::c[x y]": two, "a.py::c[z]": two, "c.py::a": one})
    assert path.read_text() == (
        "a.py::c\texit 1: It fails\t[x y]\t[z]\na.py::c\texit 2: Again\t[x y]\t[z]\nc.py::a\tValueError: odd\n"
    )
    renew(path, {"c.py::a": set(), "a.py::c[z]": one})
    assert golden_texts(path) == {"a.py::c[x y]": two, "a.py::c[z]": one}
