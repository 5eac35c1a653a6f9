"""Predicted times of a whole model: the card and the workload that they are for, and the times of each phase."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from patch_compile.artifacts.record import Record, Unit, shown

PAYS = 1.05  # speed-up by tiles from which pruning is worth its loss of quality


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
    several, or ""; unpredicted: those of several targets for which no speed is predicted."""

    name: str
    stands_for: str = ""
    unpredicted: tuple[str, ...] = ()
    calibration: Calibration | None = None

    def __str__(self) -> str:
        which = "for the first of" if "," in self.stands_for else "which stands for"
        name = f"{self.name}, {which} {self.stands_for}" if self.stands_for else self.name
        if self.unpredicted:
            name += f" (no prediction for {', '.join(self.unpredicted)})"
        if times := self.calibration:
            whose = "patch-compile's " if times.shipped else ""
            return f"{name} (calibrated by {whose}times measured on {times.gpu} on {times.date[:10]})"
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
        return self.generated - 1

    @property
    def prefill_tokens(self) -> int:
        return self.batch * self.prompt

    def total(self, prefill: float, decode: float) -> float:
        """Returns the time of the whole workload. prefill: time of the prompt; decode: time of one decode step."""
        return prefill + self.steps * decode

    def __str__(self) -> str:
        if self.generated == 1:
            return f"batch {self.batch}, {self.prompt} tokens"
        return f"batch {self.batch}, {self.prompt} prompt + {self.generated} generated tokens"


class PhaseRow(Record):
    """Predicted milliseconds of a phase, and speed-ups, which are ratios of them.

    dense_ms: with dense 16-bit weights; types_ms: the plan without pruned tiles; library_ms: with dense weights of the
    plan's types by libraries' fused GEMMs, and by our own kernels for types that no library multiplies; fp8_ms: with all
    linears dense in fp8 by libraries, None if the card has no fp8. speedup: over dense 16-bit weights, `by_types` times
    `by_tiles`. low, high: ends of its interval (docs/explanation/predictions.md). limit: of any plan with these types and
    tiles.
    """

    dense_ms: Annotated[float, shown("dense, ms", Unit.MILLISECONDS)]
    types_ms: float
    library_ms: float
    fp8_ms: float | None = None
    planned_ms: Annotated[float, shown("planned, ms", Unit.MILLISECONDS)]
    speedup: float
    by_types: Annotated[float, shown("by types", Unit.TIMES)]
    by_tiles: Annotated[float, shown("by tiles", Unit.TIMES)]
    over_library: float
    over_fp8: float | None = None
    low: float
    high: float
    limit: Annotated[float, shown("limit", Unit.TIMES)]

    @classmethod
    def of(
        cls,
        *,
        dense: float,
        types: float,
        library: float,
        fp8: float | None,
        planned: float,
        ends: tuple[float, float],
        limit: float,
    ) -> Self:
        """Returns the row of a phase. A phase that does not occur has a speed-up of 1.

        ends: the least and the largest milliseconds that the errors of predictions allow. No end of the interval passes the
        limit, unless the prediction itself does.
        """

        def over(time: float, milliseconds: float = planned) -> float:
            return time / milliseconds if milliseconds else 1.0

        fastest, slowest = ends
        return cls(
            dense_ms=dense,
            types_ms=types,
            library_ms=library,
            fp8_ms=fp8,
            planned_ms=planned,
            speedup=over(dense),
            by_types=over(dense, types),
            by_tiles=over(types),
            over_library=over(library),
            over_fp8=None if fp8 is None else over(fp8),
            low=min(over(dense), over(dense, slowest)),
            high=max(over(dense), min(limit, over(dense, fastest))),
            limit=limit,
        )


class WholeRow(Record):
    """Predicted times of the whole model: all prompts, all decode steps after them, and both."""

    prefill: Annotated[PhaseRow, shown("prefill")]
    decode: Annotated[PhaseRow, shown("decode")]
    end_to_end: Annotated[PhaseRow, shown("end to end")]

    @classmethod
    def of(cls, prefill: PhaseRow, decode: PhaseRow) -> Self:
        """Returns the times with the sum of both phases. Each phase has its own limit."""
        phases = (prefill, decode)
        dense, types, library, planned = (
            sum(getattr(phase, name) for phase in phases)
            for name in ("dense_ms", "types_ms", "library_ms", "planned_ms")
        )

        def at(name: str) -> float:
            """Returns the milliseconds of both phases at this speed-up of each."""
            times: list[float] = [phase.dense_ms / getattr(phase, name) for phase in phases]
            return sum(times)

        both = PhaseRow.of(
            dense=dense,
            types=types,
            library=library,
            fp8=None if prefill.fp8_ms is None or decode.fp8_ms is None else prefill.fp8_ms + decode.fp8_ms,
            planned=planned,
            ends=(at("high"), at("low")),
            limit=dense / at("limit"),
        )
        return cls(prefill=prefill, decode=decode, end_to_end=both)

    @property
    def phases(self) -> tuple[str, ...]:
        """Returns the phases that occur: an encoder, and a decoder that only reads prompts, have one."""
        return ("prefill", "decode", "end_to_end") if self.decode.dense_ms > 0.0 else ("prefill",)
