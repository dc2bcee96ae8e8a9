"""The ``scgpcl`` command: options, output and exit codes. The work is done in ``_workflow`` and ``benchmark``."""

import inspect
import logging
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from scgpcl import _keys
from scgpcl._rules import MAX_MISSING, MAX_SEED

if TYPE_CHECKING:
    import pandas as pd

    from scgpcl._workflow import Result

app = typer.Typer(
    help="Cluster single-cell RNA-seq counts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

#: Python arguments that are also options of some command. Messages that mention them are translated.
OPTIONS = (
    "batch_key", "datasets", "genes", "labels", "layer", "levels", "markers", "max_missing", "methods", "max_novelty", "min_confidence", "min_counts",
    "n", "n_clusters", "preset", "raw", "retry_errors", "scib", "seed", "seeds", "support", "threads", "timeout", "transform_batch",
)  # fmt: skip


#: Advice for Python users in messages, and the advice that replaces it on the command line.
ADVICE = {
    "Remove them: `sc.pp.filter_cells(adata, min_counts=1)`": "Pass `min_counts=1` to leave them out",
    "`model.get_tree()` shows them": "Choose one of these",
    "`cluster`": "CLUSTER",
}


class Side(StrEnum):
    """Side of a table that lists the genes."""

    rows = "rows"
    columns = "columns"


class Preset(StrEnum):
    """Names of the available configurations."""

    default = "default"
    paper = "paper"


#: Options that several commands share.
Inputs = Annotated[
    list[Path], typer.Argument(metavar="IN...", readable=False, help="One or more files or folders with raw counts.")
]
MaybeInputs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[IN...]",
        readable=False,
        help="Files or folders with raw counts; by default the cells that were saved with the model.",
    ),
]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a saved model.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="OUT.h5ad", help="File to write.")]
Layer = Annotated[str | None, typer.Option(help="Layer with the counts; detected by default.")]
Raw = Annotated[bool, typer.Option("--raw", help="Take the counts from raw.")]
Genes = Annotated[
    Side | None, typer.Option(help="Whether genes are rows or columns of a csv or tsv table; detected by default.")
]
MinCounts = Annotated[int | None, typer.Option(min=1, help="Leave out cells with fewer counts.")]
TransformBatch = Annotated[str | None, typer.Option(help="Batch of the model to assign all cells to.")]
MaxMissing = Annotated[
    float, typer.Option(min=0, max=0.99, help="Largest share of the model's genes that may be missing.")
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Random seed.")]
MinConfidence = Annotated[
    float | None, typer.Option(min=0, max=1, help="Label cells with lower confidence as unassigned.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]


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
    out: Annotated[Path, typer.Option(help="Folder for the results and figures.")] = Path("scgpcl_demo"),
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the files of an earlier run.")] = False,
    quiet: Quiet = False,
) -> None:
    """Cluster 2638 bundled blood cells and compare the clusters with the published types."""
    with _command(demo), _shown_log("scgpcl", quiet=quiet):
        from scgpcl import _workflow

        result = _workflow.demo(out, seed=seed, force=force, progress=not quiet)
    if not quiet:
        _report(result, title="Blood cells (10x Genomics PBMC 3k)")


@app.command()
def cluster(
    inputs: Inputs,
    output: Output,
    n_clusters: Annotated[str, typer.Option(metavar="auto|N", help="Number of clusters; auto estimates it.")] = "auto",
    levels: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Also write the clusters of these levels of the tree.")
    ] = None,
    layer: Layer = None,
    raw: Raw = False,
    genes: Genes = None,
    min_counts: MinCounts = None,
    batch_key: Annotated[
        str | None, typer.Option(help="Column of obs with batches; by default, each of several inputs is a batch.")
    ] = None,
    seed: Seed = 0,
    figures: Annotated[Path | None, typer.Option(help="Folder for figures and marker genes.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="REPORT.html", help="HTML page to write.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to save the model to, for scgpcl cut, subcluster and map."),
    ] = None,
    markers: Annotated[
        Path | None,
        typer.Option(metavar="MARKERS.csv", help="Table of cell types and their marker genes, used to name clusters."),
    ] = None,
    stability: Annotated[
        bool,
        typer.Option("--stability", help="Also report how stable clusters are when molecules or cells are left out."),
    ] = False,
    preset: Annotated[Preset, typer.Option(help="Configuration: default, or as published.")] = Preset.default,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Cluster the cells of a file and write them, with the results, to an h5ad file.

    Supports h5ad, zarr, loom, csv and tsv files, as well as .h5 files and matrix.mtx folders from Cell Ranger.
    """
    _check_inputs(inputs)
    with _command(cluster), _shown_log("scgpcl", quiet=quiet):
        from scgpcl import _workflow

        result = _workflow.cluster_file(
            inputs,
            output,
            n_clusters=_number_or_auto(n_clusters),
            levels=_numbers(levels),
            layer=layer,
            raw=raw,
            genes=None if genes is None else genes.value,
            min_counts=min_counts,
            batch_key=batch_key,
            seed=seed,
            figures=figures,
            report=report,
            model_path=model,
            markers=markers,
            stability=stability,
            preset=preset.value,
            force=force,
            progress=not quiet,
        )
    if not quiet:
        _report(result, title=str(output.name))


@app.command(name="map")
def map_cells(
    model: ModelFolder,
    inputs: Inputs,
    output: Output,
    layer: Layer = None,
    raw: Raw = False,
    genes: Genes = None,
    min_counts: MinCounts = None,
    transform_batch: TransformBatch = None,
    max_missing: MaxMissing = MAX_MISSING,
    min_confidence: MinConfidence = None,
    max_novelty: Annotated[
        float | None, typer.Option(min=0, help="Label cells with a higher novelty as unassigned.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Label the cells of a file with a saved model and write them, with the results, to an h5ad file.

    Supports the same input formats as ``scgpcl cluster``. Only load models that you trust or that were saved with
    safe=True.
    """
    _check_inputs(inputs)
    with _command(map_cells), _shown_log("scgpcl", quiet=quiet):
        from scgpcl import _workflow

        result = _workflow.map_file(
            model,
            inputs,
            output,
            layer=layer,
            raw=raw,
            genes=None if genes is None else genes.value,
            min_counts=min_counts,
            transform_batch=transform_batch,
            max_missing=max_missing,
            min_confidence=min_confidence,
            max_novelty=max_novelty,
            force=force,
        )
    if not quiet:
        _report(result, title=str(output.name), task="Labelling")


@app.command()
def cut(
    model: ModelFolder,
    output: Output,
    inputs: MaybeInputs = None,
    n_clusters: Annotated[int | None, typer.Option("--n-clusters", "--n", help="Number of clusters.")] = None,
    support: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Make every split with at least this support, instead of giving a number."),
    ] = None,
    layer: Layer = None,
    raw: Raw = False,
    genes: Genes = None,
    min_counts: MinCounts = None,
    transform_batch: TransformBatch = None,
    max_missing: MaxMissing = MAX_MISSING,
    min_confidence: MinConfidence = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Use a saved model to label cells with another number of clusters, without training, and write an h5ad file.

    Uses a level of the tree of clusters that was built during training. Only load models that you trust or that were
    saved with safe=True.
    """
    _check_inputs(inputs or [])
    with _command(cut), _shown_log("scgpcl", quiet=quiet):
        from scgpcl import _workflow

        result = _workflow.cut_file(
            model,
            inputs or [],
            output,
            n_clusters=n_clusters,
            support=support,
            layer=layer,
            raw=raw,
            genes=None if genes is None else genes.value,
            min_counts=min_counts,
            transform_batch=transform_batch,
            max_missing=max_missing,
            min_confidence=min_confidence,
            force=force,
        )
    if not quiet:
        _report(result, title=str(output.name), task="Labelling")


@app.command()
def subcluster(
    model: ModelFolder,
    cluster: Annotated[str, typer.Argument(metavar="CLUSTER", help="Name of the cluster to divide.")],
    output: Output,
    inputs: MaybeInputs = None,
    n: Annotated[int | None, typer.Option(help="Number of parts; estimated by default.")] = None,
    layer: Layer = None,
    raw: Raw = False,
    genes: Genes = None,
    min_counts: MinCounts = None,
    min_confidence: MinConfidence = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Divide one cluster of a saved model using genes chosen from its cells, and write the cells to an h5ad file.

    The other clusters and the model are not changed. Only load models that you trust or that were saved with safe=True.
    """
    _check_inputs(inputs or [])
    with _command(subcluster), _shown_log("scgpcl", quiet=quiet):
        from scgpcl import _workflow

        result = _workflow.subcluster_file(
            model,
            cluster,
            inputs or [],
            output,
            n=n,
            layer=layer,
            raw=raw,
            genes=None if genes is None else genes.value,
            min_counts=min_counts,
            min_confidence=min_confidence,
            force=force,
        )
    if not quiet:
        _report(result, title=str(output.name), task="Labelling")


@app.command()
def benchmark(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="h5ad files, or folders with h5ad files.")],
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated methods; all built-in methods by default.")
    ] = None,
    labels: Annotated[
        str, typer.Option(help="Column of obs with published types; used for scoring only.")
    ] = "cell_type",
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for results; finished runs are not repeated.")] = Path(
        "scgpcl_benchmark"
    ),
    batch_key: Annotated[str | None, typer.Option(help="Column of obs with batches.")] = None,
    n_clusters: Annotated[
        str, typer.Option(help="known: pass the true number; auto: let each method estimate it.")
    ] = "known",
    datasets: Annotated[str | None, typer.Option(help="Comma-separated names of data sets; all by default.")] = None,
    register: Annotated[list[Path] | None, typer.Option(help="Python file that registers your own methods.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads per run; all processors by default.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a run is stopped; no limit by default.")
    ] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Repeat runs that failed.")] = False,
    scib: Annotated[bool, typer.Option("--scib", help="Also score latent spaces with scib-metrics.")] = False,
) -> None:
    """Compare methods on labelled data sets, and write scores, run time and memory, a summary and figures."""
    for path in data:
        if not path.exists():
            _refuse(f"Expected an h5ad file or a folder, found nothing at {path}. Check the path.")
    with _command(benchmark), _shown_log("scgpcl.benchmark"):
        from scgpcl.benchmark import _registry, _run

        for path in register or []:
            _registry.import_file(path)
        table = _run.run(
            data,
            _run.METHODS if methods is None else _words(methods),
            out=out,
            labels=labels,
            seeds=seeds,
            batch_key=batch_key,
            n_clusters=n_clusters,  # type: ignore[arg-type]  # checked by run
            datasets=None if datasets is None else _words(datasets),
            threads=threads,
            timeout=timeout,
            retry_errors=retry_errors,
            scib=scib,
        )
    _report_benchmark(table, out)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str | None) -> list[int]:
    """Return the distinct whole numbers in a comma-separated list."""
    words = [] if text is None else _words(text)
    if text is not None and not (words and all(word.isdecimal() for word in words)):
        _refuse(
            f"Expected --levels to be whole numbers with commas, found {text!r}. Pass some, such as --levels 5,10,20."
        )
    return list(dict.fromkeys(map(int, words)))


