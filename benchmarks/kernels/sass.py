"""Finds the loops over slabs in the kernels' machine code, and counts the instructions of a slab, for issue.py.

The instructions of one slab are the shortest path through the loop that multiplies it which issues all copies and reads the
place of the next slab.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from cubin import Instruction

from masklearn.masks.kinds.table import DENSE, KINDS, TWO_FOUR, kind_named
from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8, WeightType
from patch_compile.planning.roofline.schedule import Config
from patch_compile.planning.roofline.schedule import kinds_of as kinds_with
from patch_compile.plugin.toolchain import plugin_sources

JSON = plugin_sources() / "kernels" / "sass.json"
# The first match counts.
_COUNTED = ("HMMA.SP", "HMMA", "IMMA.SP", "IMMA", "LDSM", "LDS.128", "LDS.64", "LDS", "LDGSTS")
PRODUCTS = ("HMMA", "IMMA")
"""What the opcodes of products begin with: of 16-bit values, and of bytes."""
_SHALLOW = "IMMA.SP.16832"
_LEAVES = ("EXIT", "RET")
_KINDS = {kind.name: kind for kind in KINDS}
_SIX_EIGHT = kind_named("6:8").name
_UNIFORM = re.compile(r"\s*!?UP\d")


def kinds_of(config: Config) -> tuple[str, ...]:
    """Names of the kinds of slabs that a configuration multiplies."""
    return tuple(kind.name for kind in kinds_with(config.weights)[: config.kinds])


def loads_of(kind: str, weights: WeightType = FLOAT16) -> dict[str, int]:
    """Loads of a row block of a slab by a lane, by opcode: of values, metadata or masks, and the scales of int4.

    Values of n:16 lie in planes of 8 and of 4 (plugins/kernels/decode_of_sixteen.cuh and decode_integers*.cuh).
    """
    about, loads = _KINDS[kind], Counter[str]()
    kept = about.kept if about.group == 16 else 0
    eights, fours = kept // 8, kept // 4 % 2
    if kind == DENSE.name:
        loads["LDS.128"] += {FLOAT16: 4, INT8: 2, W8A8: 2, INT4: 1}[weights]
    elif kind == _SIX_EIGHT:
        loads += Counter({"LDS.128": 1, "LDS.64": 1, "LDS": 1})
    elif kind == TWO_FOUR.name:
        loads["LDS.64" if weights is INT4 else "LDS.128"] += 2 if weights is FLOAT16 else 1
    elif weights is FLOAT16:
        loads["LDS.128"] += 2 * eights + fours
    elif weights is INT8:
        loads += Counter({"LDS.128": eights, "LDS.64": fours})
    else:
        loads += Counter({"LDS.64": eights, "LDS": fours})
    loads["LDS"] += (kind != DENSE.name) + (weights is INT4)
    return dict(+loads)


def count_slab(code: Sequence[Instruction], kind: str, weights: WeightType = FLOAT16) -> dict[str, int]:
    """Instructions of one warp for one slab of `kind`, by opcode, including instructions that a predicate turns off."""
    way = way_of(code, kind, weights)
    counts, slabs = Counter(_class_of(i) for i in way), slabs_of(way)
    return {name: -(-counts[name] // slabs) for name in (*_COUNTED, "other")}


def slabs_of(way: Sequence[Instruction]) -> int:
    """Returns the slabs that a way through a loop multiplies: it has a barrier for each."""
    return sum(i.opcode.startswith("BAR.SYNC") for i in way)


def _class_of(i: Instruction) -> str:
    if i.guard == "@!PT":  # padding of ptxas: issued, never executed
        return "other"
    return next((name for name in _COUNTED if f"{i.opcode}.".startswith(f"{name}.")), "other")


def loop_of(code: Sequence[Instruction], kind: str, weights: WeightType = FLOAT16) -> Sequence[Instruction]:
    """The loop that multiplies slabs of a kind. Raises ValueError unless there is exactly one."""
    at = {i.address: n for n, i in enumerate(code)}
    loops = []
    for end, i in enumerate(code):
        begin = at.get(i.target, end + 1)
        if begin <= end and any(inside.opcode.startswith(PRODUCTS) for inside in code[begin : end + 1]):
            loops.append((begin, end))
    inner = [one for one in loops if not any(_inside(other, one) for other in loops)]
    loops_of_kind = (code[begin : end + 1] for begin, end in inner)
    found = [loop for loop in loops_of_kind if _multiplies(loop, kind, weights)]
    if not found:
        raise ValueError(f"no loop over {kind} slabs")
    # A gate's slabs and the up's have loops of their own, with the same instructions.
    return min(found, key=len)


def _inside(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one != other and other[0] <= one[0] and one[1] <= other[1]


def _multiplies(loop: Sequence[Instruction], kind: str, weights: WeightType) -> bool:
    """True if a loop has the products of a kind. Products by mma are told apart by the loads of a row block.

    Bytes have one kind by mma, and two by mma.sp, of which 6:8 has two slabs in its loop, or products of 32 columns; X's
    bytes are loaded as W's are.
    """
    opcodes = Counter(_class_of(i) for i in loop)
    sparse, dense = (any(opcodes[name + end] for name in PRODUCTS) for end in (".SP", ""))
    if opcodes["IMMA.SP"]:
        of_eight = slabs_of(loop) > 1 or any(i.opcode.startswith(_SHALLOW) for i in loop)
        return kind == (_SIX_EIGHT if of_eight else TWO_FOUR.name)
    if kind == TWO_FOUR.name or not dense:
        return kind == TWO_FOUR.name and sparse
    if opcodes["IMMA"]:
        return kind == DENSE.name
    forms = ("LDS.128", "LDS.64", "LDS")
    found = Counter(
        next(form for form in forms if f"{i.opcode}.".startswith(f"{form}."))
        for i in loop
        if i.opcode.split(".")[0] == "LDS" and i.guard != "@!PT"
    )
    wanted = loads_of(kind, weights)
    blocks = found.total() // sum(wanted.values())
    return blocks > 0 and found == {form: blocks * count for form, count in wanted.items()}


def way_of(code: Sequence[Instruction], kind: str, weights: WeightType = FLOAT16) -> list[Instruction]:
    """Shortest path through the loop over slabs of `kind` that issues all copies and reads the place of the next slab.

    Branches back (loops over tiles without a slab) are never taken, so addresses order the search.
    """
    loop = loop_of(code, kind, weights)
    at = {i.address: n for n, i in enumerate(loop)}
    # per instruction: (LDGSTS so far, index read) -> shortest path to it
    ways: list[dict[tuple[int, bool], list[int]]] = [{} for _ in loop]
    ways[0] = {(0, False): []}
    for n, i in enumerate(loop):
        for (copied, read), way in ways[n].items():
            state = (copied + i.opcode.startswith("LDGSTS"), read or i.opcode.startswith("LDG."))
            for follower in _followers(loop, at, n):
                known = ways[follower].get(state)
                if known is None or len(way) + 1 < len(known):
                    ways[follower][state] = [*way, n]
    copies = sum(i.opcode.startswith("LDGSTS") for i in loop)
    if copies == 0 or (copies, True) not in ways[-1]:
        raise ValueError(f"no way through the loop with {copies} copies")
    return [*(loop[n] for n in ways[-1][copies, True]), loop[-1]]


def _followers(loop: Sequence[Instruction], at: dict[int, int], n: int) -> list[int]:
    i, found = loop[n], []
    target = at.get(i.target)
    if target is not None and target > n:
        found.append(target)
    # Newer architectures write the predicate of a uniform branch as an operand: BRA.U !UP0, 0x100. BRA.DIV is taken by a
    # warp whose lanes have diverged, to a copy of the instruction after it that brings them together; none does.
    conditional = i.guard or _UNIFORM.match(i.operands) or i.opcode == "BRA.DIV"
    always = not conditional and (i.branches or i.opcode in _LEAVES)
    if not always and n + 1 < len(loop):
        found.append(n + 1)
    return found
