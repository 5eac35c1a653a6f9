"""Runs `patch-compile` and sends it a signal after a call of one of its functions.

run_killed.py SIGNAL FUNCTION:CALL ARGUMENT…, for example SIGKILL masklearn.stream.feed.write_linear:5
"""

import importlib
import os
import signal
import sys
from typing import Any

from patch_compile.cli.app import main

if __name__ == "__main__":
    # SIGINT is ignored where a shell started the tests in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sent = signal.Signals[sys.argv.pop(1)]
    function, _, call = sys.argv.pop(1).rpartition(":")
    place, _, name = function.rpartition(".")
    try:
        owner = importlib.import_module(place)
    except ModuleNotFoundError:  # a method of a class
        module, _, class_name = place.rpartition(".")
        owner = getattr(importlib.import_module(module), class_name)
    real, left = getattr(owner, name), int(call)

    def counted(*arguments: Any, **settings: Any) -> Any:
        global left
        result = real(*arguments, **settings)
        left -= 1
        if not left:
            os.kill(os.getpid(), sent)
        return result

    setattr(owner, name, counted)
    main()