def _number_or_auto(text: str) -> int | None:
    """Return the number of clusters, or None if it is to be estimated."""
    if text != "auto" and not re.fullmatch(r"-?\d+", text):
        _refuse(f"Expected --n-clusters to be auto or a whole number, found {text!r}.")
    return None if text == "auto" else int(text)


@contextmanager
def _shown_log(name: str, *, quiet: bool = False) -> Iterator[None]:
    """Print the messages of a logger to standard error, unless ``quiet``."""
    if quiet:
        yield
        return

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            typer.echo(self.format(record), err=True)

    logger, handler = logging.getLogger(name), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _check_inputs(paths: list[Path]) -> None:
    """Reject missing files or folders before any large packages are imported."""
    from scgpcl._read import FORMATS

    for path in paths:
        if not path.exists():
            _refuse(f"Expected {FORMATS}, found nothing at {path}. Check the path.")


def _refuse(message: str) -> NoReturn:
    """Print an error on one line and exit with code 2."""
    typer.echo(f"Error: {' '.join(message.split())}", err=True)
    raise typer.Exit(2)


def _for_shell(message: str, options: Collection[str] = OPTIONS) -> str:
    """Replace Python arguments with options. For example, "Pass ``layer=None``" becomes "Leave out --layer".

    Advice to pass arguments that are not among the ``options`` of the command is left out.
    """

    def option(match: re.Match[str]) -> str:
        name, value = match[1], match[2] or ""
        return f"--{name.replace('_', '-')} {value}".rstrip() if name in options else match[0]

    for python, shell in ADVICE.items():
        if not set(OPTIONS).intersection(re.findall(r"`(\w+)=", shell)).difference(options):
            message = message.replace(python, shell)
    message = _without_advice(message, set(OPTIONS).difference(options))
    message = re.sub(r"Pass `(\w+)=None`", r"Leave out `\1`", message)
    message = re.sub(r"pass `(\w+)=None`", r"leave out `\1`", message)
    return re.sub(r"`(\w+)(?:='?([^'`]*)'?)?`", option, message.replace("Pass None to", "Leave it out to"))


