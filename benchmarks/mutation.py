"""Small mutation testing: change one operator or constant at a time and see whether a test notices.

    python -m benchmarks.mutation src/scgpcl/nn src/scgpcl/cluster src/scgpcl/data --sample 20 --log mutation.tsv

The changed source stands in a temporary copy of the package; the tree stays as it is. A mutant that no test notices
"survives": it shows a line that no test holds, or a change that means nothing. Each mutant is tried in a fork of a process
that has imported everything but the package, so that it costs the time of its tests alone. A log is added to and what
stands in it is not tried again; ``--only-survivors`` tries its survivors again, to see whether new tests notice them.
"""

import argparse
import ast
import collections
import copy
import csv
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

#: Imported once, before the forks.
HEAVY = ("anndata", "hypothesis.strategies", "lightning.pytorch", "pandas", "pytest", "scanpy", "scipy.sparse", "scvi.distributions",
         "scvi.model.base", "sklearn.cluster", "sklearn.metrics", "torch", "torch_geometric.nn", "yaml")  # fmt: skip
#: Tests of each source, the nearest first; those of a folder are tried after those of its files.
TESTS = {
    "nn/_graph": ["nn/test_aggregate.py", "nn/test_encoder.py"],
    "nn/_assignment": ["nn/test_losses.py"],
    "nn/_contrast": ["nn/test_losses.py", "nn/test_batches.py", "nn/test_neighbors.py", "nn/test_complexity.py"],
    "nn/_layers": [
        "nn/test_norm.py",
        "nn/test_aggregate.py",
        "nn/test_encoder.py",
        "nn/test_batches.py",
        "robustness/test_degenerate_input.py",
    ],
    "nn/_decoder": ["nn/test_batches.py", "model/test_denoising.py"],
    "nn/_encoder": ["nn/test_encoder.py", "nn/test_batches.py"],
    "nn/_features": ["nn/test_aggregate.py", "nn/test_encoder.py", "nn/test_batches.py"],
    "nn/_zinb": ["nn/test_zinb.py", "robustness/test_numbers.py"],
    "cluster/_scores": ["cluster/test_kmeans.py"],
    "cluster/_start": ["cluster/test_start.py"],
    "cluster/_kmeans": ["cluster/test_kmeans.py", "cluster/test_start.py"],
    "cluster/_n_clusters": ["cluster/test_n_clusters.py"],
    "data/_datamodule": ["data/test_datamodule.py"],
    "data/_cells": ["nn/test_aggregate.py", "nn/test_encoder.py", "data"],
    "data/_hetero": ["data/test_data.py"],
    "data/_loader": ["data", "model/test_processes.py"],
    "data/_splitter": ["data", "model/test_scvi_tools.py", "nn/test_devices.py", "model/test_processes.py"],
}

COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def changes(node):
    """Changed copies of a node."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARE:
        new = copy.deepcopy(node)
        new.ops[0] = COMPARE[type(node.ops[0])]()
        yield new
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        new = copy.deepcopy(node)
        new.op = ARITHMETIC[type(node.op)]()
        yield new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield copy.deepcopy(node.operand)
    elif isinstance(node, ast.BoolOp):
        new = copy.deepcopy(node)
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield new
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)


def mutants(source):
    """Line, description and source of every mutant; types and what only type checkers read are left alone."""
    tree = ast.parse(source)
    left_alone = set()
    for node in ast.walk(tree):
        parts = [node.annotation] if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation else []
        parts += [node.returns] if isinstance(node, ast.FunctionDef) and node.returns else []
        parts += node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) else []
        parts += [node.value] if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) else []
        left_alone |= {id(inner) for part in parts for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in left_alone:
            continue
        for new in changes(node):
            yield node.lineno, " ".join(f"{ast.unparse(node)} -> {ast.unparse(new)}".split()), _with(tree, node, new)


def _with(tree, node, new):
    """Source of a tree in which one node is replaced; the tree is as before afterwards."""
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is node:
                setattr(parent, field, new)
                text = ast.unparse(tree)
                setattr(parent, field, node)
                return text
            if isinstance(value, list) and any(item is node for item in value):
                at = next(i for i, item in enumerate(value) if item is node)
                value[at] = new
                text = ast.unparse(tree)
                value[at] = node
                return text
    raise ValueError(node)


def noticed_by(package, tests, timeout):
    """The first of some tests that fails with the package in a folder, or None."""
    for test in tests:
        child = os.fork()
        if child == 0:
            _try(package, test)
        if _status(child, timeout) != 0:
            return test
    return None


def _try(package, test):
    """Run tests and end this process with their status."""
    status = 2
    try:
        sys.path[:0] = [str(package), os.getcwd()]
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
        sys.dont_write_bytecode = True
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        # plugins that the parent has imported cannot be prepared for better messages, of which pytest would warn
        options = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        status = int(importlib.import_module("pytest").main([*options, test]))
    finally:
        os._exit(status)


def _status(child, timeout):
    """Exit status of a process, which is ended if it takes too long."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def name_of(file):
    """``nn/_zinb`` of a source."""
    return f"{file.parent.name}/{file.stem}"


