"""Every folder of tests is collected: pytest passes over folders by their names, such as `build`, and says nothing."""

from fnmatch import fnmatch
from pathlib import Path

import pytest


def test_no_folder_with_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    here = Path(__file__).parent
    passed_over = pytestconfig.getini("norecursedirs")
    folders = {part for file in here.rglob("test_*.py") for part in file.relative_to(here).parts[:-1]}
    assert "build" in folders  # which pytest's own list names
    assert not {folder for folder in folders for pattern in passed_over if fnmatch(folder, pattern)}
