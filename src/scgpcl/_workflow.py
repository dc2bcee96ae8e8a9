"""Workflows behind the command line, from file to file: read, cluster, describe, draw and write."""

from __future__ import annotations

import logging
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import anndata as ad

from scgpcl import _keys, datasets, metrics, presets, tl
from scgpcl._files import (
    InputError,
    check_folder,
    check_free,
    check_output_path,
    check_report_path,
    write,
    write_beside,
)
from scgpcl._input import counts_of
from scgpcl._read import read_files, read_large
from scgpcl._report import _describe
from scgpcl._report._page import title_of, write_page
from scgpcl._rules import MAX_MISSING
from scgpcl.model import SCGPCL
from scgpcl.model._saving import DATA_NAME, PICKLE_NAME, SAFE_NAME
from scgpcl.pl._map import latent_map
from scgpcl.pp import library_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    import pandas as pd

    from scgpcl._read import Found

T = TypeVar("T")

logger = logging.getLogger(__name__)

PRESETS = {"default": {"model": {}, "train": {}}, "paper": presets.PAPER}
#: Maximum number of cells for which a UMAP is computed if no figure is requested.
MAX_MAP_CELLS = 100_000
COUNTS = "counts"
CELL_TYPE = "cell_type"


class Result(NamedTuple):
    """Clusters (one row each), written files, elapsed time in seconds and, if the types are known, scores by name."""

    table: pd.DataFrame
    files: list[Path]
    seconds: float
    scores: Mapping[str, float]


def cluster_file(
    input_paths: Sequence[Path],
    output_path: Path,
    *,
    n_clusters: int | None = None,
    levels: Sequence[int] = (),
    layer: str | None = None,
    raw: bool = False,
    genes: Literal["rows", "columns"] | None = None,
    min_counts: int | None = None,
    batch_key: str | None = None,
    seed: int = 0,
    figures: Path | None = None,
    report: Path | None = None,
    model_path: Path | None = None,
    markers: Path | None = None,
    stability: bool = False,
    preset: str = "default",
    force: bool = False,
    progress: bool = True,
) -> Result:
    """Cluster the cells of one or more files and write them, with the results, to an h5ad file.

    The options are the same as for ``scgpcl cluster``. ``figures`` is a folder, which is created if missing, and
    ``report`` is an HTML page. The model is saved to the folder ``model_path``, without pickle and without the cells.
    Existing files are only overwritten if ``force`` is set, and only once the new ones are complete. The table includes
    marker genes if figures or a report are requested. If a path, the file or an option is invalid, an ``InputError`` is
    raised and nothing is written. If only the cells are written, large counts in ``X`` of a single h5ad file or zarr
    store stay on disk.
    """
    check_output_path(output_path, input_paths)
    _check_levels(levels)
    if preset not in PRESETS:
        msg = f"Expected `preset` to be one of {sorted(PRESETS)}, found {preset!r}."
        raise InputError(msg)
    if figures is not None:
        check_folder(figures)
    if report is not None:
        check_report_path(report)
    written = [output_path, *([] if report is None else [report])]
    if model_path is not None:
        check_folder(model_path)
        written += [model_path / SAFE_NAME, model_path / PICKLE_NAME]
    check_free(
        written if figures is None else [*written, *(figures / name for name in _describe.FOLDER_FILES)], force=force
    )
    sets = None if markers is None else _refused(lambda: tl.marker_sets(markers))
    cells_only = len(input_paths) == 1 and layer is None and min_counts is None and figures is None and report is None
    large = read_large(input_paths[0]) if cells_only and sets is None and not raw else None
    found = large or _cells_of(input_paths, layer=layer, raw=raw, genes=genes, min_counts=min_counts)
    whole, (adata, layer, _), samples, sample = found
    if sets is not None:
        sets = {name: own for name, own in sets.items() if adata.var_names.isin(own).any()}
        if not sets:
            msg = f"Expected marker genes of the cells in --markers {markers}, found none. Check their spelling."
            raise InputError(msg)
    batch_key = samples if batch_key is None else batch_key
    model, seconds = _fit(
        adata,
        n_clusters,
        levels=levels,
        stability=stability,
        layer=layer,
        batch_key=batch_key,
        seed=seed,
        preset=preset,
        progress=progress,
    )
    named = None
    if sets is not None and adata.obs[_keys.CLUSTER].nunique() > 1:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Left out .* marker genes")
            named = tl.name_clusters(adata, sets, layer=layer, seed=seed).set_index("cluster")["name"]
    _store_map(adata, seed=seed, most=MAX_MAP_CELLS if figures is None and report is None else None)
    if whole is not adata:
        _hand_over(adata, whole)
    if large is None:
        write(whole, output_path)
    else:
        write_beside(whole, input_paths[0], output_path)
        if whole.isbacked:
            whole.file.close()
    files = [output_path]
    if model_path is not None:
        model.save(model_path, overwrite=True, safe=True)
        files.append(model_path)
    if figures is None and report is None:
        return Result(_with_names(_describe.cluster_table(adata, _keys.CLUSTER), named), files, seconds, {})
    columns: dict[str, Any] = {"layer": layer, "batch_key": batch_key, "label_key": None}
    table, ranked, pictures = _described(adata, model, **columns, seed=seed)
    table = _with_names(table, named)
    if figures is not None:
        figures.mkdir(exist_ok=True)
        files += _describe.write_folder(pictures, table, figures)
    if report is not None:
        title = title_of(adata, sample or input_paths[0].stem)
        stored = [name for name in (f"{_keys.LEVEL}{level}" for level in levels) if name in adata.obs]
        page = write_page(
            adata,
            model,
            report,
            _keys.CLUSTER,
            **columns,
            title=title,
            markers=ranked,
            pictures=pictures,
            levels=adata.obs[stored] if stored else None,
        )
        files.append(page)
    return Result(table, files, seconds, {})


