"""numba takes no settings from the current folder: it would unpickle what their cache holds, and overwrite their trace."""

import subprocess
import sys
from pathlib import Path

import pytest

_SHOWS = """
from patch_compile.packing.slabs import pack_panel
from numba.core import config

config.reload_config()  # as numba does when it compiles
print(pack_panel.stats.cache_path, config.CACHE_DIR, config.CHROME_TRACE)
"""


def test_numba_obeys_no_file_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    settings = {"cache_dir": tmp_path / "cache", "chrome_trace": tmp_path / "trace"}
    (tmp_path / ".numba_config.yaml").write_text("".join(f"{k}: {v}\n" for k, v in settings.items()))
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SHOWS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout and str(tmp_path) not in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == [".numba_config.yaml"]
