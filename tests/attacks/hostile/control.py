"""Inputs with nothing wrong: they show that the other cases fail for what is hostile in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.attacks.hostile.case import Case, Sound
from tests.attacks.hostile.models import model_with
from tests.attacks.hostile.outs import BENCH, COMPARE, INSPECT, RUN, VERIFY, WRITES
from tests.attacks.hostile.sound import LEARN

__all__ = ["control_cases"]

_MODEL = (
    "inspect stranger",
    "inspect stranger/model.safetensors",
    "plan stranger --ratio 0.4",
    f"learn stranger -o out {LEARN}",
)
_FILES = (
    "inspect stranger.safetensors",
    "compile SOUND/model --mask stranger.safetensors -o out",
    "inspect stranger.onnx",
    "build stranger.onnx -o out --ratio 0.4 --method magnitude --tile 32x32 --backend onnx --lowering plugin",
    f"learn SOUND/model -o out {LEARN} --calib stranger.txt --method wanda --windows 1 --length 16",
)


def _files(sound: Sound, folder: Path) -> None:
    for source, suffix in (("masks.safetensors", "safetensors"), ("model.onnx", "onnx"), ("text.txt", "txt")):
        sound.copy(source, folder / f"stranger.{suffix}")


def _out(sound: Sound, folder: Path) -> None:
    sound.copy("out", folder / "stranger")


def control_cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield Case(
        "control", "a model", lambda sound, folder: model_with(sound, folder) and None, _MODEL, codes=(0,)
    )
    yield Case("control", "files", _files, _FILES, codes=(0,))
    yield Case("control", "a build", _out, (INSPECT, RUN, COMPARE, VERIFY, BENCH), codes=(0,), writes=WRITES)