def _without_advice(message: str, names: Collection[str]) -> str:
    """Leave out the alternatives, or else the whole sentences, that advise to pass one of the named arguments."""
    if not names:
        return message
    argument = rf"`(?:{'|'.join(sorted(names))})(?:=[^`]*)?`[^.,;:]*"
    # "Pass `x=1` to do this, or do that." becomes "Do that.", and "Do this, or pass `x=1`." becomes "Do this."
    message = re.sub(rf"Pass {argument}, or (\w)", lambda match: match[1].upper(), message)
    message = re.sub(rf"(,? or|[:;]) pass [^.,;:`]*{argument}", "", message)
    first, *others = re.split(r"(?<=[.!?]) (?=[A-Z])", message)
    return " ".join([first, *(one for one in others if not re.search(rf"\b[Pp]ass [^.;:]*{argument}", one))])


def _end(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


@contextmanager
def _command(command: Callable[..., None]) -> Iterator[None]:
    """Run a command without a display, hide warnings meant for programmers, and print others and errors on one line."""
    options = set(OPTIONS).intersection(inspect.signature(command).parameters)

    def warn(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        typer.echo(f"Warning: {' '.join(_for_shell(str(message), options).split())}", err=True)

    os.environ.setdefault("MPLBACKEND", "Agg")
    main = threading.current_thread() is threading.main_thread()
    # turn SIGTERM into an exception, so that unfinished files are removed
    before = signal.signal(signal.SIGTERM, _end) if main else None
    # Lightning reports devices, and scvi-tools a file that need not be downloaded
    levels = {one: one.level for one in map(logging.getLogger, ("lightning.pytorch", "scvi.data._download"))}
    for one in levels:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            warnings.showwarning = warn
            from scgpcl._files import InputError

            try:
                yield
            except KeyboardInterrupt:
                typer.echo("Interrupted; no incomplete files were left behind.", err=True)
                raise typer.Exit(130) from None
            except InputError as error:
                _refuse(_for_shell(str(error), options))
    finally:
        for one, level in levels.items():
            one.setLevel(level)
        if main:
            signal.signal(signal.SIGTERM, before)


def _report(result: "Result", *, title: str, task: str = "Training") -> None:
    """Print the table of clusters, the scores and the list of files."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # as Text, because rich reads square brackets in a string as a style
    table = Table(title=Text(title), title_justify="left")
    for column in map(str, result.table):
        right = column in ("size", "share", *_keys.STABILITIES)
        table.add_column(column.replace("_", " "), justify="right" if right else "left")
    for row in result.table.to_dict("records"):
        formats = {"share": ".0%", **dict.fromkeys(_keys.STABILITIES, ".2f")}
        table.add_row(
            *(Text(format(value, formats[name]) if name in formats else str(value)) for name, value in row.items())
        )
    console = Console()
    console.print(table)
    if result.scores:
        console.print("  ".join(f"{name} {value:.3f}" for name, value in result.scores.items()))
    console.print(f"{task} took {result.seconds:.0f} s. Files written:")
    for path in result.files:
        typer.echo(f"  {path}")


def _shown(value: float, digits: int) -> str:
    return "" if value != value else f"{value:.{digits}f}"


def _report_benchmark(runs: "pd.DataFrame", out: Path) -> None:
    """Print the means over data sets and the list of files."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from scgpcl.benchmark._tables import method_table

    methods = method_table(runs)
    table = Table(title=Text(f"Means over {runs['dataset'].nunique()} data sets"), title_justify="left")
    table.add_column("method")
    digits = {"sets": 0, "ari": 3, "nmi": 3, "acc": 3, "wins": 0, "seconds": 1, "failed": 0}
    for column in digits:
        table.add_column(column, justify="right")
    for row in methods.itertuples():
        table.add_row(Text(str(row.Index)), *(_shown(getattr(row, column), n) for column, n in digits.items()))
    Console().print(table)
    typer.echo("Files written:")
    for path in sorted(path for path in out.iterdir() if path.is_file()):
        typer.echo(f"  {path}")
