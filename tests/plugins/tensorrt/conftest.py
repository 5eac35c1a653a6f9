import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """RTX's parser loads `libtensorrt_rtx.so`, but the wheel has only its versioned name."""
    import tensorrt_rtx_libs

    folder = tmp_path_factory.mktemp("soname")
    wheel = Path(tensorrt_rtx_libs.__file__).parent
    (folder / "libtensorrt_rtx.so").symlink_to(wheel / "libtensorrt_rtx.so.1")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    return os.environ | {"OMP_NUM_THREADS": "1", "LD_LIBRARY_PATH": path}


@pytest.fixture
def session(environment):
    """Runs a command of rtx_session.py with a library; a process that fails fails the test with its log."""

    def run(command, argument, library):
        module = "tests.plugins.tensorrt.rtx_session"
        arguments = [sys.executable, "-m", module, command, argument, str(library)]
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
