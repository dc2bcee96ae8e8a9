from __future__ import annotations

import base64
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.colors import to_hex

from scgpcl import _files, _keys
from scgpcl import _input as _checks
from scgpcl._report import _describe
from scgpcl.data import row_blocks
from scgpcl.pl._style import categories_of, colors_of
from scgpcl.pp import library_sizes
from scgpcl.tl import top_markers
from scgpcl.tl._ranking import check_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from anndata import AnnData

    from scgpcl.model import SCGPCL

#: Marker genes per cluster in the table.
N_MARKERS = 8
#: Characters of a name on the page.
MAX_LENGTH = 80
#: Packages whose versions are listed.
SOFTWARE = ("scgpcl", "scvi-tools", "scanpy", "anndata", "torch", "numpy")
#: CSS pixels per inch.
CSS_DPI = 96


class Picture(NamedTuple):
    """A PNG file in base64, and its width in CSS pixels."""

    data: str
    width: int


class Reference(NamedTuple):
    """Something to cite."""

    what: str
    text: str
    url: str


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
    """Write a self-contained HTML page about a clustering, which any browser opens and prints.

    The page summarises the data and shows maps of the cells by cluster, batch and confidence, a table of the clusters with
    their top marker genes, a dot plot, the training curves, the settings, and what to cite. Figures are embedded; the page
    contains no scripts and makes no network requests.

    Parameters
    ----------
    adata
        Cells annotated by the model; not changed. The map in ``obsm["X_umap"]`` is used if it is up to date, see
        :func:`scgpcl.pl.latent`.
    model
        The trained model.
    path
        File to write, ending in ``.html``. An existing file is overwritten once the new one is complete.
    key
        Column of ``adata.obs`` with the clusters.
    label_key
        Column of ``adata.obs`` with published types to compare the clusters with.
    title
        Heading of the page.
    markers
        Result of :func:`scgpcl.tl.rank_markers`; ``None`` ranks all genes with the Wilcoxon rank-sum test.
    seed
        Seed of the map.

    Returns
    -------
    The path.

    Raises
    ------
    KeyError
        If ``adata`` lacks a column, the layer with the counts or the latent vectors.
    RuntimeError
        If the model has not been trained.
    TypeError
        If an argument has the wrong type.
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
    layer = model.registry["setup_args"].get("layer")
    batch_key = model.registry["setup_args"].get("batch_key")
    if batch_key not in adata.obs:
        batch_key = None
    if markers is None:
        markers = _describe.rank(adata, key, layer=layer)
    columns = {"layer": layer, "batch_key": batch_key, "label_key": label_key}
    pictures = _describe.figures(adata, model, key, **columns, markers=markers, seed=seed)
    return write_page(adata, model, path, key, **columns, title=title, markers=markers, pictures=pictures)


def write_page(
    adata: AnnData,
    model: SCGPCL,
    path: Path,
    key: str,
    *,
    layer: str | None,
    batch_key: str | None,
    label_key: str | None,
    title: str,
    markers: pd.DataFrame | None,
    pictures: Mapping[str, bytes],
) -> Path:
    """Write the page with figures that have been drawn already; arguments as in :func:`report`."""
    page = {
        "title": title,
        "date": datetime.now(UTC).strftime("%d %B %Y"),
        "facts": _facts(adata, model, key, layer=layer, batch_key=batch_key),
        "clusters": _cluster_rows(adata, key, label_key, markers=markers),
        "label_key": label_key,
        "figures": {name: _picture(file) for name, file in pictures.items()},
        "settings": _settings(model),
        "software": [*((name, version(name)) for name in SOFTWARE), ("Python", platform.python_version())],
        "methods": _methods(adata, model, key),
        "references": _references(),
    }
    template = files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    # names of clusters and genes are untrusted: everything is escaped, and an undefined name is an error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["short"] = _short
    _files.write_text(environment.from_string(template).render(page), path)
    return path


def _short(name: object) -> str:
    """Name of at most ``MAX_LENGTH`` characters; the middle of a longer one is replaced by an ellipsis."""
    text = "".join(c if c.isprintable() else " " for c in str(name))
    half = MAX_LENGTH // 2
    return text if len(text) <= MAX_LENGTH else f"{text[:half]}…{text[-half + 1 :]}"


def _picture(file: bytes) -> Picture:
    width = int.from_bytes(file[16:20], "big")  # in the first chunk of every PNG file
    return Picture(base64.b64encode(file).decode("ascii"), round(width * CSS_DPI / _describe.DPI))


def _facts(
    adata: AnnData, model: SCGPCL, key: str, *, layer: str | None, batch_key: str | None
) -> list[tuple[str, str]]:
    """Value and caption of each number in the summary of the data."""
    counts = _checks.counts_of(adata, layer)
    n_detected = np.concatenate([block.getnnz(axis=1) for block in row_blocks(counts)])
    sizes = categories_of(adata, key).value_counts()
    found = [
        (f"{adata.n_obs:,}", "cells"),
        (f"{len(sizes):,}", "clusters"),
        (f"{adata.n_vars:,}", f"genes, {model.module.n_genes:,} of them used by the model"),
        (f"{np.median(library_sizes(counts)):,.0f}", "counts in the median cell"),
        (f"{np.median(n_detected):,.0f}", "genes detected in the median cell"),
        (f"{sizes.min():,} to {sizes.max():,}", "cells per cluster"),
    ]
    if batch_key is not None:
        found.append((f"{adata.obs[batch_key].nunique():,}", f"batches ({_short(batch_key)})"))
    return found


def _cluster_rows(
    adata: AnnData, key: str, label_key: str | None, *, markers: pd.DataFrame | None
) -> list[dict[str, Any]]:
    """One row of the table per cluster, in the order of the categories."""
    groups = categories_of(adata, key)
    table = _describe.cluster_table(adata, key, label_key)
    genes = {} if markers is None else top_markers(markers, N_MARKERS, skip_mt_ribo=True)
    colors = colors_of(adata, key)
    rows: list[dict[str, Any]] = []
    for category, row in zip(groups.cat.categories, table.to_dict("records"), strict=True):
        own = (groups == category).to_numpy()
        entry = {
            "cluster": row["cluster"],
            "size": row["size"],
            "closest_type": row.get("closest_type"),
            "share": row.get("share"),
            "color": to_hex(colors[category]),
            "percent": 100 * row["size"] / adata.n_obs,
            "genes": genes.get(row["cluster"], []),
            "confidence": None,
            "name": None,
        }
        if _keys.CONFIDENCE in adata.obs:
            entry["confidence"] = float(adata.obs[_keys.CONFIDENCE].to_numpy()[own].mean())
        if _keys.NAME in adata.obs:
            names = adata.obs[_keys.NAME][own].dropna()
            entry["name"] = names.mode().iloc[0] if len(names) else None
        rows.append(entry)
    return rows


def _settings(model: SCGPCL) -> list[tuple[str, str]]:
    """Name and value of each setting of the model, and the number of epochs."""
    setup = model.registry["setup_args"]
    stage = model.history_[_keys.STAGE].iloc[:, 0] if _keys.STAGE in model.history_ else None
    named = {
        "counts": f"layer {setup['layer']!r}" if setup.get("layer") else "X",
        "batch_key": setup.get("batch_key"),
        **model.init_params_["non_kwargs"],
        "n_clusters": f"{model.n_clusters_} ({'given' if _n_clusters_given(model) else 'estimated'})",
        "seed": model.seed_,
    }
    if stage is not None:
        named["epochs of pre-training"] = int((stage == 1).sum())
        named["epochs of clustering"] = int((stage == 2).sum())
    return [(name, "none" if value is None else str(value)) for name, value in named.items()]


def _methods(adata: AnnData, model: SCGPCL, key: str) -> str:
    """Text for the methods section of an article."""
    n_clusters = categories_of(adata, key).nunique()
    chosen = "a given" if _n_clusters_given(model) else "an estimated"
    return (
        f"Counts of {adata.n_obs:,} cells were clustered with scgpcl {version('scgpcl')} (Lee et al. 2023; scvi-tools "
        f"{version('scvi-tools')}) on {model.module.n_genes:,} genes with {chosen} number of {model.n_clusters_} "
        f"clusters, of which {n_clusters} contain cells, and random seed {model.seed_}. Marker genes were ranked with "
        f"scanpy {version('scanpy')} on log-normalised counts of all genes."
    )


def _references() -> list[Reference]:
    """What a user of the page should cite."""
    return [
        Reference(
            "The method",
            "Lee J, Kim S, Hyun D, Lee N, Kim Y, Park C. Deep single-cell RNA-seq data clustering with graph prototypical "
            "contrastive learning. Bioinformatics 39(6), btad342, 2023.",
            "https://doi.org/10.1093/bioinformatics/btad342",
        ),
        Reference(
            "This software",
            f"scgpcl developers. scgpcl, version {version('scgpcl')}.",
            "https://github.com/scgpcl/scgpcl",
        ),
        Reference(
            "scvi-tools",
            "Gayoso A, Lopez R, Xing G, et al. A Python library for probabilistic analysis of single-cell omics data. "
            "Nature Biotechnology 40, 163-166, 2022.",
            "https://doi.org/10.1038/s41587-021-01206-w",
        ),
        Reference(
            "scanpy",
            "Wolf FA, Angerer P, Theis FJ. SCANPY: large-scale single-cell gene expression data analysis. "
            "Genome Biology 19, 15, 2018.",
            "https://doi.org/10.1186/s13059-017-1382-0",
        ),
    ]


def _n_clusters_given(model: SCGPCL) -> bool:
    return model.init_params_["non_kwargs"].get("n_clusters") is not None