def drawn(file, sample, seed):
    """Mutants of a source, at most so many."""
    found = list(mutants(file.read_text()))
    return found if sample is None or sample >= len(found) else random.Random(seed).sample(found, sample)


def read_log(path):
    """Last outcome of each mutant in a log."""
    if path is None or not path.exists():
        return {}
    with path.open(newline="") as file:
        return {tuple(row[:3]): row for row in csv.reader(file, delimiter="\t")}


def table_of(rows):
    """Markdown table: mutants and survivors of each source."""
    counts = collections.Counter((row[0], row[3] == "survived") for row in rows)
    lines = ["| source | mutants | noticed | survived |", "| --- | ---: | ---: | ---: |"]
    total = [0, 0]
    for name in sorted({row[0] for row in rows}):
        noticed, survived = counts[name, False], counts[name, True]
        total = [total[0] + noticed, total[1] + survived]
        lines.append(f"| `{name}` | {noticed + survived} | {noticed} | {survived} |")
    return "\n".join([*lines, f"| all | {sum(total)} | {total[0]} | {total[1]} |", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="files or folders below src/scgpcl")
    parser.add_argument("--tests", nargs="+", help="in place of those that belong to each source")
    parser.add_argument("--sample", type=int, help="mutants to draw of each source; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds after which a mutant counts as noticed")
    parser.add_argument("--log", type=Path, help="tab-separated file: source, line, change, outcome")
    parser.add_argument("--only-survivors", action="store_true")
    arguments = parser.parse_args()
    for name in HEAVY:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    files = [f for p in arguments.sources for f in ([p] if p.is_file() else sorted(p.glob("_*.py")))]
    files = [file for file in files if file.name != "__init__.py"]
    known = read_log(arguments.log)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree("src", folder, dirs_exist_ok=True)
        for file in files:
            _test_source(file, folder, arguments, known)
    sys.stdout.write(table_of([row for row in known.values() if row[0] in set(map(name_of, files))]))


def _test_source(file, folder, arguments, known):
    """Try the mutants of a source that are to be tried, and add what came of them to what is known and to the log."""
    name, target = name_of(file), Path(folder) / file.relative_to("src")
    tests = arguments.tests or [f"tests/{test}" for test in TESTS[name]]
    wanted = [
        mutant
        for mutant in drawn(file, arguments.sample, arguments.seed)
        if known.get((name, str(mutant[0]), mutant[1]), ["untried"])[-1]
        == ("survived" if arguments.only_survivors else "untried")
    ]
    if not wanted:
        return
    if (failed := noticed_by(folder, tests, arguments.timeout)) is not None:
        sys.exit(f"{failed} fails without any change.")
    original = target.read_text()
    for line, what, text in wanted:
        target.write_text(text)
        test = noticed_by(folder, tests, arguments.timeout)
        target.write_text(original)
        row = [name, str(line), what, "survived" if test is None else test]
        known[tuple(row[:3])] = row
        sys.stdout.write("\t".join(row) + "\n")
        sys.stdout.flush()
        if arguments.log is not None:
            with arguments.log.open("a", newline="") as log:
                csv.writer(log, delimiter="\t").writerow(row)


if __name__ == "__main__":
    main()
