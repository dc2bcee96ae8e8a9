"""What the documentation promises about names: all public ones are listed, and those of other projects exist."""

import pydoc
import re
from pathlib import Path

import pytest

import scgpcl

DOCS = Path(__file__).parents[1] / "docs"
#: `None` looks like nothing found; scvi-tools imports its hub only where huggingface_hub is installed.
ABSENT = {"None", "scvi.hub.HubModel"}


def names_in(inventory):
    lines = inventory.read_text().splitlines()
    assert lines[0] == "# Sphinx inventory version 1"
    return [line.split()[0] for line in lines[3:]]


def test_every_public_name_is_in_the_api_pages():
    text = (DOCS / "api.md").read_text()
    listed = set(re.findall(r"^ {4}([\w.]+)$", text, flags=re.MULTILINE))
    for part in scgpcl.__all__:
        thing = getattr(scgpcl, part)
        if hasattr(thing, "__path__"):
            assert {f"{part}.{name}" for name in thing.__all__} <= listed, part
        elif part != "presets":
            assert part in listed
    for name in listed:
        thing = scgpcl
        for word in name.split("."):
            thing = getattr(thing, word)  # what is listed exists


@pytest.mark.parametrize("inventory", sorted((DOCS / "_inventories").glob("*.txt")), ids=lambda path: path.stem)
def test_names_of_other_projects_exist(inventory):
    names = names_in(inventory)
    assert names == sorted(names)
    missing = {name for name in names if name not in ABSENT and pydoc.locate(name) is None}
    assert not missing
