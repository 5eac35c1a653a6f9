"""Runs a PTX kernel in numpy: all threads of a block at once, blocks one after another, memory between them.

It executes nvcc's output, so it sees the operand order and the immediates of inline asm. It finds no races: diverged
threads run in the order of the code, and nothing is observed half done. Unknown opcodes, modifiers and directives are
faults, and so are accesses that are unaligned or outside a tensor, and threads that wait for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.ptx.arithmetic import ARITHMETIC
from tests.ptx.floats import FLOATS
from tests.ptx.matrices import MATRICES
from tests.ptx.memory import Array, Memory
from tests.ptx.parser import Entry, Instruction, PtxFault
from tests.ptx.products import PRODUCTS
from tests.ptx.state import Mask, State, Step
from tests.ptx.transfers import TRANSFERS

Threads = NDArray[np.bool_]

_BARRIER = re.compile(r"bar\.(?:sync|red\.(?P<reduce>or|and)\.pred)")
_MOST_STEPS = 300_000  # limit for one block, so that an endless loop is a fault


class Machine:
    """One kernel with its steps decoded. It can be launched many times."""

    def __init__(self, entry: Entry, shared_bytes: int) -> None:
        self.entry = entry
        self.state = State(entry, entry.threads, shared_bytes)
        self.steps: list[Step] = []
        self.controls: dict[int, Callable[[int, Threads], None]] = {}
        self.together: set[int] = set()  # positions where a warp must be whole
        for position, instruction in enumerate(entry.code):
            try:
                self._decode(position, instruction)
            except PtxFault as fault:
                raise PtxFault(f"{instruction.text}: {fault}") from fault
        self.stops = self._stops()
        self.ran = np.zeros(len(entry.code), np.bool_)  # True where any launch has been
        self.ready: dict[int, Threads] = {}
        self.parked: dict[int, Threads] = {}
        self.waiting: dict[int, Threads] = {}
        self.left: Threads = np.zeros(entry.threads, np.bool_)
        self.budget = 0

    def launch(self, blocks: int, parameters: bytes, memory: Memory, seed: int = 0) -> None:
        """Run all blocks on `memory` in an order given by `seed`. The kernel's one parameter is a struct."""
        (held,) = self.state.parameters.values()
        if len(parameters) != len(held):
            raise PtxFault(f"the parameter has {len(held)} bytes, not {len(parameters)}")
        held[:] = np.frombuffer(parameters, np.uint8)
        self.state.memory = memory
        with np.errstate(all="ignore"):  # idle threads compute too, and their results are dropped
            for block in np.random.default_rng(seed).permutation(blocks):
                self._run(int(block))

    def _decode(self, position: int, instruction: Instruction) -> None:
        opcode, operands = instruction.opcode, instruction.operands
        predicate = self._predicate(instruction)
        if opcode in ("bra", "bra.uni"):
            if str(operands[0]) not in self.entry.labels:
                raise PtxFault("there is no such label")
            self.controls[position] = self._branch(self.entry.labels[str(operands[0])], predicate)
        elif opcode == "ret":
            self.controls[position] = self._leave(predicate)
        elif _BARRIER.fullmatch(opcode):
            if predicate is not None:
                raise PtxFault("a barrier under a predicate is not modelled")
            self.controls[position] = self._arrive
        else:
            self.steps.append(self._step(instruction, predicate))
            if ".sync" in opcode:
                self.together.add(position)
            return
        self.steps.append(lambda mask: None)

    def _predicate(self, instruction: Instruction) -> Callable[[], Array] | None:
        if instruction.predicate is None:
            return None
        holds = self.state.source(instruction.predicate, "pred")
        return (lambda: ~holds) if instruction.negated else (lambda: holds)

    def _step(self, instruction: Instruction, predicate: Callable[[], Array] | None) -> Step:
        for table in (ARITHMETIC, FLOATS, TRANSFERS, MATRICES, PRODUCTS):
            step = table.step(self.state, instruction)
            if step is not None:
                break
        else:
            raise PtxFault("unknown instruction")
        if predicate is None:
            return step
        if ".sync" in instruction.opcode:
            raise PtxFault("an instruction of the whole warp under a predicate is not modelled")

        def guarded(mask: Mask) -> None:
            holds = predicate() & mask
            if holds.any():
                step(holds)

        return guarded

    def _stops(self) -> list[int]:
        """For every position, the next position that is not a plain step."""
        stops, following = list[int](), len(self.steps)
        for position in range(len(self.steps) - 1, -1, -1):
            if position in self.controls or position in self.together:
                following = position
            stops.append(following)
        return stops[::-1]

    def _run(self, block: int) -> None:
        self.state.begin(block)
        self.left[:] = False
        self.budget = _MOST_STEPS
        self.ready, self.parked, self.waiting = {0: np.ones(self.entry.threads, np.bool_)}, {}, {}
        while self.ready or self._release():
            position = min(self.ready)
            self._advance(position, self.ready.pop(position))
        self._check_end()

    def _advance(self, position: int, threads: Threads) -> None:
        """Run until the threads diverge, wait, or meet others. Threads that are behind go first and catch up."""
        mask: Mask = True if threads.all() else threads
        behind = min(self.ready, default=len(self.steps))
        while position < len(self.steps):
            stop = min(self.stops[position], behind)
            self._plain(position, stop, mask)
            position = stop
            if position in self.ready:
                self.ready[position] |= threads
                return
            if position in self.controls:
                self.ran[position] = True
                self.controls[position](position, threads)
                return
            if mask is not True:
                mask = threads = self._whole_warps(position, threads)
                if not threads.any():
                    return
            self._plain(position, position + 1, mask)
            position += 1
            if position in self.ready:
                self.ready[position] |= threads
                return
        raise PtxFault("threads run past the end")

    def _plain(self, start: int, stop: int, mask: Mask) -> None:
        position = start
        self.budget -= stop - start + 1  # a branch to itself counts too
        self.ran[start:stop] = True
        if self.budget < 0:
            raise PtxFault("no end is in sight")
        try:
            for position in range(start, stop):
                self.steps[position](mask)
        except PtxFault as fault:
            raise PtxFault(f"{self.entry.code[position].text}: {fault}") from fault

    def _add(self, position: int, threads: Threads) -> None:
        if threads.any():
            others = self.ready.get(position)
            self.ready[position] = threads if others is None else threads | others

    def _branch(self, target: int, predicate: Callable[[], Array] | None) -> Callable[[int, Threads], None]:
        def branch(position: int, threads: Threads) -> None:
            if predicate is None:
                self._add(target, threads)
                return
            taken = threads & predicate()
            self._add(target, taken)
            self._add(position + 1, threads & ~taken)

        return branch

    def _leave(self, predicate: Callable[[], Array] | None) -> Callable[[int, Threads], None]:
        def leave(position: int, threads: Threads) -> None:
            gone = threads if predicate is None else threads & predicate()
            self.left |= gone
            self._add(position + 1, threads & ~gone)

        return leave

    def _whole_warps(self, position: int, threads: Threads) -> Threads:
        """Threads whose warp has arrived in full; the others wait for the rest of their warp."""
        arrived = threads | self.parked.pop(position, False)
        whole = np.repeat(arrived.reshape(-1, 32).all(1), 32)
        if (arrived & ~whole).any():
            self.parked[position] = arrived & ~whole
        return arrived & whole

    def _arrive(self, position: int, threads: Threads) -> None:
        others = self.waiting.get(position)
        self.waiting[position] = threads if others is None else threads | others

    def _release(self) -> bool:
        """Open the barrier that all threads of the block have reached; False when there is none."""
        if not self.waiting or self.parked:
            return False
        code = [self.entry.code[position] for position in self.waiting]
        arrived = np.logical_or.reduce(list(self.waiting.values()))
        if self.left.any():
            raise PtxFault(f"{code[0].text}: threads that have returned are waited for")
        if len({(c.opcode, _barrier_number(c)) for c in code}) > 1:
            raise PtxFault(f"{code[0].text}: others of the block are at {code[-1].text}")
        if any(
            np.ptp(threads.reshape(-1, 32).view(np.int8), axis=1).any() for threads in self.waiting.values()
        ):
            raise PtxFault(f"{code[0].text}: a warp is not whole")
        self._reduce(arrived)
        self.ready = {position + 1: threads for position, threads in self.waiting.items()}
        self.waiting = {}
        return True

    def _check_end(self) -> None:
        """Raise PtxFault if threads have not ended, for there is nothing that they could do."""
        for waiters, fault in (
            (self.parked, "a warp waits for threads that do not come"),
            (self.waiting, "threads wait for others that do not come"),
        ):
            if waiters:
                raise PtxFault(f"{self.entry.code[min(waiters)].text}: {fault}")

    def _reduce(self, arrived: Threads) -> None:
        """bar.red: every thread gets the reduction of all votes."""
        form = _BARRIER.fullmatch(self.entry.code[min(self.waiting)].opcode)
        if form is None or form["reduce"] is None:
            return
        votes = np.zeros(len(arrived), np.bool_)
        for position, threads in self.waiting.items():
            vote = str(self.entry.code[position].operands[2])
            values = self.state.source(vote.removeprefix("!"), "pred")
            votes[threads] = (~values if vote.startswith("!") else values)[threads]
        result = votes.any() if form["reduce"] == "or" else votes[arrived].all()
        for position, threads in self.waiting.items():
            self.state.target(self.entry.code[position].operands[0], "pred")[threads] = result


def _barrier_number(instruction: Instruction) -> str:
    """Number of the barrier. A barrier for part of the block is not modelled."""
    numbers = [o for o in instruction.operands if isinstance(o, str) and not o.lstrip("!").startswith("%")]
    if len(numbers) != 1:
        raise PtxFault(f"{instruction.text}: a barrier of a part of the block is not modelled")
    return numbers[0]
