"""No table cuts a number, however narrow the terminal is."""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from patch_compile.api.inspect import inspect
from patch_compile.api.plan import plan
from patch_compile.report.terminal.baselines import baseline_parts
from patch_compile.report.terminal.bench import benched_parts
from patch_compile.report.terminal.compare import compared_parts
from patch_compile.report.terminal.console import masks_parts
from patch_compile.report.terminal.folding import FoldingTable
from patch_compile.report.terminal.inspect import found_parts
from patch_compile.report.terminal.parts import Part, show
from patch_compile.report.terminal.verify import verified_parts
from tests.artifacts.benched import benched
from tests.artifacts.compared import compared
from tests.conftest import write_model
from tests.report.page.found import verified
from tests.report.page.outs import Out
from tests.report.terminal.test_console import answer
from tests.report.terminal.test_console import compared as beside_baselines

ROOT = Path(__file__).parents[3]
Printed = Callable[[Path], Iterator[Part]]


def of_compare(_: Path) -> Iterator[Part]:
    report = compared([11.0, 140.25, 13.0], [1.1, 1.3, 1.5], 10.0, methods=("wanda", "patch-unstructured"))
    first, *others = report.builds
    first = first.model_copy(
        update={"name": "sweeps/of-monday/r0.1-of-smollm2-135m", "permuted": True, "repaired": True}
    )
    return compared_parts(report.model_copy(update={"builds": (first, *others)}))


def of_plan(folder: Path) -> Iterator[Part]:
    model = write_model(folder / "model", "llama", hidden_size=128, intermediate_size=192)
    return plan(model, ratio=0.4, target="sm86").parts()


def of_inspect(folder: Path) -> Iterator[Part]:
    return found_parts(inspect(write_model(folder / "model", "llama")).report, every=True)


COMMANDS: dict[str, Printed] = {
    "bench": lambda _: benched_parts(benched(), "bench.json"),
    "compare": of_compare,
    "inspect": of_inspect,
    "learn": lambda _: (*masks_parts(answer()), *baseline_parts(beside_baselines())),
    "plan": of_plan,
    "verify": lambda folder: verified_parts(verified(Out(folder)), folder),
}


def printed(table: FoldingTable, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(table)
    return console.export_text()


def cells(table: FoldingTable) -> Counter[str]:
    """Cells beside the names of rows, which may break."""
    return Counter(str(cell) for column in table.columns[1:] for cell in column.cells if cell)


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_is_whole_and_no_line_is_longer_than_the_terminal(
    tmp_path: Path, command: str, width: int
) -> None:
    tables = [part for part in COMMANDS[command](tmp_path) if isinstance(part, FoldingTable)]
    assert tables
    for table in tables:
        said = printed(table, width)
        assert max(map(len, said.splitlines())) <= width
        for cell, count in cells(table).items():
            assert len(re.findall(rf"(?<!\S){re.escape(cell)}(?!\S)", said)) >= count, (cell, said)


def test_a_table_with_room_is_one_and_a_narrow_one_repeats_the_names() -> None:
    table = FoldingTable()
    table.add_column("linear")
    for header in ("count", "shape", "ratio"):
        table.add_number(header, joined=header == "shape")
    table.add_row("up_proj", "30", "1536×576", "0.400")
    wide, narrow = printed(table, 80), printed(table, 30)
    assert wide.count("up_proj") == 1 and narrow.count("up_proj") == 2
    first, second = narrow.split("ratio")
    assert re.search(r"up_proj +30 +1536×576", first) and "0.400" in second


def test_a_name_breaks_before_a_number_is_cut() -> None:
    table = FoldingTable()
    table.add_column("linear")
    table.add_number("perplexity")
    table.add_row("model.layers.0.self_attn.q_proj", "123456.78")
    said = printed(table, 24)
    assert "123456.78" in said and "…" not in said
    assert " perplexity " in said and "model" in said
    assert "model.layers.0.self_attn.q_proj" in re.sub(r"\s|123456.78", "", said)


def test_every_table_of_numbers_folds() -> None:
    """The only ordinary table is that of `doctor`, whose texts break."""
    folder = ROOT / "patch_compile" / "report" / "terminal"
    ordinary = [
        f"{path.name}: {line.strip()}"
        for path in sorted(folder.glob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"(?<!Folding)Table\(", line) and "class " not in line and path.name != "folding.py"
    ]
    assert len(ordinary) == 1 and "show_header=False" in ordinary[0]


@pytest.mark.parametrize(("columns", "width"), [(None, 120), ("60", 60)])
def test_a_pipe_is_as_wide_as_columns_says(
    columns: str | None, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    show([wide_table()])
    assert max(map(len, capsys.readouterr().out.splitlines())) in range(width - 15, width + 1)


def wide_table() -> Any:
    table = FoldingTable()
    table.add_column("name")
    for i in range(40):
        table.add_number(f"n{i:02}")
    table.add_row("x", *["1"] * 40)
    return table
