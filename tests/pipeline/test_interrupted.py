"""Learning that is killed at a block's end and inside a block: it resumes there, and ends in the same bytes."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run_here
from tests.forks import Forks
from tests.refusals import refusal

_SCRIPT = Path(__file__).with_name("run_killed.py")
_END_OF_BLOCK = "masklearn.stream.hidden_states.PassCheckpoints.finish"
_WEIGHT = "masklearn.stream.feed.write_linear"
_GRADIENT = "masklearn.stream.backward.BackwardBlock.backward"
_NORMS = "masklearn.stream.feed.squared_input_norms"

# The signal, where a run gets it, and what the next run says. The model has 3 blocks of 7 linears, the text 4 windows.
# Passes of `oneshot`: scores forward (3 blocks), sensitivity back (head and 3 blocks), solving (3 blocks).
CUTS = {
    "oneshot": [
        ("SIGINT", f"{_END_OF_BLOCK}:2", "scoring resumes at block 3 of 3"),
        ("SIGKILL", f"{_GRADIENT}:10", "sensitivity of the loss resumes at block 3 of 4"),
        ("SIGINT", f"{_WEIGHT}:10", "solving resumes at block 2 of 3"),
        ("SIGKILL", f"{_END_OF_BLOCK}:1", "solving resumes at block 3 of 3"),
    ],
    "wanda": [
        ("SIGKILL", f"{_NORMS}:2", "scoring resumes at block 2 of 3"),
        ("SIGKILL", f"{_END_OF_BLOCK}:1", "scoring resumes at block 3 of 3"),
    ],
}


def files_of(out: Path) -> dict[str, bytes]:
    found = {f"model/{file.name}": file.read_bytes() for file in (out / "model").iterdir() if file.is_file()}
    return {"masks": (out / "masks.safetensors").read_bytes(), **found}


@pytest.mark.parametrize("method", CUTS)
def test_learning_that_is_killed_resumes_at_its_block(
    settings: dict[str, Any], make_model: Any, tmp_path: Path, method: str
) -> None:
    model = make_model(hidden_size=64, intermediate_size=96, num_hidden_layers=3)
    learn = ["learn", model, "--method", method, "--repair", "none", "--tile", "32x32", "--ratio", "0.4"]
    learn += ["--no-permute", "--windows", "4", "--length", "16", "--calib", settings["calib"]]
    whole = run_here(*learn, "-o", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert "resumes" not in whole.stderr
    cut, stderr, said = tmp_path / "cut", tmp_path / "stderr.txt", None
    for sent, place, line in CUTS[method]:
        resume = [] if said is None else ["--resume"]
        (code,) = Forks(_SCRIPT, sent, place, *learn, "-o", cut, *resume, errors=stderr).wait()
        heard = stderr.read_text()
        assert code == (130 if sent == "SIGINT" else -signal.SIGKILL), heard
        assert ("--resume continues from there" in heard) == (sent == "SIGINT")
        assert said is None or said in heard
        said = line
    refusal(run_here(*learn, "-o", cut))
    last = run_here(*learn, "-o", cut, "--resume")
    assert last.returncode == 0, last.stderr
    assert said is not None and said in last.stderr
    assert files_of(cut) == files_of(tmp_path / "whole")
    assert not cut.with_name("cut.partial").exists()