def map_file(
    model_path: Path,
    input_paths: Sequence[Path],
    output_path: Path,
    *,
    layer: str | None = None,
    raw: bool = False,
    genes: Literal["rows", "columns"] | None = None,
    min_counts: int | None = None,
    transform_batch: str | None = None,
    max_missing: float = MAX_MISSING,
    min_confidence: float | None = None,
    max_novelty: float | None = None,
    force: bool = False,
) -> Result:
    """Label cells from files with a saved model and write them, with the results, to an h5ad file.

    The options are the same as for ``scgpcl map``. If a path, the model, the files or an option is invalid, an
    ``InputError`` is raised and nothing is written.
    """
    check_output_path(output_path, input_paths)
    check_free([output_path], force=force)
    model = _loaded(model_path)
    options: dict[str, Any] = {"transform_batch": transform_batch, "max_missing": max_missing}
    options |= {"min_confidence": min_confidence, "max_novelty": max_novelty}
    found = _cells_of(input_paths, layer=layer, raw=raw, genes=genes, min_counts=min_counts)
    if transform_batch is None:
        _name_batches(found, model)
    return _label(found, output_path, model, lambda query: model.annotate(query, **options))


def cut_file(
    model_path: Path,
    input_paths: Sequence[Path],
    output_path: Path,
    *,
    n_clusters: int | None = None,
    support: float | None = None,
    layer: str | None = None,
    raw: bool = False,
    genes: Literal["rows", "columns"] | None = None,
    min_counts: int | None = None,
    transform_batch: str | None = None,
    max_missing: float = MAX_MISSING,
    min_confidence: float | None = None,
    force: bool = False,
) -> Result:
    """Label cells with another level of a saved model's tree, and write them to an h5ad file.

    The options are the same as for ``scgpcl cut``. If no files are given, the cells saved with the model are used. The
    model is not changed. If a path, the model, the files or an option is invalid, an ``InputError`` is raised and
    nothing is written.
    """
    if (n_clusters is None) == (support is None):
        msg = "Expected either --n-clusters or --support, found {}. Pass one of them.".format(
            "neither" if support is None else "both"
        )
        raise InputError(msg)
    columns: dict[str, Any] = {"layer": layer, "raw": raw, "genes": genes, "min_counts": min_counts}
    model, found = _model_and_cells(model_path, input_paths, output_path, **columns, force=force)
    if transform_batch is None:
        _name_batches(found, model)
    _refused(lambda: model.cut(n_clusters, support=support))
    options: dict[str, Any] = {"transform_batch": transform_batch, "max_missing": max_missing}
    options |= {"min_confidence": min_confidence}
    return _label(found, output_path, model, lambda query: model.annotate(query, **options))


