"""Small mutation testing: change one operator or constant at a time and see whether a test notices.

    python -m benchmarks.mutation src/scgpcl/cluster/_agreement.py --tests tests/cluster --sample 20

The changed source stands in a temporary copy of the package; the tree stays as it is. A mutant that no test notices
"survives": it shows a line that no test holds, or a change that means nothing.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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
            yield node.lineno, f"{ast.unparse(node)} -> {ast.unparse(new)}", _with(tree, node, new)


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


def survives(package, tests, timeout):
    """Whether all tests pass with the package in a folder."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), os.getcwd()]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        return subprocess.run(command, env=env, capture_output=True, timeout=timeout, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="sources below src/")
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--sample", type=int, help="mutants to draw; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds after which a mutant counts as noticed")
    arguments = parser.parse_args()
    found = [(file, *mutant) for file in arguments.files for mutant in mutants(file.read_text())]
    if arguments.sample is not None and arguments.sample < len(found):
        found = random.Random(arguments.seed).sample(found, arguments.sample)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree("src", folder, dirs_exist_ok=True)
        if not survives(folder, arguments.tests, arguments.timeout):
            sys.exit("The tests fail without any change.")
        alive = 0
        for file, line, what, text in found:
            target = Path(folder) / file.relative_to("src")
            original = target.read_text()
            target.write_text(text)
            survived = survives(folder, arguments.tests, arguments.timeout)
            target.write_text(original)
            alive += survived
            sys.stdout.write(f"{'survived' if survived else 'noticed '} {file}:{line}: {what}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(found) - alive} of {len(found)} mutants were noticed\n")


if __name__ == "__main__":
    main()
