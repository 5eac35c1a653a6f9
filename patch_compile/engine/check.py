"""Checks a built engine against its ONNX file.

The engine must contain every PatchLinear with its bytes and type, and no 2:4 part of a split may be merged with a dense
GEMM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from patch_compile.engine.expectation import PlanExpectation
from patch_compile.engine.plan_program import ANY_TARGET, PLUGIN, PlanLayer, PlanProgram
from patch_compile.errors import PatchCompileError

_DENSE, _SPARSE, _META = 1, 2, 3  # inputs of PatchLinear; X is input 0
_SHOWN = 5


class PlanMismatchError(PatchCompileError):
    """The engine differs from its ONNX file. The build deletes it."""

    def __init__(self, problems: list[str]) -> None:
        shown = "; ".join(problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        super().__init__(
            "The engine differs from the plan",
            f"Its check found: {shown}{more}.",
            "Please report this with the ONNX file.",
        )


def check_programs(
    programs: tuple[PlanProgram, ...],
    expected: PlanExpectation,
    *,
    profiles: int = 1,
    targets: Iterable[str] = (),
) -> None:
    """Raise PlanMismatchError if the programs of an engine do not run the nodes of its ONNX file.

    Each of the `profiles` must run every PatchLinear once, as a plugin of the node's name, with packed tensors of the
    expected bytes and type. No other layer may contain a PatchLinear. Each profile must run every 2:4 part of a split,
    in a layer without a dense GEMM. Each program must be for all `targets`.
    """
    problems = [
        *_wrong_targets(programs, tuple(targets)),
        *_wrong_counts(programs, expected, profiles),
        *_lost_parts(programs, expected, profiles),
        *(problem for program in programs for problem in _wrong_layers(program, expected)),
    ]
    if problems:
        raise PlanMismatchError(problems)


def _wrong_targets(programs: tuple[PlanProgram, ...], targets: tuple[str, ...]) -> Iterator[str]:
    if not programs:
        yield "its program can't be read"
    for program in programs:
        missing = [target for target in targets if not {target, ANY_TARGET} & {*program.targets}]
        if missing:
            yield f"it is for {', '.join(program.targets) or 'no GPU'}, not for {', '.join(missing)}"


def _wrong_counts(
    programs: tuple[PlanProgram, ...], expected: PlanExpectation, profiles: int
) -> Iterator[str]:
    plugins = [layer for program in programs for layer in program.layers if layer.kind == PLUGIN]
    runs = Counter((layer.name, layer.profile) for layer in plugins)
    wanted = {(name, profile) for name in expected.patch_linears for profile in range(profiles)}
    for name, profile in sorted(wanted | runs.keys()):
        count = runs[name, profile]
        if (name, profile) not in wanted:
            yield f"profile {profile} runs a plugin {name!r} that the ONNX file does not have"
        elif count != 1:
            yield f"profile {profile} runs the PatchLinear {name!r} {count} times"


def _lost_parts(programs: tuple[PlanProgram, ...], expected: PlanExpectation, profiles: int) -> Iterator[str]:
    runs = {
        (node, layer.profile) for program in programs for layer in program.layers for node in _nodes(layer)
    }
    for name in sorted(expected.sparse_parts):
        for profile in range(profiles):
            if (name, profile) not in runs:
                yield f"profile {profile} runs no GEMM {name!r}, the 2:4 part of a split"


def _nodes(layer: PlanLayer) -> set[str]:
    """Returns the ONNX nodes of a layer, from its metadata and from its name (`a+b` for merged nodes)."""
    return {*layer.onnx_nodes, *layer.name.split("+")}


def _wrong_layers(program: PlanProgram, expected: PlanExpectation) -> Iterator[str]:
    for layer in program.layers:
        if layer.kind != PLUGIN:
            yield from _swallowed(layer, expected)
        elif layer.name in expected.patch_linears:
            yield from _wrong_constants(layer, program, expected)


def _swallowed(layer: PlanLayer, expected: PlanExpectation) -> Iterator[str]:
    for node in layer.onnx_nodes:
        if node in expected.patch_linears:
            yield f"{layer.kind} {layer.name!r} took the place of the PatchLinear {node!r}"
    sparse, dense = (sorted(_nodes(layer) & names) for names in (expected.sparse_parts, expected.products))
    if sparse and dense:
        yield (
            f"{layer.kind} {layer.name!r} merged {', '.join(sparse)}, the 2:4 part of a split, "
            f"with {', '.join(dense)}: it is computed densely"
        )


def _wrong_constants(layer: PlanLayer, program: PlanProgram, expected: PlanExpectation) -> Iterator[str]:
    count = expected.packed_inputs.get(layer.name, _META)
    names = layer.inputs[_DENSE : _DENSE + count]
    tensors = [program.tensors.get(name) for name in names]
    sizes = [tensor.nbytes for tensor in tensors if tensor is not None and tensor.nbytes is not None]
    wanted = expected.patch_linears[layer.name]
    if len(sizes) != count:
        yield f"{layer.name!r} reads packed tensors that are not constants"
    elif sum(sizes) != wanted:
        yield f"{layer.name!r} holds {sum(sizes)} bytes of packed weights, not {wanted}"
    stored = "int32" if layer.name in expected.quantised else expected.dtype
    for tensor in tensors[:_SPARSE]:
        if tensor is not None and tensor.dtype != stored:
            yield f"{layer.name!r} computes in {tensor.dtype}, not in {stored}"
            return
