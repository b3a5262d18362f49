"""The promises' page names nothing that does not exist, and equals the stored measurements."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re

import pytest
from tests.bench import promises, store
from tests.bench.common import ROOT
from tests.bench.registry import BENCHMARKS

PAGE = promises.DOCUMENT.read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("|") and "](" in line]


def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test")}


def answer(name: str, **changes):
    row = {
        "promise": "a step | is short", "goal": "<= 1 ms", "value": 0.5, "unit": "ms", "n": 7, "low": 0.4, "high": 0.6,
        "holds": True, "note": "idle",
    }  # fmt: skip
    return {
        "name": name, "quick": False, "rows": [{**row, **changes}], "details": {}, "seconds": 1.0, "date": "2026-01-01",
        "load_before": 0.0, "load_after": 0.0, "cores": 2, "processor": "one", "hardware": "x",
        "python": "3", "torch": "2",
    }  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_run(name):
    module = importlib.import_module(f"tests.bench.{BENCHMARKS[name].module}")
    assert "quick" in inspect.signature(module.run).parameters
    assert module.__doc__


@pytest.mark.parametrize("held", promises.HELD, ids=lambda held: held.test.partition("::")[2])
def test_every_promise_that_a_test_holds_names_that_test(held):
    file, _, test = held.test.partition("::")
    assert test in names_in(file)


def test_every_row_of_the_page_leads_to_a_benchmark_or_a_test():
    assert ROWS
    for row in ROWS:
        last = row.rstrip("| ").rpartition("| ")[2]
        shown = re.match(r"\[`(?P<name>[^`]+)`\]\(\.\./(?P<path>tests/[^)]+)\)", last)
        assert shown, row
        assert (ROOT / shown["path"]).is_file(), row
        known = {f"tests/bench/{benchmark.module}.py": name for name, benchmark in BENCHMARKS.items()}
        assert known.get(shown["path"]) == shown["name"] or shown["name"] in names_in(shown["path"]), row


def test_the_page_equals_the_measurement():
    """If this fails: ``python -m tests.bench --write``, or undo an edit inside the page's tables."""
    assert promises.rendered(PAGE, store.read()) == PAGE


def test_tables_are_made_from_what_is_stored(tmp_path):
    good, bad = answer("memory"), answer("envelope", holds=False, value=2.0, promise="an envelope is light")
    figure = answer("telemetry", holds=None, goal="", promise="a figure")
    for each in (good, bad, figure):
        store.write(each, tmp_path)
    text = promises.rendered(PAGE, store.read(tmp_path))
    broken = text[text.index("measured: does-not-hold") : text.index("## Promises")]
    assert "an envelope is light" in broken
    assert "short" not in broken
    rows = text[text.index("measured: promises") : text.index("### What to know")].splitlines()
    (row,) = [line for line in rows if "a step / is short" in line]
    assert "0.5 ms [0.4, 0.6], n=7" in row
    assert "holds" in row
    assert not any("a figure" in line for line in rows)
    assert "a figure" in text[text.index("measured: figures") :]


def test_a_quick_measurement_says_so(tmp_path):
    store.write({**answer("memory"), "quick": True}, tmp_path)
    assert "n=7 (quick run)" in promises.rendered(PAGE, store.read(tmp_path))


def test_update_leaves_the_words_around_the_tables_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n" + PAGE, encoding="utf-8")
    store.write(answer("memory"), tmp_path / "stored")
    promises.update(page, tmp_path / "stored")
    after = page.read_text(encoding="utf-8")
    assert after.startswith("before\n")
    assert "a step / is short" in after


@pytest.mark.parametrize("damage", ["", "promises", "twice"])
def test_a_page_without_its_tables_is_refused(damage):
    if damage == "twice":
        text = PAGE + "<!-- measured: notes -->\n<!-- end measured -->\n"
    else:
        text = PAGE.replace(f"measured: {damage or 'notes'} ", "measured: nobody ")
    with pytest.raises(ValueError, match="tables"):
        promises.rendered(text, {})


def test_stored_numbers_keep_six_digits_and_other_values_their_bits(tmp_path):
    found = {**answer("memory"), "details": {"x": [1 / 3, 123456789, True, None, "1.23456789"]}}
    path = store.write(found, tmp_path)
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["details"]["x"] == [0.333333, 123456789, True, None, "1.23456789"]
    assert store.read(tmp_path)["memory"] == stored
