"""Takes back a mend of what the attack of 2026-11-28 broke, in the calling process: the simulator must find the break."""

from __future__ import annotations

from pathlib import Path

from masklearn.base import durable
from patch_compile.artifacts import folder, place, stage_files
from patch_compile.pipeline import prepare, resumed


def writes_through_links() -> None:
    """Half-written files have a fixed name and are opened through links, which no command refuses."""

    def fixed_name(path: Path, suffix: str = "") -> Path:
        part = path.with_name(f"{path.name}.tmp{suffix}")
        part.write_bytes(b"")
        return part

    durable._new_file = fixed_name
    for module in (stage_files, folder):
        module.check_links = lambda out: None
        module.links_in = lambda out: iter(())


def force_takes_all() -> None:
    """`--force` and `--resume` take away whatever is in OUT."""
    for module in (place, folder):
        module.check_own = lambda out, own, *, done, inside="": None
    prepare.check_apart = lambda out, inputs: None


def keys_lack_the_tokenizer() -> None:
    """A stage counts as unchanged whatever lies next to the weights."""
    resumed.beside_key = lambda source, *, given=False: ""
