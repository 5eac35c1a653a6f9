"""The KV cache of an engine: buffers that keep their addresses while tokens come.

The engine takes a past of P slots and gives a present of P + new slots, in buffers of their own: two sets, one read
and one written. Two ways to get the new tokens into the past of the next step:

    padded    P stays the same for many steps. Slots that hold no token yet are masked, and what was written into the
              present's last slot is copied to the first such slot of the past. Shapes and addresses stay, so that
              the step can be a CUDA graph. When the slots are full, P grows by `SLOTS`.
    swapped   P is the number of tokens; the sets change places. Nothing is copied, but every step has another shape.

Attention does not ask in which order the slots lie, but for a sliding window: it counts slots back from the new token,
so slots that hold nothing would push tokens out of it. A window that the whole sequence fits in does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from patch_compile.runtime.decoder import Tokens
from patch_compile.runtime.device import Device

__all__ = ["SLOTS", "KvCache", "KvShape", "slots_for"]

SLOTS = 128  # that P grows by: a graph is recorded for each P


@dataclass(frozen=True)
class KvShape:
    """Heads, their size and the bytes of a number, of one past tensor `[batch, heads, P, size]`."""

    heads: int
    size: int
    item: int


class KvCache:
    """Two sets of buffers for a batch; which slots of the past hold tokens is `mask`, `[batch, slots]`.

    capacity: most tokens of a sequence; least: slots that the engine wants at least; padded: see above.
    """

    def __init__(
        self,
        device: Device,
        shapes: Mapping[str, KvShape],
        batch: int,
        capacity: int,
        *,
        least: int,
        most: int,
        padded: bool,
    ) -> None:
        self._device, self._shapes = device, shapes
        self.batch, self.capacity, self.padded = batch, capacity, padded
        self._least, self._most = least, most
        room = (min(most, max(least, slots_for(capacity))) if padded else capacity) + 1
        self._read: dict[str, int] = {}
        self._written: dict[str, int] = {}
        for held in (self._read, self._written):  # one by one: what is held when memory ends is given back
            for name, s in shapes.items():
                held[name] = device.allocate(batch * s.heads * room * s.size * s.item)
        self.mask: Tokens = np.zeros((batch, 0), np.int64)
        self._tokens = 0  # slots that hold tokens, or the padding of prompts

    @property
    def slots(self) -> int:
        """P."""
        return int(self.mask.shape[1])

    @property
    def past(self) -> Mapping[str, int]:
        """Addresses of the past, by the name of the tensor."""
        return self._read

    @property
    def present(self) -> Mapping[str, int]:
        """Addresses to write the present to, by the name of the past tensor."""
        return self._written

    def take_prompt(self, mask: Tokens) -> None:
        """The present holds a prompt, by its mask `[batch, sequence]`: make it the past, in place of what was there."""
        self._tokens = mask.shape[1]
        if not self.padded:
            self._swap(mask)
            return
        self._grow(self._written, mask)

    def take_token(self) -> None:
        """The present holds one more token in its last slot: put it into the past."""
        if not self.padded:
            self._tokens += 1
            self._swap(np.concatenate([self.mask, np.ones((self.batch, 1), np.int64)], axis=1))
            return
        for name, shape in self._shapes.items():
            row = shape.size * shape.item
            to = self._read[name] + self._tokens * row, self.slots * row
            source = self._written[name] + self.slots * row, (self.slots + 1) * row
            self._device.copy(to, source, row, self.batch * shape.heads)
        self.mask[:, self._tokens] = 1
        self._tokens += 1

    def make_room(self) -> None:
        """Before a step: the past gets an empty slot where all hold tokens."""
        if self.padded and self._tokens == self.slots:
            self._grow(self._read, self.mask)

    def close(self) -> None:
        """Free the buffers."""
        for address in (*self._read.values(), *self._written.values()):
            self._device.free(address)
        self._read, self._written = {}, {}

    def _swap(self, mask: Tokens) -> None:
        self._read, self._written = self._written, self._read
        self.mask = mask

    def _grow(self, source: Mapping[str, int], mask: Tokens) -> None:
        """Spread the slots of `source` over more slots, in the other set, which is the past then."""
        old, new = mask.shape[1], min(self._most, max(self._least, slots_for(self._tokens + 1)))
        other = self._read if source is self._written else self._written
        for name, shape in self._shapes.items():
            row = shape.size * shape.item
            to, found = (other[name], new * row), (source[name], old * row)
            self._device.copy(to, found, old * row, self.batch * shape.heads)
        if source is self._read:
            self._read, self._written = self._written, self._read
        self.mask = np.pad(mask, ((0, 0), (0, new - old)))

    def __del__(self) -> None:
        self.close()


def slots_for(tokens: int) -> int:
    """Slots of a padded past of so many tokens."""
    return -(-tokens // SLOTS) * SLOTS
