"""Where numba keeps machine code, and whose settings it obeys."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_SHOWS = """
from masklearn.solvers.row_loops import choose
from numba.core import config

config.reload_config()  # as numba does when it compiles
print(choose.stats.cache_path, config.CACHE_DIR, config.CHROME_TRACE)
"""


def test_numba_obeys_no_file_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    settings = {"cache_dir": tmp_path / "cache", "chrome_trace": tmp_path / "trace"}
    (tmp_path / ".numba_config.yaml").write_text("".join(f"{k}: {v}\n" for k, v in settings.items()))
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SHOWS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout and str(tmp_path) not in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == [".numba_config.yaml"]


_DOUBLES = """
from masklearn.base.compiled import compiled

@compiled
def double(x):
    return 2 * x

print(double(3), double.stats.cache_path)
"""


def test_no_folder_for_machine_code_is_needed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_DOUBLES)
    env = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "NUMBA_CACHE_LOCATOR_CLASSES": "_UserWideCacheLocator",
        "XDG_CACHE_HOME": str(script / "no-folder"),
    }
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "6 None\n"
