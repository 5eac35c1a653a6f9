"""Every hostile input is refused in words or harmless. They run in a process without threads, which forks for each."""

import re
import subprocess
import sys


def test_hostile_inputs_are_refused_or_harmless() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.attacks", "hostile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\| full \| 1\d\d \| 1\d\d \| 0 \|", done.stdout), done.stdout
