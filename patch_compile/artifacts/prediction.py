"""Predicted times of a whole model: the card and the workload that they are for, and the times of each phase."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from patch_compile.artifacts.record import Record, Unit, shown


class Calibration(Record):
    """Assumptions of the roofline that best predict the times that were measured on a GPU.

    gpu: its name; card: the row of the table of cards; own: True if the row is this GPU's own, False if it stands for it.
    clocks: medians in MHz, None if they were not recorded. assumptions: the fields of `Assumptions` that the fit changed.
    left: assumptions that these times do not determine, and why. times: number of times; error: median relative error of the
    predictions, before and after the fit. shipped: True if it came with patch-compile, False if it was measured on this
    machine.
    """

    gpu: str
    card: str
    own: bool
    clocks: dict[str, float] | None
    driver: str | None
    backend: str
    version: str
    date: str
    model: str
    assumptions: dict[str, float]
    left: dict[str, str]
    times: int = Field(ge=2)
    error: dict[str, float]
    shipped: bool = False

    def __hash__(self) -> int:  # dicts have no hash, and plans are cached by their card
        return hash(self.model_dump_json())


class CardRow(Record):
    """The card that a plan is predicted for. stands_for: the target without its own data sheet, all targets if there are
    several, or ""."""

    name: str
    stands_for: str = ""
    calibration: Calibration | None = None

    def __str__(self) -> str:
        which = "for the first of" if "," in self.stands_for else "which stands for"
        name = f"{self.name}, {which} {self.stands_for}" if self.stands_for else self.name
        if found := self.calibration:
            whose = "patch-compile's " if found.shipped else ""
            return f"{name} (calibrated by {whose}times measured on {found.gpu} on {found.date[:10]})"
        return name


class Workload(Record):
    """`batch` sequences of `prompt` tokens each, then `generated` sampled tokens, the first of which the prompt gives."""

    batch: int
    prompt: int
    generated: int

    def without_decode(self) -> Self:
        """Returns the workload of an encoder, which generates nothing."""
        return self.model_copy(update={"generated": 1})

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

    def __str__(self) -> str:
        if self.generated == 1:
            return f"batch {self.batch}, {self.prompt} tokens"
        return f"batch {self.batch}, {self.prompt} prompt + {self.generated} generated tokens"


class PhaseRow(Record):
    """Predicted milliseconds of a phase, the ratio of dense to planned time, and the limit of any plan at this ratio.

    dense_ms: with dense 16-bit weights; alike_ms: with dense weights of the same types as the plan's, None if those have 16
    bits; dense W8A8 is cuBLASLt's. low, high: ends of the speed-up's error bar (docs/explanation/predictions.md), None in
    files of earlier versions.
    """

    dense_ms: Annotated[float, shown("dense, ms", Unit.MILLISECONDS)]
    alike_ms: float | None = None
    planned_ms: Annotated[float, shown("planned, ms", Unit.MILLISECONDS)]
    speedup: float
    low: float | None = None
    high: float | None = None
    limit: Annotated[float, shown("limit", Unit.TIMES)]

    @classmethod
    def of(
        cls,
        dense: float,
        planned: float,
        limit: float,
        alike: float | None = None,
        unpruned: float | None = None,
        gains: tuple[float, float] = (1.0, 1.0),
    ) -> Self:
        """Returns the row of a phase. A phase that does not occur has a speed-up of 1.

        unpruned: milliseconds of the plan with all its slabs dense, None for `dense`. gains: ends of measured over predicted
        gain by 2:4; no end passes the limit, unless the prediction itself does.
        """
        speedup, gain = ((time / planned if planned else 1.0) for time in (dense, unpruned or dense))
        ends = (
            speedup,
            *(min(limit, speedup / gain * (1 + (gain - 1) * share)) for share in gains),
        )
        return cls(
            dense_ms=dense,
            alike_ms=alike,
            planned_ms=planned,
            speedup=speedup,
            low=min(ends),
            high=max(ends),
            limit=limit,
        )

    @property
    def over_alike(self) -> float:
        """Returns the speed-up over dense weights of the same types."""
        if self.alike_ms is None:
            return self.speedup
        return self.alike_ms / self.planned_ms if self.planned_ms else 1.0


class WholeRow(Record):
    """Predicted times of the whole model: all prompts, all decode steps after them, and both."""

    prefill: Annotated[PhaseRow, shown("prefill")]
    decode: Annotated[PhaseRow, shown("decode, all steps")]
    end_to_end: Annotated[PhaseRow, shown("end to end")]

    @classmethod
    def of(cls, prefill: PhaseRow, decode: PhaseRow) -> Self:
        """Returns the times with the sum of both phases. Each phase has its own limit."""
        phases = (prefill, decode)
        dense, planned = sum(phase.dense_ms for phase in phases), sum(phase.planned_ms for phase in phases)
        alike = [phase.alike_ms for phase in phases if phase.alike_ms is not None]

        def speedup(name: str) -> float:
            times: list[float] = [phase.dense_ms / getattr(phase, name) for phase in phases]
            return dense / sum(times)

        both = PhaseRow(
            dense_ms=dense,
            alike_ms=sum(alike) if len(alike) == len(phases) else None,
            planned_ms=planned,
            speedup=dense / planned,
            low=speedup("low"),
            high=speedup("high"),
            limit=speedup("limit"),
        )
        return cls(prefill=prefill, decode=decode, end_to_end=both)

    @property
    def phases(self) -> tuple[str, ...]:
        """Returns the phases that occur: an encoder, and a decoder that only reads prompts, have one."""
        return ("prefill", "decode", "end_to_end") if self.decode.dense_ms > 0.0 else ("prefill",)
