"""The map of rooms, docs/explanation/architecture.md, names every room that the contracts of import-linter name."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/explanation/architecture.md").read_text()
LAYERS = [
    contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    if contract["type"] == "layers"
]


@pytest.mark.parametrize("contract", LAYERS, ids=[contract["containers"][0] for contract in LAYERS])
def test_the_map_names_every_room(contract: dict[str, list[str]]) -> None:
    (package,) = contract["containers"]
    part = PAGE.split(f"## Rooms of {package}\n")[1].split("\n## ")[0]
    named = {
        name
        for row in re.findall(r"^\| (.*?) \|", part, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    rooms = {room.strip() for layer in contract["layers"] for room in layer.split(":")}
    assert rooms and rooms <= named, rooms - named
