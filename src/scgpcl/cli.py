"""The `scgpcl` command: arguments, printing and exit codes; the work is in `_workflow`."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scgpcl._workflow import Result

app = typer.Typer(
    help="Cluster single-cell RNA-seq counts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Preset(StrEnum):
    """Configurations to choose from."""

    default = "default"
    paper = "paper"


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"scgpcl {version('scgpcl')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Cluster single-cell RNA-seq counts."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for results and figures.")] = Path("scgpcl_demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """Cluster 2638 blood cells that come with the package and compare with their published types."""
    with _command():
        from scgpcl import _workflow

        result = _workflow.demo(out, seed=seed)
    _report(result, title="Blood cells (10x Genomics PBMC 3k)")


@app.command()
def cluster(
    input_path: Annotated[Path, typer.Argument(metavar="IN.h5ad", readable=False, help="Cells with raw counts.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.h5ad", help="File to write.")],
    n_clusters: Annotated[int | None, typer.Option(help="Number of clusters; estimated if not given.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the counts; X if not given.")] = None,
    batch_key: Annotated[str | None, typer.Option(help="Column of obs with batches.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    figures: Annotated[Path | None, typer.Option(help="Folder for figures and marker genes.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="REPORT.html", help="One HTML page with everything.")] = None,
    preset: Annotated[Preset, typer.Option(help="Configuration: ours, or the published one.")] = Preset.default,
) -> None:
    """Cluster the cells of an h5ad file and write them, with the results, to another one."""
    with _command():
        from scgpcl import _workflow

        result = _workflow.cluster_file(
            input_path,
            output,
            n_clusters=n_clusters,
            layer=layer,
            batch_key=batch_key,
            seed=seed,
            figures=figures,
            report=report,
            preset=preset.value,
        )
    _report(result, title=str(output.name))


@contextmanager
def _command() -> Iterator[None]:
    """Run a command: figures without a display, no messages meant for programmers, one line for an error."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    lightning.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            from scgpcl import _workflow

            try:
                yield
            except _workflow.InputError as error:
                typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
                raise typer.Exit(2) from None
    finally:
        lightning.setLevel(level)


def _report(result: "Result", *, title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text: a name with square brackets would be read as a style.
    table = Table(title=Text(title), title_justify="left")
    for column in map(str, result.table):
        table.add_column(column.replace("_", " "), justify="right" if column in ("size", "share") else "left")
    for row in result.table.to_dict("records"):
        table.add_row(*(Text(f"{value:.0%}" if name == "share" else str(value)) for name, value in row.items()))
    console = Console()
    console.print(table)
    if result.scores:
        console.print("  ".join(f"{name} {value:.3f}" for name, value in result.scores.items()))
    console.print(f"{result.seconds:.0f} s to train. Written:")
    for path in result.files:
        typer.echo(f"  {path}")