def subcluster_file(
    model_path: Path,
    cluster: str,
    input_paths: Sequence[Path],
    output_path: Path,
    *,
    n: int | None = None,
    layer: str | None = None,
    raw: bool = False,
    genes: Literal["rows", "columns"] | None = None,
    min_counts: int | None = None,
    min_confidence: float | None = None,
    force: bool = False,
) -> Result:
    """Divide one cluster of a saved model using its own genes, and write the labelled cells to an h5ad file.

    The options are the same as for ``scgpcl subcluster``. If no files are given, the cells saved with the model are
    used. The model is not changed. If a path, the model, the files, the cluster or an option is invalid, an
    ``InputError`` is raised and nothing is written.
    """
    columns: dict[str, Any] = {"layer": layer, "raw": raw, "genes": genes, "min_counts": min_counts}
    model, found = _model_and_cells(model_path, input_paths, output_path, **columns, force=force)
    _name_batches(found, model)
    divide = lambda query: model.subcluster(cluster, n, adata=query, min_confidence=min_confidence)
    return _label(found, output_path, model, divide)


def _cells_of(
    paths: Sequence[Path],
    *,
    layer: str | None,
    raw: bool,
    genes: Literal["rows", "columns"] | None,
    min_counts: int | None,
) -> Found:
    """Read files, and leave out cells with fewer than ``min_counts`` counts."""
    found = read_files(paths, layer=layer, raw=raw, genes=genes)
    if min_counts is None:
        return found
    whole, (adata, place, _) = found.adata, found.counts
    enough = library_sizes(counts_of(adata, place)) >= min_counts
    logger.info("Left out %d cells with fewer than %d counts.", (~enough).sum(), min_counts)
    kept = adata[enough].copy()
    return found._replace(
        adata=kept if whole is adata else whole[enough].copy(), counts=found.counts._replace(adata=kept)
    )


def _model_and_cells(
    model_path: Path,
    input_paths: Sequence[Path],
    output_path: Path,
    *,
    layer: str | None,
    raw: bool,
    genes: Literal["rows", "columns"] | None,
    min_counts: int | None,
    force: bool,
) -> tuple[SCGPCL, Found]:
    """Load a saved model and the cells, either from files or from the data saved with the model."""
    own = model_path / DATA_NAME
    check_output_path(output_path, input_paths or [path for path in (own,) if path.exists()])
    check_free([output_path], force=force)
    model = _loaded(model_path)
    if input_paths:
        return model, _cells_of(input_paths, layer=layer, raw=raw, genes=genes, min_counts=min_counts)
    if not own.exists():
        msg = (
            f"Expected files with cells, or a model that was saved with its own, found none in {model_path}. Pass the "
            "files after the model, or save it with `save_anndata=True`."
        )
        raise InputError(msg)
    layer = model.registration.layer if layer is None and not raw else layer
    found = _cells_of([own], layer=layer, raw=raw, genes=genes, min_counts=min_counts)
    for adata in (found.adata, found.counts.adata):
        _forget_registration(adata)
    return model, found


def _name_batches(found: Found, model: SCGPCL) -> None:
    """If the files do not name the batches of a model that has them, treat each sample as a batch."""
    columns = model.registration.batch_columns
    if len(columns) != 1 or columns[0] in found.adata.obs:
        return
    own = found.name if found.batch_key is None else found.adata.obs[found.batch_key]
    for adata in (found.adata, found.counts.adata):
        adata.obs[columns[0]] = own


def _loaded(path: Path) -> SCGPCL:
    """Load a saved model for use with new cells."""
    return _refused(lambda: SCGPCL.load(path, False, accelerator="cpu"))


