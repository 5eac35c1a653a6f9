"""`patch-compile verify` on real tiny builds: sound builds pass, and faults are found and named."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from polygraphy.comparator import RunResults
from polygraphy.json import load_json

from masklearn.base.durable import is_temporary
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.models import load_model
from masklearn.quality.perplexity import perplexity
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.report import Kind
from patch_compile.artifacts.verify import EngineNotRun, NotRun, Outcome, Question, VerifyReport
from patch_compile.cache_folder import cache_folder
from patch_compile.cli.app import cli
from patch_compile.errors import NOT_CHECKED
from patch_compile.report.terminal import show
from patch_compile.report.verify import tolerance_words, unanswered_words, verified
from patch_compile.verification import baselines
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.verify import Verification, verify
from tests.builds import TINY, build
from tests.conftest import texts_in, write_model
from tests.inputs import changed
from tests.refusals import refused
from tests.sources.onnx_model import graphs

LENGTHS = {"lengths": "1,7"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One build for all tests that only read it or break a copy."""
    folder = tmp_path_factory.mktemp("built")
    model = write_model(
        folder / "model", hidden_size=128, intermediate_size=192, num_hidden_layers=2, model_type="llama"
    )
    settings = {"model": model, **texts_in(folder), "out": folder / "out", "ratio": 0.4, **TINY}
    return settings | {"report": build(settings)}


