"""The command `verify`: answers independent questions about a finished build, and finds where quality went."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from patch_compile.artifacts.folder import OutFolder, kept_for_writing
from patch_compile.artifacts.layout import MASKS, MODEL, ONNX, REPORT, SCRATCH, VERIFY_FOLDER, VERIFY_NAME
from patch_compile.artifacts.manifest import package_versions
from patch_compile.artifacts.verify import Outcome, VerifyReport
from patch_compile.artifacts.verify_schema import EngineCompared
from patch_compile.artifacts.workspace import key_of
from patch_compile.errors import PatchCompileError
from patch_compile.progress import Progress, quiet_libraries
from patch_compile.recipe import Recipe
from patch_compile.sources.open import open_source
from patch_compile.verification.answers import Verification
from patch_compile.verification.request import VerifyRequest

__all__ = ["verify"]


def verify(path: Path, request: VerifyRequest) -> VerifyReport:
    """Answer the request about OUT, write OUT/verify, and return its verify.json.

    Raises PatchCompileError if a file of OUT was changed, the dense model is missing, the text is too short, the model
    does not fit into memory for a question, or another process writes into OUT. A failed check is no error: it is the
    `outcome`.
    """
    with kept_for_writing(path):
        return _verify(path, request)


def _verify(path: Path, request: VerifyRequest) -> VerifyReport:
    progress = Progress()
    with progress.stage("manifest"):
        out = OutFolder.open(path)
    _check_whole(out)
    recipe = _recipe(out, request)
    source = open_source(recipe)
    quiet_libraries([getattr(recipe, name) for name in source.texts])
    with out.replacing(VERIFY_FOLDER) as folder:
        (folder / SCRATCH).mkdir()
        found = _result(request, Verification(out, source, request, folder, progress), progress)
        found.write(folder / VERIFY_NAME)
        shutil.rmtree(folder / SCRATCH)
    _record(out, request)
    return found


def _check_whole(out: OutFolder) -> None:
    """Refuse the output of `learn` and `compile`, which is less than a build."""
    for name in (REPORT, ONNX, MODEL):
        if not (out.path / name).exists():
            raise PatchCompileError(
                f"{out.path} is no whole build",
                f"It holds no {name}.",
                f"Build it: `patch-compile build MODEL_DIR --mask {out.path / MASKS}`.",
            )


def _recipe(out: OutFolder, request: VerifyRequest) -> Recipe:
    """Returns the settings of the build, with the text of the request."""
    given = request.model_dump(include={"eval_text", "eval_windows", "eval_length"}, exclude_none=True)
    return Recipe.parse(Recipe.of_build(out.path).model_dump(exclude_none=True) | given)


def _result(request: VerifyRequest, verification: Verification, progress: Progress) -> VerifyReport:
    answers = verification.answers()
    checks = tuple(limit.check(answers.pruned) for limit in request.fail_on if answers.pruned)
    found = VerifyReport(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=package_versions(),
        kind=verification.source.kind,
        asked=verification.asked,
        outcome=Outcome.NOT_CHECKED,
        **vars(answers),
        checks=checks,
        notes=tuple(progress.notes),
        seconds=progress.seconds,
    )
    return found.model_copy(update={"outcome": _outcome(found)})


def _outcome(found: VerifyReport) -> Outcome:
    engine = found.built if isinstance(found.built, EngineCompared) else None
    judged = [one for one in (found.compiled, engine, *found.checks) if one is not None]
    if not all(one.passed for one in judged):
        return Outcome.FAILED
    return Outcome.NOT_CHECKED if found.unanswered else Outcome.PASSED


def _record(out: OutFolder, request: VerifyRequest) -> None:
    """Add the files to the manifest, and update the page, which shows the answers."""
    from patch_compile.report.page import renew_page

    out.record_folder(VERIFY_FOLDER, key_of(request.model_dump(mode="json")))
    renew_page(out.path)