def _label(found: Found, output_path: Path, model: SCGPCL, label: Callable[[ad.AnnData], None]) -> Result:
    """Convert cells from files to the form that the model expects, label them with a function, and write them."""
    whole, (adata, layer, _) = found.adata, found.counts
    counts, own = counts_of(adata, layer), model.registration.layer
    query = ad.AnnData(counts, obs=adata.obs, var=adata.var[[]], layers={} if own is None else {own: counts})
    start = time.perf_counter()
    _refused(lambda: label(query))
    seconds = time.perf_counter() - start
    _hand_over(query, whole)
    write(whole, output_path)
    return Result(_describe.cluster_table(query, _keys.CLUSTER), [output_path], seconds, {})


def _refused(call: Callable[[], T]) -> T:
    """Return the result of a call, and attribute any errors to the input."""
    try:
        return call()
    except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        # ``str`` of a KeyError would add quotation marks
        raise InputError(str(error.args[0]) if error.args else repr(error)) from error


def _with_names(table: pd.DataFrame, named: pd.Series | None) -> pd.DataFrame:
    """Add the names of the clusters as the second column of the table, if the clusters were named."""
    if named is not None:
        table.insert(1, "name", named.loc[table["cluster"]].to_numpy())
    return table


def _store_map(adata: ad.AnnData, *, seed: int, most: int | None = None) -> None:
    """Store a UMAP, unless there already is one or there are too many cells."""
    if _keys.UMAP in adata.obsm or adata.n_obs < 3:  # a map needs three cells
        return
    if most is not None and adata.n_obs > most:
        logger.info("Left out the UMAP, which takes longer than the clustering for more than %d cells.", most)
        return
    logger.info("Computing a UMAP.")
    latent_map(adata, use_rep=_keys.LATENT, method="umap", seed=seed)


def _hand_over(source: ad.AnnData, target: ad.AnnData) -> None:
    """Copy the results to another AnnData of the same cells, which may have other genes."""
    for name in ("obs", "obsm", "uns"):
        mine, theirs = getattr(source, name), getattr(target, name)
        for key in [key for key in mine if key not in theirs or str(key).startswith((_keys.STEM, _keys.LATENT))]:
            theirs[key] = mine[key]
    target.var[_keys.SELECTED] = source.var[_keys.SELECTED].reindex(target.var_names, fill_value=False)


def demo(out_dir: Path, *, seed: int = 0, force: bool = False, progress: bool = True) -> Result:
    """Cluster the bundled blood cells and write results, figures and a table to a folder, which is created if missing.

    The table lists the marker genes and the closest published types. The scores are ARI, NMI and ACC.
    """
    check_folder(out_dir)
    output_path = out_dir / "pbmc3k_scgpcl.h5ad"
    check_free([output_path, *(out_dir / name for name in _describe.FOLDER_FILES)], force=force)
    adata = datasets.pbmc3k()
    n_types = adata.obs[CELL_TYPE].nunique()
    model, seconds = _fit(adata, n_types, layer=COUNTS, batch_key=None, seed=seed, preset="default", progress=progress)
    _store_map(adata, seed=seed)
    out_dir.mkdir(exist_ok=True)
    write(adata, output_path)
    table, _, pictures = _described(adata, model, layer=COUNTS, batch_key=None, label_key=CELL_TYPE, seed=seed)
    labels, clusters = adata.obs[CELL_TYPE], adata.obs[_keys.CLUSTER]
    scores = {
        "ARI": metrics.ari(labels, clusters),
        "NMI": metrics.nmi(labels, clusters),
        "ACC": metrics.accuracy(labels, clusters),
    }
    return Result(table, [output_path, *_describe.write_folder(pictures, table, out_dir)], seconds, scores)


def _described(
    adata: ad.AnnData, model: SCGPCL, *, layer: str | None, batch_key: str | None, label_key: str | None, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame | None, dict[str, bytes]]:
    """Return the table of clusters, the marker genes and the figures, for use in both the folder and the page."""
    logger.info("Ranking marker genes; mitochondrial and ribosomal genes are not shown.")
    markers = _describe.rank(adata, _keys.CLUSTER, layer=layer)
    genes = {} if markers is None else tl.top_markers(markers, skip_mt_ribo=True)
    table = _describe.cluster_table(adata, _keys.CLUSTER, label_key, genes=genes)
    columns: dict[str, Any] = {"layer": layer, "batch_key": batch_key, "label_key": label_key}
    logger.info("Drawing figures.")
    pictures = _describe.figures(adata, model, _keys.CLUSTER, **columns, markers=markers, seed=seed)
    return table, markers, pictures


