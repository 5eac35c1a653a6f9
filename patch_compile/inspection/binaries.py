"""Inspects engines, without a driver if that is possible, and plugin libraries."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from patch_compile.engine.plan_program import (
    ANY_TARGET,
    PLUGIN,
    PlanLayer,
    PlanProgram,
    PlanTensor,
    inspect_engine,
    read_programs,
)
from patch_compile.errors import PatchCompileError
from patch_compile.inspection import Inspection
from patch_compile.packing.function import tensor_names
from patch_compile.packing.slab_kinds import ALWAYS
from patch_compile.plugin.identity import PluginIdentity, identity_in, read_identity
from patch_compile.plugin.kernels import spell_kernels
from patch_compile.plugin.prebuilt import LIBRARY_NAME

_LEAST = len(tensor_names(ALWAYS))  # packed tensors that every PatchLinear has


def inspect_plugin(path: Path) -> Inspection:
    """Inspect a plugin library by its identity string, without loading it.

    Raises PatchCompileError for any other library.
    """
    identity = read_identity(path)
    return Inspection(path, "plugin", _identity(identity) | {"bytes": path.stat().st_size})


def inspect_engine_file(path: Path) -> Inspection:
    """Inspect an engine.

    An engine of TensorRT-RTX is read from its program text. An engine of TensorRT is read by TensorRT's engine inspector,
    on the GPU that it was built for; the only code that runs is a plugin that was compiled here. Raises PatchCompileError
    for a file that is neither, and for an engine of TensorRT that this machine can't open or that needs other code.
    """
    embedded = identity_in(path)
    programs = read_programs(path) if path.stat().st_size else ()
    backend = "tensorrt-rtx" if programs else "tensorrt"
    if not programs:
        programs = _by_inspector(path)
    targets = {target for program in programs for target in program.targets}
    rows = _patch_rows(programs)
    profiles = 1 + max((layer.profile for program in programs for layer in program.layers), default=0)
    facts = {
        "backend": backend,
        "targets": sorted(targets - {ANY_TARGET}) or sorted(targets),
        "profiles": profiles,
        "programs": len(programs),
        "PatchLinear": len(rows),
        "packed bytes": sum(row["packed bytes"] or 0 for row in rows),
        "bytes": path.stat().st_size,
        "plugin inside": _identity(embedded) if embedded else None,
        "plugin beside": _beside(path),
    }
    faults = []
    if rows and not embedded and facts["plugin beside"] is None:
        faults.append(
            f"its PatchLinear layers need a plugin: none is inside, and no {LIBRARY_NAME} beside it"
        )
    missing = [row["layer"] for row in rows if row["profiles"] != profiles]
    faults += [f"{name} is not in every profile" for name in missing]
    checked = "every PatchLinear is a layer of the plugin in each profile, and a plugin is there"
    return Inspection(path, "engine", facts, rows, checked if rows else "", faults)


def _patch_rows(programs: tuple[PlanProgram, ...]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    profiles: dict[str, set[int]] = {}
    for program in programs:
        for layer in program.layers:
            if layer.kind != PLUGIN:
                continue
            profiles.setdefault(layer.name, set()).add(layer.profile)
            row = rows.setdefault(layer.name, {"layer": layer.name, "packed bytes": None, "profiles": 0})
            row["packed bytes"] = row["packed bytes"] or _packed_bytes(layer, program)
    for name, row in rows.items():
        row["profiles"] = len(profiles[name])
    return sorted(rows.values(), key=lambda row: str(row["layer"]))


def _packed_bytes(layer: PlanLayer, program: PlanProgram) -> int | None:
    """Returns the bytes of the packed tensors of a PatchLinear, or None if the program does not tell their sizes.

    They are the constants after X, except for a bias. An engine may rename any of them, so names do not tell them.
    """
    tensors = [program.tensors.get(name) for name in layer.inputs[1:]]
    packed = [tensor.nbytes for tensor in tensors if tensor is not None and not _is_bias(tensor)]
    known = [size for size in packed if size is not None]
    return sum(known) if len(known) >= _LEAST else None


def _is_bias(tensor: PlanTensor) -> bool:
    """True for a vector of 16-bit numbers. Slabs have two axes, and scales are fp32."""
    return len(tensor.dims) == 1 and tensor.dtype in ("float16", "bfloat16")


def _by_inspector(path: Path) -> tuple[PlanProgram, ...]:
    """Read an engine by TensorRT's engine inspector. Raises PatchCompileError without TensorRT."""
    from patch_compile.engine.backend import load_backend
    from patch_compile.engine.plugin_library import load_plugin
    from patch_compile.hardware.cards import local_architecture
    from patch_compile.runtime.engine_fit import engine_facts, host_code

    try:
        backend = load_backend("tensorrt")
    except PatchCompileError as error:
        raise PatchCompileError(
            f"{path} is not an engine of TensorRT-RTX",
            f"{error.why} Nothing else can be told without the library that made it.",
            "Inspect an engine of TensorRT on the machine that built it.",
        ) from None
    target = local_architecture()
    code = host_code(engine_facts(path))
    if code.plugin is not None:
        load_plugin(backend, code.plugin)
    return inspect_engine(backend, path, (target.name,) if target else (), host_code=code.carried)


def _beside(path: Path) -> dict[str, Any] | None:
    library = path.parent / LIBRARY_NAME
    return _identity(read_identity(library)) if library.is_file() else None


def _identity(identity: PluginIdentity) -> dict[str, Any]:
    fields = asdict(identity)
    archs = [f"sm{arch}" for arch in identity.archs]
    return fields | {"archs": archs, "kernels": spell_kernels(identity.kernels)}
