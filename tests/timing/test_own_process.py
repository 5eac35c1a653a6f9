"""A runner in a process of its own: its answers, and the errors when it fails or ends."""

import os
from contextlib import closing

import pytest

from patch_compile.artifacts.bench import Phase
from patch_compile.timing.timing import OwnProcess
from tests.refusals import refused


class Sound:
    """A runner whose runs take 2.5 ms."""

    def refuses(self, make):
        return ""

    def prepare(self, make, phase):
        assert make() == {} and phase is Phase.PREFILL

    def run(self):
        return 2.5

    def close(self):
        pass


class Broken:
    """A runner that fails in a way chosen by the phase. It is at module level so that it can be pickled, as `Sound` is."""

    def refuses(self, make):
        return ""

    def prepare(self, make, phase):
        if phase is Phase.DECODE:
            os._exit(77)
        raise ZeroDivisionError("a bug")

    def close(self):
        pass


def test_a_runner_answers_from_another_process():
    with closing(OwnProcess("hybrid", Sound)) as runner:
        assert runner.refuses(dict) == ""
        runner.prepare(dict, Phase.PREFILL)
        assert runner.run() == 2.5
        process = runner._process._process
        assert process.pid != os.getpid()
    assert process.returncode == 0


def test_a_bug_keeps_its_traceback():
    with closing(OwnProcess("dense", Broken)) as runner, pytest.raises(RuntimeError) as caught:
        runner.prepare(dict, Phase.PREFILL)
    assert "in the process of the dense model" in str(caught.value) and "ZeroDivisionError: a bug" in str(
        caught.value
    )


def test_ended_processes_tell_their_exit_code():
    with closing(OwnProcess("dense", Broken)) as runner, refused():
        runner.prepare(dict, Phase.DECODE)
