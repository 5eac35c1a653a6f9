"""The workload of a plan: a number of sequences, a prompt for each, and tokens after it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from patch_compile.artifacts.plan import WorkloadRow

__all__ = ["Workload"]


@dataclass(frozen=True)
class Workload:
    """`batch` sequences of `prompt` tokens each, then `generated` sampled tokens, the first of which the prompt gives."""

    batch: int
    prompt: int
    generated: int

    def without_decode(self) -> Workload:
        """Returns the workload of an encoder, which generates nothing."""
        return replace(self, generated=1)

    @property
    def steps(self) -> int:
        """Returns the number of decode steps after the prompt."""
        return self.generated - 1

    @property
    def prefill_tokens(self) -> int:
        """Returns the rows of X of a linear for the prompt."""
        return self.batch * self.prompt

    def total(self, prefill: float, decode: float) -> float:
        """Returns the time of the whole workload. prefill: time of the prompt; decode: time of one decode step."""
        return prefill + self.steps * decode

    def row(self) -> WorkloadRow:
        """Returns the workload's row of plan.json."""
        return WorkloadRow(batch=self.batch, prompt=self.prompt, generated=self.generated)

    @classmethod
    def of(cls, row: WorkloadRow) -> Workload:
        """Returns the workload that a row describes."""
        return cls(row.batch, row.prompt, row.generated)

    def __str__(self) -> str:
        return str(self.row())
