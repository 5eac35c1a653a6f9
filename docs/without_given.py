"""Extension of griffe for the page of the Python API: functions as callers see them."""

from typing import Any

import griffe


class WithoutGiven(griffe.Extension):
    """Takes away the parameter `given`, which `takes_given` fills in (patch_compile/api/given.py)."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Leave the other parameters of a function."""
        func.parameters = griffe.Parameters(*(one for one in func.parameters if one.name != "given"))
