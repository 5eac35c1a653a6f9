"""KV cache of an engine, in buffers whose addresses stay the same over many steps.

The engine reads a past of P slots and writes a present of P + new slots into other buffers. The cache therefore has two sets
of buffers: a step reads one set and writes the other. There are two ways to get the new token into the past of the next
step:

    padded    P stays the same for many steps. Slots without a token are masked. After a step the last slot of the
              present is copied to the first empty slot of the past. Shapes and addresses stay the same, so the step can
              be a CUDA graph. When all slots are full, P grows by `SLOTS`.
    swapped   P is the number of tokens, and the two sets change places. Nothing is copied, but the shape changes with
              every step.

Full attention does not depend on the order of the slots. A sliding window does: it counts slots back from the new token,
so empty slots would push tokens out of the window. A window that is longer than the whole sequence causes no problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from patch_compile.runtime.decoder import Tokens
from patch_compile.runtime.device import Device

SLOTS = 128  # growth of P: each P needs a graph of its own


@dataclass(frozen=True)
class KvShape:
    """Shape of one past tensor `[batch, heads, P, size]`; item: bytes of one number."""

    heads: int
    size: int
    item: int


class KvCache:
    """Two sets of buffers for a batch. `mask` `[batch, slots]` is 1 for each slot of the past that holds a token.

    capacity: most tokens of a sequence; least, most: range of P in the engine's profile; padded: see above.
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
        # Recorded one by one, so that `close` frees them if memory runs out.
        for held in (self._read, self._written):
            for name, s in shapes.items():
                held[name] = device.allocate(batch * s.heads * room * s.size * s.item)
        self.mask: Tokens = np.zeros((batch, 0), np.int64)
        self._tokens = 0  # slots that hold tokens, or the padding of prompts

    @property
    def slots(self) -> int:
        return int(self.mask.shape[1])

    @property
    def past(self) -> Mapping[str, int]:
        """Addresses of the past, by the name of the tensor."""
        return self._read

    @property
    def present(self) -> Mapping[str, int]:
        """Addresses of the present, by the name of the past tensor."""
        return self._written

    def take_prompt(self, mask: Tokens) -> None:
        """Make the present, which holds a prompt, the new past. mask: the prompt's, `[batch, sequence]`."""
        self._tokens = mask.shape[1]
        if not self.padded:
            self._swap(mask)
            return
        self._grow(self._written, mask)

    def take_token(self) -> None:
        """Put the new token, which lies in the last slot of the present, into the past."""
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
        """Grow the past if it has no empty slot. Call this before each step."""
        if self.padded and self._tokens == self.slots:
            self._grow(self._read, self.mask)

    def close(self) -> None:
        for address in (*self._read.values(), *self._written.values()):
            self._device.free(address)
        self._read, self._written = {}, {}

    def _swap(self, mask: Tokens) -> None:
        self._read, self._written = self._written, self._read
        self.mask = mask

    def _grow(self, source: Mapping[str, int], mask: Tokens) -> None:
        """Copy the slots of `source` to the other set, which has more slots and becomes the past."""
        old, new = mask.shape[1], min(self._most, max(self._least, slots_for(self._tokens + 1)))
        target = self._read if source is self._written else self._written
        for name, shape in self._shapes.items():
            row = shape.size * shape.item
            to, held = (target[name], new * row), (source[name], old * row)
            self._device.copy(to, held, old * row, self.batch * shape.heads)
        if source is self._read:
            self._read, self._written = self._written, self._read
        self.mask = np.pad(mask, ((0, 0), (0, new - old)))

    def __del__(self) -> None:
        self.close()


def slots_for(tokens: int) -> int:
    """Returns the number of slots of a padded past for this number of tokens."""
    return -(-tokens // SLOTS) * SLOTS