@pytest.fixture
def out(built: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the build."""
    return Path(shutil.copytree(built["out"], tmp_path / "copy"))


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the user's cache of baselines out of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def asked(**settings: Any) -> VerifyRequest:
    return VerifyRequest.parse(LENGTHS | settings)


def test_the_calibration_text_is_refused(built: dict[str, Any], out: Path, tmp_path: Path) -> None:
    copy = shutil.copy(built["calib"], tmp_path / "copy.txt")
    for text in (built["calib"], str(copy)):
        with refused():
            verify(out, asked(eval_text=text))
    assert not (out / "verify").exists()


@pytest.mark.quick
def test_each_question_has_its_own_answer(built, out, capsys):
    report = built["report"]
    found = verify(out, asked(fail_on=("ppl:+900%", "top1:1%")))
    assert found.outcome is Outcome.PASSED
    compiled, pruned, where = found.compiled, found.pruned, found.where
    assert compiled.passed and 0 < compiled.error <= compiled.tolerance.share
    names = ["prefill, 1 token", "decode, behind 1 token", "prefill, 7 tokens", "decode, behind 7 tokens"]
    assert [str(run) for run in compiled.runs] == names
    assert found.built == EngineNotRun(reason=NotRun.NO_ENGINE)
    assert Question.BUILT not in found.asked and VerifyReport.of(out) == found

    # The perplexities are transformers', and the build's.
    windows = eval_windows(built)
    for kind, folder in (("dense", built["model"]), ("pruned", out / "model")):
        expected = perplexity(load_model(folder), windows)
        assert getattr(pruned.perplexity, kind) == pytest.approx(expected, rel=1e-4)
    assert pruned.perplexity.pruned == pytest.approx(report["perplexity"]["pruned"], rel=1e-6)
    assert pruned.kl == pytest.approx(report["difference"]["kl"], rel=1e-6)
    assert [check.ask for check in found.checks] == ["ppl:+900%", "top1:1%"]

    assert report["last_words"] is None  # its tokenizer lacks the words

    rows = where.linears
    assert {row.name for row in rows} == {row["name"] for row in report["linears"]}
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    zeroed = {row["name"] for row in report["linears"] if row["zeroed"]}
    assert {row.name for row in rows if row.error > 0} == zeroed
    assert [row.block for row in where.blocks] == [0, 1]
    assert {row.name for row in found.baselines.rows} == {"wanda", "dense"}

    show(verified(found, Path("some")))
    shown = capsys.readouterr().out
    assert "Compiled right? ✓ yes" in shown and "Built right? ○ not checked" in shown and "PASSED" in shown
    assert "answers, inputs and outputs: some/verify" in shown


def eval_windows(settings):
    from masklearn.model.pretrained import load_tokenizer
    from masklearn.text.calibrate import first_windows

    return first_windows(load_tokenizer(settings["model"]), settings["eval_text"], 24, 2)


def test_polygraphy_reads_kept_answers(out):
    verify(out, asked(only="compiled"))
    folder = OutFolder.open(out)  # every file must have the sha256 of the manifest
    assert {"verify/verify.json", "verify/inputs.json"} <= set(folder.manifest.files)
    assert not [path for path in out.iterdir() if is_temporary(path.name)]
    assert sorted(file.name for file in (out / "onnx").glob("*onnx*")) == ["model.onnx", "model.onnx.data"]
    feeds = load_json(str(out / "verify/inputs.json"))
    hybrid, checkpoint = (
        RunResults.load(str(out / f"verify/{name}.json")) for name in ("hybrid", "checkpoint")
    )
    assert len(feeds) == 4 and feeds[2]["input_ids"].shape == (1, 7)
    for run, (mine, theirs) in enumerate(zip(hybrid[0][1], checkpoint[0][1], strict=True)):
        assert mine["logits"].shape == theirs["logits"].shape == (1, (1, 1, 7, 1)[run], 40)
        assert np.abs(mine["logits"] - theirs["logits"]).max() > 0
    again = verify(out, asked(only="pruned"))  # replaces the first result
    assert again.compiled is None and not (out / "verify/inputs.json").exists()
    OutFolder.open(out)


def test_interrupted_verifications_leave_builds_whole(out, monkeypatch):
    found = verify(out, asked(only="pruned"))
    monkeypatch.setattr(Verification, "report", lambda _: found)
    for step in range(1, 50):
        with monkeypatch.context() as cut:
            left = itertools.count(step, -1)
            for owner, name in (
                (Path, "rename"),
                (Path, "replace"),
                (Path, "write_text"),
                (shutil, "rmtree"),
            ):
                cut.setattr(owner, name, interrupted(getattr(owner, name), left))
            try:
                verify(out, asked(only="pruned"))
                break
            except KeyboardInterrupt:
                pass
        OutFolder.open(out)  # every file that the manifest names is as it says
    assert step > 8
    assert {"verify/verify.json", "report.html"} <= set(OutFolder.open(out).manifest.files)


def interrupted(function, left):
    def run(*arguments, **settings):
        if next(left) == 1:
            raise KeyboardInterrupt
        return function(*arguments, **settings)

    return run


def test_wrong_hybrids_name_the_linear(out):
    linear = "model.layers.1.self_attn.o_proj"
    break_packed(out, linear, 3.0)
    found = verify(out, asked())
    assert found.outcome is Outcome.FAILED and not found.compiled.passed
    first = found.compiled.first_difference
    assert first.linear == linear and first.op == "PatchLinear"
    assert first.error > first.tolerance
    assert found.pruned.perplexity.pruned > 1  # the other question is answered too


def break_packed(out: Path, linear: str, value: float) -> None:
    """Overwrite the first eighth of a linear's packed weights and update the manifest."""
    model = onnx.load(str(out / "onnx/model.onnx"), load_external_data=False)
    node = next(node for node in model.graph.node if node.name == linear)
    half = onnx.TensorProto.FLOAT16
    packed = [
        t for t in model.graph.initializer if t.name in node.input and t.data_type == half and t.external_data
    ]
    for tensor in packed:
        place = {entry.key: entry.value for entry in tensor.external_data}
        count = int(place["length"]) // 2
        raw = np.memmap(
            out / "onnx" / place["location"], np.float16, "r+", int(place.get("offset", 0)), (count,)
        )
        raw[: count // 8] = value
        raw.flush()
    folder = OutFolder.open(out, check=False)
    record = folder.manifest.stages["onnx"]
    folder.record("onnx", record.key, list(record.files))


def test_numbers_that_overflow_name_the_first_tensor(out):
    linear = "model.layers.0.mlp.down_proj"
    break_packed(out, linear, np.inf)
    found = verify(out, asked(only="compiled"))
    assert found.compiled.error is None and found.outcome is Outcome.FAILED
    assert found.compiled.first_difference.linear == linear
    assert found.compiled.first_difference.error is None
    json.dumps(found.as_json(), allow_nan=False)


def test_tolerances_are_polygraphys_own(out):
    strict = verify(out, asked(only="compiled", atol=1e-7))
    assert not strict.passed and "--atol 1e-07" in tolerance_words(strict.compiled.tolerance)
    assert strict.compiled.first_difference is None  # only the limit failed
    loose = verify(out, asked(only="compiled", atol=1e-7, rtol=1.0, check_error_stat="median"))
    assert loose.passed


def test_permuted_builds_compare_in_order(settings):
    """Every channel would differ from the dense model on disk, which has another order."""
    build(settings | {"permute": True, "ratio": 0.2})
    found = verify(settings["out"], asked())
    assert found.passed
    errors = {row.name: row.error for row in found.where.linears}
    assert max(errors.values()) < 1.0
    assert errors["model.layers.1.mlp.down_proj"] < 0.7


def test_limits_that_do_not_hold_exit_with_three(out):
    """They outweigh a question without an answer."""
    arguments = [str(out), "--lengths", "1", "--only", "pruned,built", "--fail-on", "kl:1e-9"]
    result = CliRunner().invoke(cli.commands["verify"], [*arguments, "--json"])
    assert result.exit_code == 3
    check = json.loads(result.stdout)["checks"][0]
    assert not check["passed"] and check["value"] > check["limit"]
    result = CliRunner().invoke(
        cli.commands["verify"], [str(out), "--only", "pruned", "--fail-on", "kl:1000"]
    )
    assert result.exit_code == 0
    assert re.search("kl:1000 +holds", result.stdout)


def test_a_question_without_an_answer_is_not_passed(out):
    """The build has no engine, and there is no GPU: nothing was checked."""
    result = CliRunner().invoke(cli.commands["verify"], [str(out), "--only", "built", "--lengths", "1"])
    assert result.exit_code == NOT_CHECKED == 5
    verdict = result.stdout.splitlines()[-2]
    assert verdict.startswith("NOT CHECKED in ") and verdict.endswith(": there is no engine to check")
    assert "PASSED" not in result.stdout
    found = VerifyReport.of(out)
    assert found.outcome is Outcome.NOT_CHECKED and found.unanswered == (Question.BUILT,)
    assert "Not everything was checked: there is no engine to check." in (out / "report.html").read_text()


def test_unrun_engines_do_not_pass(out):
    """Without --only, every question that applies is asked. An engine that this machine cannot run stays unchecked."""
    (out / "engine").mkdir()
    (out / "engine/model.engine").write_bytes(b"engine")
    found = verify(out, asked())
    assert found.compiled.passed and found.built.reason is NotRun.NOT_HERE
    assert found.outcome is Outcome.NOT_CHECKED and found.unanswered == (Question.BUILT,)
    assert unanswered_words(found) == "it is not known whether the engine was built right"
    assert verify(out, asked(only="compiled,pruned,where")).outcome is Outcome.PASSED


@pytest.mark.quick
def test_encoders_are_compared_on_their_outputs(settings, make_model):
    model = make_model("bert", hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    build(settings | {"model": model})
    found = verify(settings["out"], asked(fail_on=("output:2",)))
    assert found.passed and found.compiled.passed
    assert found.pruned.outputs[0].relative > 0.01
    assert found.where.linears and len(found.where.blocks) == 2
    assert not found.built.ran and found.baselines is None
    alone = verify(settings["out"], asked(only="pruned"))
    assert alone.compiled is None and alone.pruned == found.pruned
    with refused():
        verify(settings["out"], asked(fail_on=("ppl:12",)))


def test_builds_from_onnx_files_are_proven_again(tmp_path):
    calib = tmp_path / "inputs.npz"
    np.savez(calib, x=np.random.default_rng(0).standard_normal((5, 2, 6, 64)).astype(np.float32))
    model = graphs.export(graphs.encoder, tmp_path / "encoder.onnx", dynamo=False)
    settings = {"model": model, "calib": str(calib), "ratio": 0.3, "tile": (64, 64)}
    build(settings | {"backend": "onnx", "out": tmp_path / "out"})
    found = verify(tmp_path / "out", asked(fail_on=("output:1",)))
    assert found.passed and found.kind is Kind.ONNX
    assert found.pruned.outputs and found.where is None
    built = verify(tmp_path / "out", asked(only="built"))
    assert built.compiled is None and "hybrid on ONNX Runtime" not in built.seconds


def test_bf16_builds_are_compared_as_they_round(settings):
    build(settings | {"dtype": "bfloat16"})
    found = verify(settings["out"], asked(only="compiled"))
    assert found.passed and found.compiled.error > 1e-4


def test_a_changed_out_is_refused(out):
    (out / "plan.json").write_text("{}")
    with refused():
        verify(out, asked())


def test_what_can_not_be_verified_is_refused(settings, monkeypatch, tmp_path):
    build(settings)
    out = settings["out"]
    with refused():
        verify(tmp_path, asked())
    with refused():
        verify(out, VerifyRequest.parse({}))
    with refused():
        verify(out, asked(eval_windows=1000))
    with refused():
        verify(out, asked(fail_on=("output:1",)))
    with refused():
        asked(only="compiled", fail_on=("ppl:12",))
    with monkeypatch.context() as patched:
        patched.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10_000_000})())
        with refused():
            verify(out, asked(only="pruned", tasks=("arc_easy",)))
    moved = settings["model"].with_name("elsewhere")
    shutil.copytree(settings["model"], moved)
    config = json.loads((settings["model"] / "config.json").read_text())
    (settings["model"] / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    assert Checkpoint.open(moved).fingerprint() != Checkpoint.open(settings["model"]).fingerprint()
    with refused():
        verify(out, asked())


def test_baselines_are_made_once(built, out):
    """They come from the cache, because nothing that decides them has changed."""
    made = verify(out, asked(only="pruned", baselines="unstructured,uniform-2:4"))
    names = [row.name for row in made.baselines.rows]
    assert names == ["wanda", "dense", "uniform-2:4", "unstructured"]
    assert "baselines" in made.seconds
    again = verify(out, asked(only="pruned"))
    assert again.baselines.rows == made.baselines.rows
    assert "baselines" not in again.seconds
    other = verify(out, asked(only="pruned", eval_length=16))  # baselines were measured on other windows
    assert [row.name for row in other.baselines.rows] == ["wanda", "dense"]
    with changed(built["model"] / "tokenizer_config.json"):  # the text may be other tokens now
        other = verify(out, asked(only="pruned"))
    assert [row.name for row in other.baselines.rows] == ["wanda", "dense"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_changing_models_get_no_answer(built, out, monkeypatch, name):
    """A baseline that was learned meanwhile is not kept in the cache either."""
    file, real = built["model"] / name, baselines.run_baselines

    def change_and_run(*arguments):
        with changed(file):
            return real(*arguments)

    monkeypatch.setattr(baselines, "run_baselines", change_and_run)
    with refused():
        verify(out, asked(only="pruned", baselines="uniform-2:4"))
    assert not list(cache_folder("baselines").glob("*.json")) and not (out / "verify").exists()
