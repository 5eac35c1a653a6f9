"""Content of the page and its order; golden files hold its text, and test_browser.py tests its looks."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from masklearn.base.durable import is_temporary
from patch_compile.artifacts.bench import Phase
from patch_compile.artifacts.verify import EngineNotRun, NotRun
from tests.artifacts.benched import benched
from tests.builds import TINY, build
from tests.conftest import texts_in
from tests.refusals import refused
from tests.report.page.found import baselines, compiled, verified
from tests.report.page.outs import Out, llama_shapes, write_page
from tests.sources.onnx_model import graphs

SMALL = llama_shapes(2, 256, 128, 384)
BUILT = ["verdict", "questions", "speed", "maps", "plan", "said", "origin"]


def words(path: Path) -> str:
    """Visible text, without tags and scripts, with blanks folded."""
    source = re.sub(r"<(style|script|svg).*?</\1>", " ", path.read_text(), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", source))


def sections(path: Path) -> list[str]:
    return re.findall(r'<section id="(\w+)"', path.read_text())


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out(tmp_path / "out", SMALL)


def without_predictions(out: Out, why: str) -> None:
    out.report["plan"] |= {"whole": None, "card": None, "workload": None, "unpredicted": why}
    for row in out.report["linears"]:
        row["predicted"] = None


def test_pages_are_equal_however_out_is_spelled(out: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_page(out.write()).read_bytes()
    monkeypatch.chdir(out.path.parent)
    assert write_page(Path(out.path.name)).read_bytes() == whole


class TestVerdict:
    def test_an_engine_that_is_run_as_a_whole(self, out: Out) -> None:
        """The engine of an ONNX file has neither prompts nor decode steps, and no prediction."""
        without_predictions(out, "no-checkpoint")
        whole = {"phase": Phase.WHOLE, "tokens": None, "limit": None, "predicted": None}
        timed = benched().model_copy(update={"rows": (benched().rows[0].model_copy(update=whole),)})
        said = words(write_page(out.write(None, timed)))
        assert "Measured slower than the dense engine for a whole run with batch 16: 0.86×." in said
        assert "measured, batch 16" in said and "neither predicted nor measured" not in said

    def test_faults_come_first(self, out: Out) -> None:
        wrong = compiled().model_copy(update={"passed": False, "error": None})
        page = write_page(out.write(verified(out).model_copy(update={"compiled": wrong})))
        assert "not finite, allowed 0.0118" in words(page)
        levels = re.findall(r'<li class="(fault|caution|next)">', page.read_text())
        assert levels == sorted(levels, key=["fault", "caution", "next"].index)

    def test_a_verification_of_another_version_is_named(self, out: Out) -> None:
        path = out.write(verified(out))
        file = path / "verify/verify.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 1}))
        said = words(write_page(path))
        assert "It has version 1" in said and "Not measured yet" in said
        assert "worse than FFN-only" not in said

    def test_no_character_moves_a_terminal(self, out: Out) -> None:
        out.report["model"]["path"] = "/models/\x1b[2J\u2028"
        text = write_page(out.write()).read_text()
        assert "\x1b" not in text and "\u2028" not in text and r"\x1b[2J\u2028" in text

    def test_nothing_predicted(self, out: Out) -> None:
        without_predictions(out, "no-card")
        said = words(write_page(out.write()))
        assert (
            "grey: Not known No speed is predicted" in said
            and "Decode speed ≤ 1." in said
            and "prefill, µs" not in said
        )


class TestSections:
    def test_none_is_empty(self, out: Out) -> None:
        """verify was not asked for some parts."""
        parts = ("where", "baselines", "tasks", "text", "pruned", "compiled", "built")
        nothing = dict.fromkeys(parts) | {"checks": ()}
        page = write_page(out.write(verified(out).model_copy(update=nothing)))
        assert sections(page) == BUILT

    def test_the_page_does_not_list_itself(self, out: Out) -> None:
        path = out.write()
        first = write_page(path).read_bytes()
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"]["report.html"] = "e" * 64
        (path / "manifest.json").write_text(json.dumps(manifest))
        assert write_page(path).read_bytes() == first
        assert not [file for file in path.iterdir() if is_temporary(file.name)]


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def test_what_others_wrote_is_text(out: Out) -> None:
    out.report["model"]["path"] = f"/models/{HOSTILE}"
    out.report["generated"] = {"prompt": HOSTILE, "dense": HOSTILE, "hybrid": f"{HOSTILE} {HOSTILE}"}
    out.report["notes"] = [HOSTILE]
    out.report["plan"]["card"]["stands_for"] = HOSTILE
    out.report["skipped"] = [{"name": HOSTILE, "reason": HOSTILE}]
    found = verified(out)
    *rows, last = baselines().rows
    rivals = {"rows": (*rows, last.model_copy(update={"name": HOSTILE})), "beaten_by": (HOSTILE,)}
    hostile = {
        "baselines": baselines().model_copy(update=rivals),
        "notes": (HOSTILE,),
        "built": EngineNotRun(reason=NotRun.NOT_HERE, error=HOSTILE),
        "checks": (found.checks[0].model_copy(update={"ask": HOSTILE}),),
    }
    source = write_page(out.write(found.model_copy(update=hostile))).read_text()
    assert source.count("<script>") == source.count("</script>") == 1
    assert "<img" not in source
    assert source.count("alert(1)") > 10


def test_nothing_is_fetched(out: Out) -> None:
    source = write_page(out.write(verified(out), benched())).read_text()
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!data:|#)', source)
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttp|https?://(?!www\.w3\.org/2000/svg)", source)
    assert "Content-Security-Policy" in source and "default-src 'none'" in source


def test_a_folder_that_is_no_build(tmp_path: Path, out: Out) -> None:
    with refused():
        write_page(tmp_path)
    (out.write() / "report.json").unlink()
    with refused():
        write_page(out.path)


class TestRealBuilds:
    def test_an_encoder(self, make_model: Any, tmp_path: Path) -> None:
        model = make_model("bert", hidden_size=128, intermediate_size=192, num_hidden_layers=2)
        build({"model": model, **texts_in(tmp_path), "out": tmp_path / "out", "ratio": 0.4, **TINY})
        said = words(write_page(tmp_path / "out"))
        assert "Perplexity" not in said and "perplexity" not in said and "Decode speed" not in said
        assert "last_hidden_state" in said and "cosine to dense" in said

    def test_an_onnx_file(self, tmp_path: Path) -> None:
        """Builds of ONNX files have no blocks, no text and no plan of the whole model."""
        nodes = [
            helper.make_node("MatMul", ["x", "a"], ["h"], "up"),
            helper.make_node("Relu", ["h"], ["r"], "relu"),
            helper.make_node("MatMul", ["r", "b"], ["y"], "down"),
        ]
        weights = [
            graphs.tensor("a", 64, 128, dtype=np.float32),
            graphs.tensor("b", 128, 64, dtype=np.float32),
        ]
        path = graphs.save(tmp_path / "m.onnx", nodes, weights)
        build({"model": path, "ratio": 0.25, "tile": (64, 64), "backend": "onnx", "out": tmp_path / "out"})
        page = write_page(tmp_path / "out")
        assert sections(page) == [name for name in BUILT if name != "said"]
        assert "random inputs" in words(page)
