"""What the documentation promises about names: all public ones are listed, and those of other projects exist."""

import pydoc
import re
import shlex
import tomllib
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
import scipy.io
import typer
from typer.testing import CliRunner

import scgpcl
from scgpcl.cli import app

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


def test_places_of_the_code_map_exist():
    """Each file in the table of the page for contributors exists, and the objects named beside it are in it."""
    section = (DOCS / "contributing.md").read_text().split("### Where to look")[1].split("\n\n")[1]
    rows = [line.split("|")[2] for line in section.splitlines()[2:]]
    assert len(rows) > 10
    source = Path(scgpcl.__file__).parent
    for row in rows:
        names = re.findall(r"`([^`]+)`", row)
        files = [name for name in names if name.endswith(".py")]
        text = "".join((source / name).read_text() for name in files)
        everything = text + (source / "module" / "_module.py").read_text()
        for name in set(names) - set(files):
            assert re.search(rf"(class|def) {name.split('.')[-1]}\b", everything), name


@pytest.mark.parametrize("inventory", sorted((DOCS / "_inventories").glob("*.txt")), ids=lambda path: path.stem)
def test_names_of_other_projects_exist(inventory):
    names = names_in(inventory)
    assert names == sorted(names)
    missing = {name for name in names if name not in ABSENT and pydoc.locate(name) is None}
    assert not missing


PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "tasks").glob("*.md"))]
#: Pages whose Python runs from top to bottom.
RUN = ["README.md", *(f"docs/tasks/{path.name}" for path in sorted((DOCS / "tasks").glob("*.md")))]


def blocks(path, language):
    """Code of the blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(path):
    """Words of each command in the shell blocks of a page."""
    for block in blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_of_the_pages_exist(path):
    root = DOCS.parent
    targets = re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), flags=re.MULTILINE)
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    known = typer.main.get_command(app)
    for words in commands(path):
        name, *rest = words
        if name == "scgpcl":
            command = known.commands[rest[0]]
            command.make_parser(command.context_class(command)).parse_args(list(rest[1:]))  # refuses unknown options
        elif name == "make":
            assert {word for word in rest if "=" not in word} <= set(targets), words
        elif words[:2] == ["python", "-m"] and rest[1].startswith("benchmarks."):
            text = (root / f"{rest[1].replace('.', '/')}.py").read_text()
            for option in [word for word in rest if word.startswith("--")]:
                assert f'"{option}"' in text or "_study" in text or "_runs" in text, words
        elif "pip" in words:
            assert set(",".join(re.findall(r"scgpcl\[([\w,]+)\]", " ".join(words))).split(",")) - {""} <= set(extras), (
                words
            )
        else:
            assert name in ("cd", "git", "python"), words


@pytest.fixture
def files(tmp_path, monkeypatch, draw_counts):
    """Files of the names that the pages use, a model that trains for one epoch, and maps that cost nothing."""
    x, groups = draw_counts(300)
    genes = ["CD3D", "LYZ", "MT-CO1", "CD79A", *(f"gene{i}" for i in range(56))]
    cells = ad.AnnData(x, var=pd.DataFrame(index=genes), obs=pd.DataFrame({"group": groups.astype(str)}))
    cells.obs_names = [f"cell{i}" for i in range(300)]
    for name, part in (("reference", slice(150)), ("next_patient", slice(150, 300)), ("counts", slice(150)),
                       ("patient1", slice(100)), ("patient2", slice(100, 200)), ("patient3", slice(200, 300)),
                       ("large", slice(300)), ("a", slice(50)), ("b", slice(50, 100))):  # fmt: skip
        cells[part].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    folder = tmp_path / "filtered_feature_bc_matrix"
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", x[:150].T.astype(int))
    (folder / "genes.tsv").write_text("".join(f"{name}\t{name}\n" for name in genes))
    (folder / "barcodes.tsv").write_text("".join(f"cell{i}\n" for i in range(150)))
    monkeypatch.chdir(tmp_path)
    train = scgpcl.SCGPCL.train

    def short(self, max_epochs=None, **kwargs):
        train(self, max_epochs=1, accelerator="cpu", **{**kwargs, "enable_progress_bar": False})

    monkeypatch.setattr(scgpcl.SCGPCL, "train", short)
    monkeypatch.setattr("scgpcl.pl._map._make", lambda latent, **kwargs: latent[:, :2].copy())
    return tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", RUN)
def test_code_of_the_pages_runs(files, page):
    import matplotlib.pyplot as plt

    names = {}
    for number, block in enumerate(blocks(DOCS.parent / page, "python")):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
        plt.close("all")
    for words in commands(DOCS.parent / page):
        if words[:2] in (["scgpcl", "cluster"], ["scgpcl", "map"]):
            result = CliRunner().invoke(app, [*words[1:], "--force"])
            assert result.exit_code == 0, result.output
            plt.close("all")
