"""The text of the page, read from its source; test_browser.py tests its looks and behaviour."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from masklearn.base.durable import is_temporary
from masklearn.masks.record import RepairRecord
from patch_compile.artifacts.bench import Library, Phase
from patch_compile.artifacts.verify import Outcome
from patch_compile.artifacts.verify_schema import EngineNotRun, NotRun
from patch_compile.errors import PatchCompileError
from patch_compile.report.page import write_page
from tests.artifacts.benched import benched
from tests.builds import TINY, build
from tests.report.page.found import baselines, compiled, verified
from tests.report.page.outs import Out, llama_shapes
from tests.sources.onnx_model import graphs

SMALL = llama_shapes(2, 256, 128, 384)


def words(path: Path) -> str:
    """Visible text, without tags and scripts, with blanks folded."""
    source = re.sub(r"<(style|script|svg).*?</\1>", " ", path.read_text(), flags=re.S)
    text = re.sub(r"<[^>]+>", " ", source)
    return re.sub(r"\s+", " ", text)


def sections(path: Path) -> list[str]:
    return re.findall(r'<section id="(\w+)"', path.read_text())


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out(tmp_path / "out", SMALL)


class TestVerdict:
    def test_of_a_build_alone(self, out: Out) -> None:
        said = words(write_page(out.write()))
        assert "of the weights in its 14 covered linears are zeroed" in said
        assert "Perplexity rises from 15.68 to 22.19 (+42%)" in said
        assert (
            "It is predicted, not measured, to run 1.11× as fast as the dense model end to end on RTX 3090"
            in said
        )
        assert "no plan there can pass 1.54×" in said
        assert f"patch-compile verify {out.path}" in said
        assert f"patch-compile bench {out.path}" in said

    def test_a_plan_that_is_slower_is_named(self, out: Out) -> None:
        out.report["plan"]["whole"]["end_to_end"] |= {"speedup": 0.93}
        said = words(write_page(out.write()))
        assert "slower than the dense model, at 0.93× its speed, end to end" in said
        assert (
            "Caution The plan is predicted slower than the dense model in prefill and end to end on RTX 3090."
            in said
        )

    def test_what_verify_and_bench_found(self, out: Out) -> None:
        said = words(write_page(out.write(verified(out), benched())))
        assert (
            "Measured on NVIDIA GeForce RTX 3090 with TensorRT: 0.86× in prefill (limit 1.67×) with batch 16"
            in said
        )
        assert "The check ppl:+5% failed: perplexity is 22.19, at most 16.46 is asked" in said
        assert "top1:60%" not in said  # this limit passed
        assert "worse than FFN-only 2:4" in said
        assert "patch-compile verify" not in said

    def test_an_engine_that_is_run_as_a_whole(self, out: Out) -> None:
        """The engine of an ONNX file has neither prompts nor decode steps, and no prediction."""
        out.report["plan"] |= {"whole": None, "card": None, "workload": None, "unpredicted": "no-checkpoint"}
        for row in out.report["linears"]:
            row["predicted"] = None
        whole = {"phase": Phase.WHOLE, "tokens": None, "limit": None, "predicted": None}
        timed = benched().model_copy(update={"rows": (benched().rows[0].model_copy(update=whole),)})
        said = words(write_page(out.write(None, timed)))
        assert "with TensorRT: 0.86× for a whole run with batch 16 against the dense engine." in said
        assert "Measured slower than the dense engine for a whole run with batch 16: 0.86×." in said
        assert "measured, batch 16" in said and "neither predicted nor measured" not in said

    def test_times_of_a_cpu_are_not_taken_for_those_of_a_gpu(self, out: Out) -> None:
        said = words(write_page(out.write(verified(out), benched(Library.ONNX_RUNTIME))))
        assert "predicted, not measured" in said
        assert (
            "ONNX files in ONNX Runtime 1.23.2 on the CPU (x86-64, 2 cores). It says nothing about a GPU"
            in said
        )

    def test_faults_come_first(self, out: Out) -> None:
        found = verified(out)
        wrong = compiled().model_copy(update={"passed": False, "error": None})
        page = write_page(out.write(found.model_copy(update={"compiled": wrong})))
        assert "The hybrid ONNX differs from the pruned checkpoint" in words(page)
        assert "not finite, allowed 0.0118" in words(page)
        levels = re.findall(r'<li class="(fault|caution|next)">', page.read_text())
        assert levels == sorted(levels, key=["fault", "caution", "next"].index)

    def test_what_was_not_checked_is_said(self, out: Out) -> None:
        found = verified(out).model_copy(update={"outcome": Outcome.NOT_CHECKED, "checks": ()})
        said = words(write_page(out.write(found)))
        assert "Not everything was checked: it is not known whether the engine was built right" in said

    def test_a_verification_of_another_version_is_not_shown_and_said(self, out: Out) -> None:
        path = out.write(verified(out))
        file = path / "verify/verify.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 1}))
        said = words(write_page(path))
        assert "verify.json is not a verification that this patch-compile reads" in said
        assert "It has version 1" in said
        assert "nothing is verified yet" in said and f"patch-compile verify {path}" in said
        assert "worse than FFN-only" not in said

    def test_nothing_predicted(self, out: Out) -> None:
        out.report["plan"] |= {
            "whole": None,
            "card": None,
            "workload": None,
            "unpredicted": "no-card",
        }
        for row in out.report["linears"]:
            row["predicted"] = None
        said = words(write_page(out.write()))
        assert "No speed is predicted, and none was measured" in said
        assert "Decode speed ≤ 1." in said
        assert "prefill, µs" not in said


class TestSections:
    def test_in_the_order_a_buyer_asks(self, out: Out) -> None:
        assert sections(write_page(out.write(verified(out), benched()))) == [
            "verdict", "questions", "frontier", "baselines", "speed", "maps", "scores", "error", "plan", "said", "origin",
        ]  # fmt: skip

    def test_none_is_empty(self, out: Out) -> None:
        """verify was not asked for some parts, and the masks have no scores."""
        out.record.scores = None
        parts = ("where", "baselines", "tasks", "text", "pruned", "compiled", "built")
        nothing = dict.fromkeys(parts) | {"generated": (), "checks": ()}
        page = write_page(out.write(verified(out).model_copy(update=nothing)))
        assert sections(page) == [
            "verdict",
            "questions",
            "frontier",
            "speed",
            "maps",
            "plan",
            "said",
            "origin",
        ]
        assert "The capital of France is" in words(page)

    def test_the_three_questions(self, out: Out) -> None:
        said = words(write_page(out.write(verified(out))))
        for part in (
            "Compiled right? ✓ yes", "Pruned how much? +42% perplexity", "Built right? ○ not checked",
            "allowed 0.0118", "n = 65 roundings", "an engine for sm86 runs on such a GPU alone",
        ):  # fmt: skip
            assert part in said

    def test_records_are_told_in_words(self, out: Out) -> None:
        """No dictionary of a record, no key, and no unit of a method reaches the reader."""
        out.record.repair = RepairRecord(
            method="distill", steps=120, tokens=61440, kl_first=0.9, kl_last=0.31, learning_rate=1e-4
        )
        said = words(write_page(out.write(verified(out))))
        assert "asked for 40% of the weights zeroed, of all linears together" in said
        assert "120 steps on 61,440 tokens; KL to the dense model 0.9 before, 0.31 after" in said
        source = (out.path / "report.html").read_text()
        assert "estimated harm to the model’s predictions, for each weight that is zeroed" in source
        for raw in ("to second order", "kl_first", "kl first", "learning_rate", "{&#39;", "per layer no"):
            assert raw not in source

    def test_how_it_was_made(self, out: Out) -> None:
        page = write_page(out.write(verified(out)))
        source = page.read_text()
        assert "lowering: plugin" in source
        assert out.report["model"]["sha256"] in source
        assert all(
            digest in source
            for digest in json.loads((out.path / "manifest.json").read_text())["files"].values()
        )
        assert "calib.txt, 32 windows of 512 tokens, 262,144 tokens in all, sha256 9f9f9f9f9f9f" in words(
            page
        )

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
    found = found.model_copy(update=hostile)
    source = write_page(out.write(found)).read_text()
    assert source.count("<script>") == source.count("</script>") == 1
    assert "<img" not in source
    assert source.count("alert(1)") > 10


def test_nothing_is_fetched(out: Out) -> None:
    source = write_page(out.write(verified(out), benched())).read_text()
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!data:|#)', source)
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttp|https?://(?!www\.w3\.org/2000/svg)", source)
    assert "Content-Security-Policy" in source and "default-src 'none'" in source


def test_a_folder_that_is_no_build(tmp_path: Path, out: Out) -> None:
    with pytest.raises(PatchCompileError, match="is no build"):
        write_page(tmp_path)
    (out.write() / "report.json").unlink()
    with pytest.raises(PatchCompileError, match=r"holds no report\.json"):
        write_page(out.path)


class TestRealBuilds:
    def test_a_decoder(self, settings: dict[str, Any]) -> None:
        report = build(settings)
        page = write_page(settings["out"])
        said = words(page)
        assert (
            f"Perplexity {'rises' if report['perplexity']['hybrid'] >= report['perplexity']['dense'] else 'falls'}"
            in said
        )
        assert sections(page) == [
            "verdict",
            "questions",
            "frontier",
            "speed",
            "maps",
            "scores",
            "plan",
            "said",
            "origin",
        ]
        assert said.count("self_attn.q_proj") == 2  # the plan has a row per block
        assert "text.txt" in said and "no engine was built" in said

    def test_an_encoder(self, make_model: Any, text_file: Path, tmp_path: Path) -> None:
        model = make_model("bert", hidden_size=128, intermediate_size=192, num_hidden_layers=2)
        build({"model": model, "calib": str(text_file), "out": tmp_path / "out", "ratio": 0.4, **TINY})
        page = write_page(tmp_path / "out")
        said = words(page)
        assert "Perplexity" not in said and "perplexity" not in said
        assert "last_hidden_state" in said and "output error" in said
        assert "How much lost?" in said and "The output that moves most is" in said
        assert "Relative error of an output (lower is better) over the size" in said
        assert "Decode speed" not in said  # an encoder has no decode steps

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
        said = words(page)
        assert sections(page) == ["verdict", "questions", "frontier", "speed", "maps", "plan", "origin"]
        assert "No speed is predicted, and none was measured" in said
        assert "random inputs" in said
