"""The tool that changes sources: what it changes, and that every source has its tests."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = '''
def f(x: int = 1, y: "list[2]" = None) -> int:
    """A docstring with 3."""
    if x < 2 and not y:
        return -x * 4
    return True
'''


@pytest.fixture
def mutation(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.mutation")


def test_each_mutant_is_one_change_that_compiles(mutation):
    found = list(mutation.mutants(SOURCE))
    wanted = {"1 -> 2", "x < 2 -> x <= 2", "2 -> 3", "4 -> 5", "not y -> y", "-x * 4 -> -x / 4", "-x -> x", "True -> False",
              "x < 2 and (not y) -> x < 2 or not y"}  # fmt: skip
    assert {what for _, what, _ in found} == wanted
    plain = ast.unparse(ast.parse(SOURCE))
    for _, what, text in found:
        compile(text, "mutant", "exec")
        changed = [(a, b) for a, b in zip(plain.splitlines(), text.splitlines(), strict=True) if a != b]
        assert len(changed) == 1, what


def test_every_source_has_tests_that_exist(mutation):
    sources = {f"{part}/{file.stem}" for part in ("nn", "cluster", "data")
               for file in (ROOT / "src" / "scgpcl" / part).glob("_[a-z]*.py")}  # fmt: skip
    assert set(mutation.TESTS) == sources
    assert all((ROOT / "tests" / test).exists() for tests in mutation.TESTS.values() for test in tests)


def test_the_table_counts_what_the_log_holds(mutation, tmp_path):
    rows = [
        "nn/_a\t3\t1 -> 2\tsurvived",
        "nn/_a\t4\t1 -> 2\ttests/nn",
        "nn/_a\t3\t1 -> 2\ttests/nn",
        "nn/_b\t1\tx\tsurvived",
    ]
    (tmp_path / "log").write_text("\n".join(rows))
    known = mutation.read_log(tmp_path / "log")
    assert mutation.read_log(tmp_path / "none") == {}
    lines = mutation.table_of(known.values()).splitlines()
    assert lines[2:] == ["| `nn/_a` | 2 | 2 | 0 |", "| `nn/_b` | 1 | 0 | 1 |", "| all | 3 | 2 | 1 |"]
