"""What the package needs: all of it declared, and each with a reason that users can read."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import scgpcl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REASONS = (ROOT / "docs" / "installation.md").read_text().split("## Dependencies")[1].split("\n## ")[0]
#: Names of imports that are not those of their packages.
PACKAGES = {"igraph": "igraph", "sklearn": "scikit-learn", "scvi": "scvi-tools", "umap": "umap-learn"}


def names(requirements) -> set[str]:
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


@pytest.mark.parametrize("extra", [None, *PROJECT["optional-dependencies"]])
def test_every_dependency_has_a_reason(extra):
    wanted = names(PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra])
    rows = [row for row in REASONS.splitlines() if row.startswith("| ") and (extra is None or f"`{extra}`" in row)]
    explained = {word for row in rows for word in re.findall(r"[\w-]+", row.split("|")[1])}
    assert wanted <= explained, wanted - explained


def test_everything_that_is_imported_is_declared_or_named():
    declared = names(PROJECT["dependencies"]) | names(sum(PROJECT["optional-dependencies"].values(), []))
    for path in Path(scgpcl.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in (
                {name.split(".")[0] for name in found} - {"scgpcl", "__future__"} - set(sys.stdlib_module_names)
            ):
                package = PACKAGES.get(name, name.replace("_", "-"))
                assert package in declared or package in REASONS, (path, package)
