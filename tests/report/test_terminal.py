"""Tables fit any terminal, and nothing in a result can command it."""

import io
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from patch_compile.report.linears import map_of_tiles
from patch_compile.report.section import Column, Section, Table
from patch_compile.report.terminal import Sections, show
from tests.artifacts.examples import learned_answer

cells = st.text("0123456789.×…", min_size=1, max_size=20)
tables = st.integers(1, 14).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=4)
)


def printed(section: Section, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(Sections([section]))
    return console.export_text()


@given(tables, st.sampled_from([40, 60, 80]))
def test_numbers_are_whole_and_lines_fit(rows, width):
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(len(rows))]
    columns = [Column(f"n{i}", over="ms" * (i % 3 > 0)) for i in range(len(rows[0]))]
    table = Table(
        [Column("linear", words=True), *columns],
        [[name, *row] for name, row in zip(names, rows, strict=True)],
    )
    said = printed(Section(tables=[table]), width)
    assert max(map(len, said.splitlines())) <= width
    found = Counter(said.split())
    assert all(found[cell] >= count for cell, count in Counter(cell for row in rows for cell in row).items())
    assert all(column.title in said for column in columns)


def test_a_name_breaks_before_a_number_is_cut():
    table = Table(
        [Column("linear", words=True), "perplexity"], [["model.layers.0.self_attn.q_proj", "123456.78"]]
    )
    said = printed(Section(tables=[table]), 24)
    assert "123456.78" in said and "…" not in said
    assert "model.layers.0.self_attn.q_proj" in re.sub(r"\s|123456.78|─", "", said)


def test_a_terminal_obeys_no_name():
    evil = "\x1b[2J\nname[red]"
    section = Section(
        evil, facts=[(evil, evil)], tables=[Table([Column(evil, words=True)], [[evil]])], lines=[evil]
    )
    said = printed(section, 80)
    assert "\x1b" not in said and said.count("\\x1b[2J\\nname[red]") == 6


@pytest.mark.parametrize(("columns", "width"), [(None, 120), ("60", 60)])
def test_a_pipe_is_as_wide_as_columns_says(columns, width, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    table = Table([Column("name", words=True), *(f"n{i:02}" for i in range(40))], [["x", *["1"] * 40]])
    show([Section(tables=[table])])
    assert max(map(len, capsys.readouterr().out.splitlines())) in range(width - 15, width + 1)


def test_a_model_without_blocks_has_no_map():
    assert map_of_tiles(learned_answer({"lm_head": np.ones((1, 1), bool)}).where_sparse) == Section()
