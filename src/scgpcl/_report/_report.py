from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from scgpcl import _files, _keys, _summary
from scgpcl import _input as _checks
from scgpcl.pl._obs import categories_of
from scgpcl.tl._markers import check_table

from ._content import cite, cluster_rows, facts, methods, settings, short, software
from ._figures import figures

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scgpcl.model import SCGPCL


def report(
    adata: AnnData,
    model: SCGPCL,
    path: str | Path,
    *,
    key: str = _keys.CLUSTER,
    label_key: str | None = None,
    title: str = "Clusters of cells",
    markers: pd.DataFrame | None = None,
    seed: int = 0,
) -> Path:
    """Write one self-contained HTML page about a clustering, to open in any browser, to mail or to print.

    The page has a summary of the data, maps of the cells by cluster, batch and confidence, a table of the clusters with
    their best marker genes, a dot plot, the training curves, the settings and what to cite. Pictures are inside the file;
    it holds no scripts and asks nothing of the network.

    Parameters
    ----------
    adata
        Cells the model has annotated; not changed. The map in `obsm["X_scgpcl_umap"]` is drawn if it is up to date, see
        :func:`scgpcl.pl.latent`.
    model
        The trained model.
    path
        File to write, ending in `.html`. It appears, or replaces an older one, when it is complete.
    key
        Column of `adata.obs` with the clusters.
    label_key
        Column of `adata.obs` with published types, to compare the clusters with.
    title
        Heading of the page.
    markers
        Result of :func:`scgpcl.tl.rank_markers`; `None` makes it, by Wilcoxon's test of all genes.
    seed
        Seed of the map.

    Returns
    -------
    The path.

    Raises
    ------
    KeyError
        If `adata` lacks a column, the layer with the counts or the latent vectors.
    RuntimeError
        If the model is not trained.
    TypeError
        If an argument is of another kind.
    ValueError
        If the path cannot be written to, or the seed is out of range.

    Examples
    --------
    >>> model.train()  # doctest: +SKIP
    >>> scgpcl.report(adata, model, "report.html")  # doctest: +SKIP
    """
    path = Path(path)
    _files.check_report_path(path)
    _checks.check_is_adata(adata)
    _checks.check_seed(seed)
    if markers is not None:
        check_table(markers)
    if not hasattr(model, "is_trained_"):
        msg = f"Expected `model` to be a trained SCGPCL, found {type(model).__name__}. Pass the model itself."
        raise TypeError(msg)
    if not (model.is_trained_ and model.history_):
        msg = "Expected a trained model, found one that has not been trained. Call `model.train()` first."
        raise RuntimeError(msg)
    _check_cells(adata, key, label_key)
    layer = model.registry["setup_args"].get("layer")
    batch_key = model.registry["setup_args"].get("batch_key")
    if batch_key not in adata.obs:
        batch_key = None

    if markers is None:
        markers = _summary.rank(adata, key, layer=layer)
    page = {
        "title": title,
        "date": datetime.now(UTC).strftime("%d %B %Y"),
        "facts": facts(adata, model, key, layer=layer, batch_key=batch_key),
        "clusters": cluster_rows(adata, key, label_key, markers=markers),
        "label_key": label_key,
        "figures": figures(
            adata, model, key, layer=layer, batch_key=batch_key, label_key=label_key, markers=markers, seed=seed
        ),
        "settings": settings(model),
        "software": software(),
        "methods": methods(adata, model, key),
        "references": cite(),
    }
    template = files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    # Names of clusters and genes come from anywhere: everything is escaped, and a name that is missing is an error.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["short"] = short
    _files.write_text(environment.from_string(template).render(page), path)
    return path


def _check_cells(adata: AnnData, key: str, label_key: str | None) -> None:
    """Require everything that is drawn before anything is."""
    if key not in adata.obs or _keys.LATENT not in adata.obsm:
        msg = (
            f"Expected `adata.obs[{key!r}]` and `adata.obsm[{_keys.LATENT!r}]`, found the columns "
            f"[{_checks.listed(adata.obs.columns)}] and the keys [{_checks.listed(adata.obsm)}]. "
            "Call `model.annotate(adata)` first."
        )
        raise KeyError(msg)
    for column in (key, label_key):
        if column is not None:
            categories_of(adata, column)
