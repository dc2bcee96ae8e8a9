"""What the command line does, on files: read, cluster, describe, draw, write."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from scgpcl import _keys, datasets, metrics, presets, tl
from scgpcl._files import (
    InputError,
    check_folder,
    check_free,
    check_input_path,
    check_output_path,
    check_report_path,
    read,
    write,
)
from scgpcl._report import report as write_report
from scgpcl._summary import FIGURE_FILES, cluster_table, rank, write_figures, write_table
from scgpcl.model import SCGPCL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import anndata as ad
    import pandas as pd

PRESETS = {"default": {"model": {}, "train": {}}, "paper": presets.PAPER}
COUNTS = "counts"
CELL_TYPE = "cell_type"


class Result(NamedTuple):
    """What a command has done.

    Parameters
    ----------
    table
        One row per cluster, see `cluster_table`.
    files
        Files written.
    seconds
        Time for model and training.
    scores
        Agreement with published labels, by name; empty where there are none.
    """

    table: pd.DataFrame
    files: list[Path]
    seconds: float
    scores: Mapping[str, float]


def cluster_file(
    input_path: Path,
    output_path: Path,
    *,
    n_clusters: int | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    seed: int = 0,
    figures: Path | None = None,
    report: Path | None = None,
    preset: str = "default",
    force: bool = False,
) -> Result:
    """Cluster the cells of an h5ad file and write them with the results to another one.

    Parameters
    ----------
    input_path
        File with raw counts; not changed.
    output_path
        File to write, ending in `.h5ad`. It appears, or replaces an older one, when it is complete.
    n_clusters
        Number of clusters; `None` estimates it.
    layer
        Layer with the counts; `None` is `X`.
    batch_key
        Column of `obs` with batches.
    seed
        Seed of everything random.
    figures
        Folder for figures and the table of clusters with marker genes, made if missing; `None` makes none.
    report
        HTML page to write, see `scgpcl.report`; `None` writes none.
    preset
        `"default"` or `"paper"`.
    force
        Replace files that are there.

    Returns
    -------
    The clusters, with marker genes if figures or a report were asked for, the files and the training time.

    Raises
    ------
    InputError
        If a path, the file or an argument cannot be used. No file is written then.
    """
    check_input_path(input_path)
    check_output_path(output_path, input_path)
    if preset not in PRESETS:
        msg = f"Expected `preset` to be one of {sorted(PRESETS)}, found {preset!r}."
        raise InputError(msg)
    if figures is not None:
        check_folder(figures)
    if report is not None:
        check_report_path(report)
    written = [output_path, *([] if report is None else [report])]
    check_free(written if figures is None else [*written, *(figures / name for name in FIGURE_FILES)], force=force)
    adata = read(input_path)
    model, seconds = _fit(adata, n_clusters, layer=layer, batch_key=batch_key, seed=seed, preset=preset)
    write(adata, output_path)
    files = [output_path]
    if figures is None and report is None:
        return Result(cluster_table(adata, _keys.CLUSTER), files, seconds, {})
    markers = rank(adata, _keys.CLUSTER, layer=layer)
    table = cluster_table(adata, _keys.CLUSTER, genes={} if markers is None else tl.top_markers(markers))
    if figures is not None:
        figures.mkdir(exist_ok=True)
        files += write_figures(adata, model, figures, markers=markers, layer=layer, seed=seed)
        files.append(write_table(table, figures))
    if report is not None:
        files.append(write_report(adata, model, report, title=input_path.stem, markers=markers, seed=seed))
    return Result(table, files, seconds, {})


def demo(out_dir: Path, *, seed: int = 0, force: bool = False) -> Result:
    """Cluster the bundled blood cells and leave results, figures and a table in a folder.

    Parameters
    ----------
    out_dir
        Folder, made if missing.
    seed
        Seed of everything random.
    force
        Replace the files of an earlier run.

    Returns
    -------
    The clusters with marker genes and closest published types, the files, the training time and ARI, NMI and ACC.

    Raises
    ------
    InputError
        If the folder cannot be made or written to, or holds files of an earlier run.
    """
    check_folder(out_dir)
    output_path = out_dir / "pbmc3k_scgpcl.h5ad"
    check_free([output_path, *(out_dir / name for name in FIGURE_FILES)], force=force)
    adata = datasets.pbmc3k()
    n_types = adata.obs[CELL_TYPE].nunique()
    model, seconds = _fit(adata, n_types, layer=COUNTS, batch_key=None, seed=seed, preset="default")
    out_dir.mkdir(exist_ok=True)
    write(adata, output_path)
    markers = rank(adata, _keys.CLUSTER, layer=COUNTS)
    genes = {} if markers is None else tl.top_markers(markers)
    table = cluster_table(adata, _keys.CLUSTER, CELL_TYPE, genes=genes)
    drawn = write_figures(adata, model, out_dir, CELL_TYPE, markers=markers, layer=COUNTS, seed=seed)
    labels, clusters = adata.obs[CELL_TYPE], adata.obs[_keys.CLUSTER]
    scores = {
        "ARI": metrics.ari(labels, clusters),
        "NMI": metrics.nmi(labels, clusters),
        "ACC": metrics.accuracy(labels, clusters),
    }
    return Result(table, [output_path, *drawn, write_table(table, out_dir)], seconds, scores)


def _fit(
    adata: ad.AnnData, n_clusters: int | None, *, layer: str | None, batch_key: str | None, seed: int, preset: str
) -> tuple[SCGPCL, float]:
    """Train a model, which annotates `adata`; also the seconds this took."""
    before = set(adata.obs) | set(adata.uns)
    start = time.perf_counter()
    try:
        SCGPCL.setup_anndata(adata, layer=layer, batch_key=batch_key)
        model = SCGPCL(adata, n_clusters, seed=seed, **PRESETS[preset]["model"])
    except (KeyError, TypeError, ValueError) as error:
        # Up to here the model only looks at its input. A KeyError's own text has quotation marks around it.
        raise InputError(str(error.args[0]) if error.args else repr(error)) from error
    model.train(**PRESETS[preset]["train"])
    seconds = time.perf_counter() - start
    # The registration of the model means nothing to whoever opens the file.
    for mapping in (adata.obs, adata.uns):
        for name in [name for name in mapping if name.startswith("_scvi") and name not in before]:
            del mapping[name]
    return model, seconds
