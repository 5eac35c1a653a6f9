import errno
import logging
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from patch_compile.cli import app
from patch_compile.progress import Progress
from tests.commands import run

# fmt: on


def test_plugin_says_what_is_missing_before_it_fails(tmp_path):
    import os

    env = os.environ | {"CUDACXX": str(tmp_path / "nvcc"), "XDG_CACHE_HOME": str(tmp_path)}
    done = run("plugin", "--backend", "tensorrt-rtx", env=env)
    assert done.returncode == 1
    assert "nvcc: missing. CUDACXX is" in done.stderr
    assert "TensorRT headers: " in done.stderr
    assert "error: nvcc is not found" in done.stderr
    assert "Traceback" not in done.stderr


def broken(monkeypatch, error, *options):
    """The output of a command whose work raises `error`."""
    monkeypatch.setattr("patch_compile.inspection.doctor.examine", Mock(side_effect=error))
    monkeypatch.setattr(sys, "argv", ["patch-compile", *options, "doctor"])
    with pytest.raises(SystemExit) as end:
        app.main()
    return end.value.code


def test_internal_errors_have_their_exit_code(monkeypatch, capsys):
    assert broken(monkeypatch, ZeroDivisionError("division by zero")) == 70
    said = capsys.readouterr().err
    assert said.startswith("error: Internal error: ZeroDivisionError: division by zero\n")
    assert "fault of patch-compile" in said and "`patch-compile --debug doctor`" in said
    assert "Traceback" not in said
    assert broken(monkeypatch, RecursionError("too deep"), "--debug") == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_settings_are_named_as_options(monkeypatch, capsys):
    def fail(**_):
        raise app.PatchCompileError(
            "No `calib`",
            "`eval_text` and `bytes_per_weight` say nothing of `README`.",
            "Give `repair_steps`.",
        )

    def note(**_):
        Progress().note("give a longer `calib`")
        error = app.PatchCompileError("No `windows`")
        error.add_note("baseline: `repair_steps`")
        raise error

    monkeypatch.setattr(app.cli, "main", fail)
    with pytest.raises(SystemExit):
        app.main()
    said = capsys.readouterr().err
    assert "No --calib" in said and "--eval and --bytes say nothing of `README`." in said
    assert "Give --repair-steps." in said
    monkeypatch.setattr(app.cli, "main", note)
    with pytest.raises(SystemExit):
        app.main()
    said = capsys.readouterr().err
    assert "give a longer --calib\n" in said and "  baseline: --repair-steps\n" in said


def test_system_errors_are_told_in_words(monkeypatch, capsys):
    assert broken(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "out/plan.json")) == 1
    said = capsys.readouterr().err
    assert "error: The operating system refuses out/plan.json\n  why: No space left on device." in said
    assert "--resume" in said
    assert broken(monkeypatch, MemoryError()) == 1
    assert "not enough memory" in capsys.readouterr().err


def test_library_logs_cannot_control_the_terminal(monkeypatch, capsys):
    logger = logging.getLogger("a library with a handler of its own")
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(sys.stderr)])
    broken(monkeypatch, ValueError("x"))  # it runs main, which sets up the logs
    logger.warning("%s is unknown", "\x1b[31m\x07")
    assert r"\x1b[31m\x07 is unknown" in capsys.readouterr().err


def test_a_missing_package_is_named():
    code = (
        "import sys; sys.modules['rich'] = None; from patch_compile.cli.app import main; "
        "sys.argv = ['patch-compile', 'plan', 'samples/configs/llama-2-7b', '--ratio', '0.4']; main()"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, text=True, capture_output=True)
    assert done.returncode == 1 and "error: The package rich is not installed" in done.stderr
    assert "-m pip install patch-compile`" in done.stderr
