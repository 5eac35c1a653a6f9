"""No command writes through a link. Links are planted at every path that a trace of the command shows it to change."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from patch_compile.artifacts.layout import PARTIAL, STATE
from patch_compile.artifacts.record import write_json
from tests.attacks.faults.runs import Runner, runner
from tests.attacks.faults.scenario import SCENARIOS, Place, snapshot
from tests.attacks.faults.shim import COMPILER

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")

_RANDOM = re.compile("[0-9a-f]{16}")
_BUILD = SCENARIOS["magnitude"].command()
_POINT = "--runner onnx --batch-size 1 --prompt-tokens 8 --iterations 1 --warm-up 1"
_COMMANDS = {
    "build": [*_BUILD, "--force"],
    "resume": [*_BUILD, "--force", "--resume"],
} | {
    words.split()[0]: words.split()
    for words in (
        "verify out --only compiled --lengths 1",
        f"bench out {_POINT} --against dense --keep --force",
        "import-mask out/model --model model -o imported --tile 32x32 --force",
        "compile model --mask out/masks.safetensors -o new --force --dump-passes dump",
    )
}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Runner]]:
    """A folder with a build in OUT, and a runner that traces commands there."""
    folder = tmp_path_factory.mktemp("links")
    place = Place(folder)
    with runner(folder / "runner", folder / "cache") as made:
        made.warm(*_BUILD, folder=place.folder)
        place.keep_earlier()
        yield place, made


@pytest.mark.parametrize("name", _COMMANDS)
def test_no_command_writes_through_a_link(traced: tuple[Place, Runner], name: str, tmp_path: Path) -> None:
    place, run = traced
    paths = _changed(place, run, _COMMANDS[name])
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("precious")
    precious = snapshot(tmp_path)
    for path, is_folder in paths.items():
        for link in (os.symlink,) if is_folder else (os.symlink, os.link):
            _reset(place)
            _clear(place, path)
            link(tmp_path / ("folder" if is_folder else "file"), path)
            run.run(*_COMMANDS[name], folder=place.folder)
            assert snapshot(tmp_path) == precious, f"{link.__name__} at {path}"


def _changed(place: Place, run: Runner, command: list[str]) -> dict[Path, bool]:
    """Returns the paths that a command changes or makes, and True for folders. Random names can't be planted."""
    _reset(place)
    before = snapshot(place.folder)
    done = run.run(*command, folder=place.folder)
    assert done.code == 0, done.stderr
    after = snapshot(place.folder)
    paths = {Path(one.path): one.name == "mkdir" for one in done.operations if one.kind in "cg"}
    paths |= {
        place.folder / name: kind == "folder" for name, kind in after.items() if before.get(name) != kind
    }
    found = {
        path: is_folder
        for path, is_folder in paths.items()
        # A folder that the user names may be a link.
        if place.folder in path.parents
        and not (_RANDOM.search(str(path)) or (is_folder and path.name in command))
    }
    assert found
    return found


def _reset(place: Place) -> None:
    place.reset()
    shutil.copytree(place.out, place.folder / "second")


def _clear(place: Place, path: Path) -> None:
    """Make room for a link. Folders on the way are made, and an unfinished build gets its mark."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    top = place.folder / path.relative_to(place.folder).parts[0]
    if top.name.endswith(PARTIAL) and top in path.parents and path.name != STATE:
        write_json(top / STATE, {"made_by": "patch-compile", "stages": {}})
