"""The model card: metadata for hubs, the report's figures, and commands that run the build."""

from pathlib import Path

import pytest
import yaml

from masklearn.model.folder import CardFacts, hub_name, read_card
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import CARD, PAGE
from patch_compile.report.page.page_data import Sources
from patch_compile.report.page.write import model_card, renew_page
from tests.report.page.outs import Out, llama_shapes

BASE = """---
license: other
license_name: the-licence
license_link: LICENSE
language: [en, "no good: <b>"]
datasets: &a [*a]
---
# A model
"""


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out(tmp_path / "out", llama_shapes(2, 256, 128, 384))


def card_of(path: Path) -> tuple[dict[str, object], str]:
    """Returns metadata and text of the card of an OUT."""
    _, head, text = model_card(Sources.read(path), path).split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_card_names_source_and_cost(out: Out) -> None:
    out.report["model"]["path"] = "/hub/models--Some-Owner--Model-1B/snapshots/0123"
    path = out.write()
    (path / "model").mkdir()
    (path / "model" / CARD).write_text(BASE)
    about, text = card_of(path)
    assert about["base_model"] == "Some-Owner/Model-1B" and about["language"] == ["en"]
    assert (about["license"], about["license_name"], about["license_link"]) == (
        "other",
        "the-licence",
        "LICENSE",
    )
    assert about["pipeline_tag"] == "text-generation" and {"2:4", "onnx"} <= {*about["tags"]}  # type: ignore[misc]
    assert "| Weights zeroed | 40.0% |" in text and "| Perplexity | 22.19 | dense 15.68, +42%" in text
    assert "| End to end speed | 1.11× | predicted (0.97–1.13), RTX 3090" in text
    assert "`the-licence` (LICENSE)" in text and 'patch-compile run . "' in text


def test_what_is_not_known_is_not_said(out: Out) -> None:
    about, text = card_of(out.write())
    assert not {"base_model", "license", "language"} & {*about}
    assert "unknown (no model card" in text and "# `smollm2-135m`" in text and "`engine/" not in text


def test_names_of_others_are_text(out: Out) -> None:
    out.report["model"]["path"] = "/models/<b>`x`|\x1b[2J"
    _, text = card_of(out.write())
    assert "# `<b>'x'|\\x1b[2J`" in text and "\x1b" not in text


def test_the_card_is_renewed_with_the_page(out: Out) -> None:
    path = out.write()
    renew_page(path)
    renew_page(path)  # the first one sorts the manifest's files
    first = (path / CARD).read_text()
    files = OutFolder.open(path, check=False).manifest.files
    assert {PAGE, CARD} <= set(files)
    renew_page(path)
    assert (path / CARD).read_text() == first
    assert OutFolder.open(path, check=False).manifest.files == files


@pytest.mark.parametrize(
    "content",
    [b"", b"# no metadata", b"---\nlicense: [mit\n---\n", b"---\n- mit\n---\n", b"---\nlicense: mit", b"\xff\xfe",
     b"---\nlicense: {a: b}\nlanguage: 7\nlicense_link: 'javascript:x'\n---\n", b"---\n" + b"[" * 5000 + b"\n---\n"],
)  # fmt: skip
def test_undocumented_cards_say_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CARD).write_bytes(content)
    assert read_card(tmp_path) == CardFacts()


@pytest.mark.parametrize(
    ("path", "config", "name"),
    [
        ("/hub/models--a--b-c/snapshots/1", {}, "a/b-c"),
        ("/models/b", {"_name_or_path": "a/b.c"}, "a/b.c"),
        ("/models/b", {"_name_or_path": "/home/a/b"}, ""),
        ("/models/b", {"_name_or_path": "../a"}, ""),
        ("/models/b", {"_name_or_path": 7}, ""),
        ("/hub/models--a", {}, ""),
    ],
)
def test_the_name_on_a_hub(path: str, config: dict[str, object], name: str) -> None:
    assert hub_name(Path(path), config) == name