def _fit(
    adata: ad.AnnData,
    n_clusters: int | None,
    *,
    levels: Sequence[int] = (),
    stability: bool = False,
    layer: str | None,
    batch_key: str | None,
    seed: int,
    preset: str,
    progress: bool,
) -> tuple[SCGPCL, float]:
    """Train a model and annotate ``adata``, optionally with levels and stability.

    Returns the model and the elapsed time in seconds.
    """
    _check_options(adata, n_clusters, batch_key=batch_key)
    before = set(adata.obs) | set(adata.uns)
    start = time.perf_counter()
    try:
        SCGPCL.setup_anndata(adata, layer=layer, batch_key=batch_key)
        model = SCGPCL(adata, n_clusters, seed=seed, **PRESETS[preset]["model"])
    except (KeyError, TypeError, ValueError) as error:
        # so far the model has only checked its input; ``str`` of a KeyError would add quotation marks
        raise InputError(str(error.args[0]) if error.args else repr(error)) from error
    quiet: dict[str, Any] = {} if progress else {"enable_progress_bar": False}
    model.train(**PRESETS[preset]["train"], **quiet)
    if levels:
        _store_levels(adata, model, levels)
    if stability:
        logger.info("Measuring the stability of the clusters without some molecules or cells.")
        model.get_cluster_stability()
    seconds = time.perf_counter() - start
    _forget_registration(adata, kept=before)
    return model, seconds


def _forget_registration(adata: ad.AnnData, *, kept: Collection[str] = ()) -> None:
    """Remove the model's registration, which is not useful to anyone who reads the file."""
    for mapping in (adata.obs, adata.uns):
        for name in [name for name in mapping if name.startswith("_scvi") and name not in kept]:
            del mapping[name]


def _store_levels(adata: ad.AnnData, model: SCGPCL, levels: Sequence[int]) -> None:
    """Write a column of ``obs`` for each level that exists in the tree.

    Other levels only cause a warning, because training is already done.
    """
    tree = cast("pd.DataFrame", model.get_tree())
    known = set(tree["n_clusters"])
    missing = [level for level in levels if level not in known]
    if missing:
        logger.warning(
            "Skipped --levels %s: the tree of these cells has 1 to %d clusters.",
            ",".join(map(str, missing)),
            max(known),
        )
    for name in {f"{_keys.LEVEL}{level}" for level in missing} & set(adata.obs):
        del adata.obs[name]  # from an earlier run
    for level, labels in model.get_levels([level for level in levels if level in known]).items():
        adata.obs[f"{_keys.LEVEL}{level}"] = labels


def _check_levels(levels: Sequence[int]) -> None:
    """Reject levels that no tree can have."""
    if any(level < 1 for level in levels):
        msg = (
            f"Expected --levels of at least 1, found {min(levels)}. Pass numbers of clusters, such as --levels 5,10,20."
        )
        raise InputError(msg)


def _check_options(adata: ad.AnnData, n_clusters: int | None, *, batch_key: str | None) -> None:
    """Reject options that do not fit the file.

    The model would also reject them, but its errors refer to Python arguments.
    """
    if batch_key is not None and batch_key not in adata.obs:
        names = ", ".join(repr(str(name)) for name in adata.obs) or "none"
        msg = f"Expected --batch-key {batch_key!r} to be a column of obs, found columns {names}. Name one of these."
        raise InputError(msg)
    if batch_key is not None and adata.obs[batch_key].isna().any():
        n_missing = int(adata.obs[batch_key].isna().sum())
        msg = f"Expected a batch for every cell in --batch-key {batch_key!r}, found {n_missing} cells without one. Fill them in."
        raise InputError(msg)
    if n_clusters is None and adata.n_obs < 3:
        msg = (
            f"Expected at least 3 cells to estimate the number of clusters from, found {adata.n_obs}. "
            "Pass --n-clusters 2, or choose a file with more cells."
        )
        raise InputError(msg)
