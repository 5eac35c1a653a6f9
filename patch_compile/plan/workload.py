"""What a plan is made for: so many sequences, a prompt for each, and tokens after it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from patch_compile.out.plan import WorkloadRow

__all__ = ["Workload"]


@dataclass(frozen=True)
class Workload:
    """`batch` sequences of `prompt` tokens each, after which `generated` ones are sampled, the first by the prompt."""

    batch: int
    prompt: int
    generated: int

    def without_decode(self) -> Workload:
        """Of an encoder, which generates nothing."""
        return replace(self, generated=1)

    @property
    def steps(self) -> int:
        """Times a decode step is run after the prompt."""
        return self.generated - 1

    @property
    def prefill_tokens(self) -> int:
        """Rows of X of a linear while the prompt is read."""
        return self.batch * self.prompt

    def total(self, prefill: float, decode: float) -> float:
        """Of the whole workload, from the times of the prompt and of one decode step."""
        return prefill + self.steps * decode

    def row(self) -> WorkloadRow:
        """The workload as plan.json has it."""
        return WorkloadRow(batch=self.batch, prompt=self.prompt, generated=self.generated)

    @classmethod
    def of(cls, row: WorkloadRow) -> Workload:
        """The workload that a row tells."""
        return cls(row.batch, row.prompt, row.generated)

    def __str__(self) -> str:
        return str(self.row())
