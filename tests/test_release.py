"""What a release and scverse's list of packages ask for: versions that agree, files that are there, workflows that install."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yaml").read_text())


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    entry = yaml.safe_load((ROOT / ".github" / "meta.yaml").read_text())
    assert str(citation["version"]) == str(entry["version"]) == PROJECT["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[({re.escape(PROJECT['version'])}|Unreleased)\]", changelog, flags=re.MULTILINE)


def test_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] in PROJECT["license"]  # which adds those of bundled files
    assert citation["preferred-citation"]["doi"] in (ROOT / "README.md").read_text()


def test_entry_for_the_list_of_scverse_is_complete():
    entry = yaml.safe_load((ROOT / ".github" / "meta.yaml").read_text())
    required = {
        "name",
        "description",
        "project_home",
        "documentation_home",
        "install",
        "tags",
        "license",
        "version",
        "contact",
    }
    assert required <= set(entry)
    assert entry["name"] == PROJECT["name"]


def test_build_installs_both_distributions_with_every_python_that_is_supported():
    supported = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    matrix = workflow("build")["jobs"]["install"]["strategy"]["matrix"]
    assert matrix["python"] == supported
    assert matrix["kind"] == ["whl", "tar.gz"]
    assert workflow("test")["jobs"]["test"]["strategy"]["matrix"]["python"] == supported


@pytest.mark.parametrize(
    "name", ["LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "CODE_OF_CONDUCT.md", "docs/releasing.md"]
)
def test_files_are_there(name):
    assert (ROOT / name).stat().st_size > 200
