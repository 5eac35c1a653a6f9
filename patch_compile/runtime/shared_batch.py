"""Continues several requests as one batch.

Reading the weights takes most of the time of a decode step, and one step reads them once for all rows. A decoder that
`joins` lets requests come and go between steps. With other decoders, only requests that begin together share a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from patch_compile.errors import PatchCompileError
from patch_compile.runtime.continuation import Continuation, Piece
from patch_compile.runtime.decoder import Decoder, Decoding, JoinableDecoding, Tokens, pad_left


class SharedBatch:
    """A batch of requests. `join`, `choose` and `step` are called in turns, by one thread. rows: most rows at once."""

    def __init__(self, decoder: Decoder, rows: int) -> None:
        self._decoder, self._most = decoder, rows
        self._decoding: Decoding | None = None
        self._requests: list[Continuation] = []  # in the order of their rows
        self._left: set[Continuation] = set()  # ended requests whose rows are still in the batch
        self._tokens: Tokens = np.zeros(0, np.int64)

    @property
    def empty(self) -> bool:
        """True if no request is being continued."""
        return self._left.issuperset(self._requests)

    @property
    def rows(self) -> int:
        """Number of rows of the batch."""
        return sum(len(one.prompts) for one in self._requests)

    def takes(self, new: Sequence[Continuation]) -> bool:
        """True if these requests can join together now. A request within the limits can always join an empty batch."""
        if self.empty:
            return len(new) == 1 or self._fits(new)
        return isinstance(self._decoding, JoinableDecoding) and self._fits(new)

    def join(self, new: Sequence[Continuation]) -> None:
        """Read the prompts of requests, which are then continued by the next `choose`. `takes` has allowed it."""
        if self.empty:
            self.close()
        prompts = [prompt for one in new for prompt in one.prompts]
        longest = max(one.new_tokens for one in new)
        # The last token of a row needs no step of its own.
        decoding = self._decoder.start(*pad_left(prompts), longest - 1)
        if isinstance(self._decoding, JoinableDecoding) and isinstance(decoding, JoinableDecoding):
            self._decoding.join(decoding)
            decoding.close()
        else:
            self._decoding = decoding
        self._requests += new

    def choose(self) -> Iterator[tuple[Continuation, list[Piece] | PatchCompileError]]:
        """Yield the next pieces of each request. A request whose logits are not finite gets the error, and leaves."""
        assert self._decoding is not None
        logits = self._decoding.logits
        self._tokens = np.zeros(len(logits), np.int64)
        for one, rows in self._going_on():
            try:
                self._tokens[rows], pieces = one.choose(logits[rows])
            except PatchCompileError as error:
                self.leave(one)
                yield one, error
                continue
            if one.ended:
                self.leave(one)
            yield one, pieces

    def leave(self, one: Continuation) -> None:
        """End a request. Its rows are dropped by the next `step`."""
        self._left.add(one)

    def step(self) -> None:
        """Compute the logits of the next tokens, or end the batch if all requests have left."""
        if self.empty:
            self.close()
            return
        if self._left and isinstance(self._decoding, JoinableDecoding):
            self._drop_left(self._decoding)
        assert self._decoding is not None
        self._decoding.step(self._tokens)

    def close(self) -> None:
        """End all requests and release the memory."""
        if self._decoding is not None:
            self._decoding.close()
        self._decoding, self._requests, self._left = None, [], set()

    def _going_on(self) -> Iterator[tuple[Continuation, slice]]:
        """Yield each request that has not left, and its rows."""
        first = 0
        for one in self._requests:
            rows = slice(first, first + len(one.prompts))
            first = rows.stop
            if one not in self._left:
                yield one, rows

    def _drop_left(self, decoding: JoinableDecoding) -> None:
        kept = list(self._going_on())
        rows = [row for _, of_one in kept for row in range(of_one.start, of_one.stop)]
        decoding.keep(rows)
        self._tokens, self._requests, self._left = self._tokens[rows], [one for one, _ in kept], set()

    def _fits(self, new: Sequence[Continuation]) -> bool:
        inside = 0 if self.empty else self.rows
        rows = inside + sum(len(one.prompts) for one in new)
        if rows > self._most:
            return False
        if self._decoder.joins:  # each row has positions of its own
            return True
        try:  # all rows are as long as the longest
            longest = max(len(prompt) for one in new for prompt in one.prompts)
            self._decoder.limits.check(rows, longest, max(one.new_tokens for one in new))
        except PatchCompileError:
            return False
        return True
