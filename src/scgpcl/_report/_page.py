from __future__ import annotations

import base64
import hashlib
import json
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
from scgpcl._report._explorer import N_MARKERS, check_genes, check_levels, explorer
from scgpcl._rules import check
from scgpcl.data import row_blocks
from scgpcl.pl._map import latent_map
from scgpcl.pl._style import categories_of, colors_of
from scgpcl.pp import library_sizes
from scgpcl.tl import top_markers
from scgpcl.tl._ranking import check_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

    from scgpcl.model import SCGPCL

#: Maximum number of characters in a name on the page.
MAX_LENGTH = 80
#: Packages for which the version is listed.
SOFTWARE = ("scgpcl", "scvi-tools", "scanpy", "anndata", "torch", "numpy")
#: Figures on the page. The explorer replaces the other maps.
ON_PAGE = ("umap", "comparison", "markers", "history")
#: CSS pixels per inch.
CSS_DPI = 96


class Picture(NamedTuple):
    """PNG file in base64 and its width in CSS pixels."""

    data: str
    width: int


class Reference(NamedTuple):
    """Reference that can be cited."""

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
    title: str | None = None,
    markers: pd.DataFrame | None = None,
    levels: pd.DataFrame | None = None,
    genes: Iterable[str] | None = None,
    doublets: bool = False,
    seed: int = 0,
) -> Path:
    """Write an HTML page to explore and annotate a clustering in any browser.

    The page shows a map of the cells (a random sample of 200,000 if there are more), coloured by cluster, batch,
    confidence, depth or a marker gene, and it lists the marker genes, neighbours and quality of each cluster. Clusters
    can be renamed, merged and commented on. The page saves these annotations to a small file for
    :func:`scgpcl.tl.apply_annotation`. It also contains a dot plot, the training curves, the settings, text for the
    methods section, and the references to cite. The page is a single file that makes no network requests and can be
    printed.

    Parameters
    ----------
    adata
        Cells annotated by the model, which are not changed. The map in ``obsm["X_umap"]`` is used if it is up to date
        (see :func:`scgpcl.pl.latent`).
    model
        The trained model.
    path
        Path of the file to write, which must end in ``.html``. An existing file is overwritten once the new one is
        complete.
    key
        Column of ``adata.obs`` with the clusters.
    label_key
        Column of ``adata.obs`` with published types to compare the clusters with.
    title
        Heading of the page. If ``None``, ``adata.uns["title"]`` is used, or the file name of a backed ``adata``.
    markers
        Result of :func:`scgpcl.tl.rank_markers`. If ``None``, all genes are ranked with the Wilcoxon rank-sum test.
    levels
        Nested cell labels, for example from a tree of clusters, with one column per level and indexed by cell. The page
        then has a slider to choose a level or the clusters, and the marker genes of each level are ranked with a
        t-test.
    genes
        Genes to colour the map by, in addition to the marker genes.
    doublets
        Whether to compute doublet scores with :func:`scanpy.pp.scrublet`, separately for each batch. An existing column
        ``"doublet_score"`` of ``adata.obs`` is always shown.
    seed
        Random seed for the map and for random samples.

    Returns
    -------
    The path of the page.

    Raises
    ------
    KeyError
        If ``adata`` lacks a column, the layer with the counts or the latent vectors.
    RuntimeError
        If the model has not been trained.
    TypeError
        If an argument has the wrong type.
    ValueError
        If the path cannot be written to, if the levels are not nested or belong to other cells, if a gene is unknown,
        or if the seed is out of range.

    Examples
    --------
    >>> model.train()  # doctest: +SKIP
    >>> scgpcl.report(adata, model, "report.html")  # doctest: +SKIP
    """
    path = Path(path)
    _files.check_report_path(path)
    _checks.check_is_adata(adata)
    _checks.check_seed(seed)
    check(title=title, doublets=doublets)
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
    batch_key = next((column for column in model.registration.batch_columns if column in adata.obs), None)
    check_levels(levels, adata)
    genes = check_genes(genes, adata)
    if markers is None:
        markers = _describe.rank(adata, key, layer=layer)
    columns = {"layer": layer, "batch_key": batch_key, "label_key": label_key}
    positions = _positions(adata, seed)
    pictures = _describe.figures(
        adata, model, key, **columns, markers=markers, seed=seed, names=ON_PAGE, positions=positions
    )
    return write_page(
        adata,
        model,
        path,
        key,
        **columns,
        title=title,
        markers=markers,
        pictures=pictures,
        levels=levels,
        genes=genes,
        doublets=doublets,
        seed=seed,
        positions=positions,
    )


def write_page(
    adata: AnnData,
    model: SCGPCL,
    path: Path,
    key: str,
    *,
    layer: str | None,
    batch_key: str | None,
    label_key: str | None,
    title: str | None,
    markers: pd.DataFrame | None,
    pictures: Mapping[str, bytes],
    levels: pd.DataFrame | None = None,
    genes: Sequence[str] = (),
    doublets: bool = False,
    seed: int = 0,
    positions: np.ndarray | None = None,
) -> Path:
    """Write the page with existing figures and an existing map.

    The other arguments are the same as in :func:`report`.
    """
    columns = {"layer": layer, "batch_key": batch_key, "label_key": label_key}
    positions = _positions(adata, seed) if positions is None else positions
    data = explorer(
        adata,
        model,
        key,
        positions=positions,
        **columns,
        markers=markers,
        levels=levels,
        genes=genes,
        doublets=doublets,
        seed=seed,
    )
    scripts = [_source("vendor/regl-scatterplot.min.js"), _source("explorer.js")]
    page = {
        "title": title_of(adata) if title is None else title,
        "date": datetime.now(UTC).strftime("%d %B %Y"),
        "facts": _facts(adata, model, key, layer=layer, batch_key=batch_key),
        "clusters": _cluster_rows(adata, key, label_key, markers=markers),
        "confident": _keys.CONFIDENCE in adata.obs,
        "label_key": label_key,
        "figures": {name: _picture(pictures[name]) for name in ON_PAGE if name in pictures},
        "settings": _settings(model),
        "software": [*((name, version(name)) for name in SOFTWARE), ("Python", platform.python_version())],
        "methods": _methods(adata, model, key),
        "references": _references(),
        "style": _source("report.css"),
        "explorer": _json(data),
        "scripts": scripts,
        "digests": [_digest(script) for script in scripts],
        "licences": _source("vendor/LICENSES.txt"),
    }
    # names of clusters and genes are untrusted: everything is escaped, and an undefined name is an error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["short"] = _short
    _files.write_text(environment.from_string(_source("report.html")).render(page), path)
    return path


def _positions(adata: AnnData, seed: int) -> np.ndarray | None:
    """Return the positions of the cells on the map, shape (n_cells, 2), without changing ``adata``."""
    if adata.n_obs < 3:
        return None
    return latent_map(_describe.drawn_part(adata, []), use_rep=_keys.LATENT, method="umap", seed=seed)


def title_of(adata: AnnData, default: str = "Clusters of cells") -> str:
    """Return the title stored in the data, the name of the file, or ``default``."""
    own = adata.uns.get("title")
    if isinstance(own, str) and own.strip():
        return own
    return Path(adata.filename).stem if adata.isbacked else default


def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _json(data: object) -> str:
    """Convert data to JSON that cannot end the script or start a comment, whatever names it contains."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(script: str) -> str:
    """Return the digest that lets the content security policy of the page allow a single script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _short(name: object) -> str:
    """Shorten a name to at most ``MAX_LENGTH`` characters by replacing the middle with an ellipsis."""
    text = "".join(c if c.isprintable() else " " for c in str(name))
    half = MAX_LENGTH // 2
    return text if len(text) <= MAX_LENGTH else f"{text[:half]}…{text[-half + 1 :]}"


def _picture(file: bytes) -> Picture:
    width = int.from_bytes(file[16:20], "big")  # in the first chunk of every PNG file
    return Picture(base64.b64encode(file).decode("ascii"), round(width * CSS_DPI / _describe.DPI))


def _facts(
    adata: AnnData, model: SCGPCL, key: str, *, layer: str | None, batch_key: str | None
) -> list[tuple[str, str]]:
    """Return the value and caption of each number in the summary of the data."""
    counts = _checks.counts_of(adata, layer)
    n_detected = np.concatenate([block.getnnz(axis=1) for block in row_blocks(counts)])
    sizes = categories_of(adata, key).value_counts()
    others = ", ".join(str(number) for number in adata.uns.get(_keys.UNS, {}).get(_keys.ALSO_STABLE, ()))
    found = [
        (f"{adata.n_obs:,}", "cells"),
        (f"{len(sizes):,}", f"clusters (also stable: {others})" if others else "clusters"),
        (f"{adata.n_vars:,}", f"genes, {model.module.n_genes:,} of them used by the model"),
        (f"{np.median(library_sizes(counts)):,.0f}", "counts in the median cell"),
        (f"{np.median(n_detected):,.0f}", "genes detected in the median cell"),
        (f"{sizes.min():,} to {sizes.max():,}", "cells per cluster"),
    ]
    if batch_key is not None:
        columns = [
            batch_key,
            *(name for name in model.registration.batch_columns if name in adata.obs and name != batch_key),
        ]
        n_batches = len(adata.obs[columns].drop_duplicates())
        found.append((f"{n_batches:,}", f"batches ({', '.join(map(_short, columns))})"))
    return found


def _cluster_rows(
    adata: AnnData, key: str, label_key: str | None, *, markers: pd.DataFrame | None
) -> list[dict[str, Any]]:
    """Return one row of the table for each cluster, in the order of the categories."""
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
            "stability": [row[name] for name in _keys.STABILITIES] if _keys.STABILITIES[0] in row else None,
            "confused_with": row.get("confused_with"),
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
    """Return the name and value of each model setting, and the number of epochs."""
    setup = model.registry["setup_args"]
    covariates = setup.get("categorical_covariate_keys")
    named = {
        "counts": f"layer {setup['layer']!r}" if setup.get("layer") else "X",
        "batch_key": setup.get("batch_key"),
        "categorical_covariate_keys": None if covariates is None else ", ".join(covariates),
        **model.init_params_["non_kwargs"],
        "n_clusters": f"{model.n_clusters_} ({'given' if _n_clusters_given(model) else 'estimated'})",
        "seed": model.seed_,
    }
    epochs = _epochs(model)
    named |= {"epochs of pre-training": epochs[1], "epochs of clustering": epochs[2]}
    return [(name, "none" if value is None else str(value)) for name, value in named.items()]


def _methods(adata: AnnData, model: SCGPCL, key: str) -> str:
    """Write text for the methods section of an article that describes what this model did."""
    settings = model.init_params_["non_kwargs"]
    epochs = _epochs(model)
    n_found = categories_of(adata, key).nunique()
    genes = f"all {model.module.n_genes:,} genes"
    if model.module.n_genes < adata.n_vars:
        chosen = {
            "discriminant": "that differ most between many small groups of cells, found on genes with the largest variance of "
            "Pearson residuals (Lause et al. 2021)",
            "pearson_residuals": "with the largest variance of Pearson residuals (Lause et al. 2021)",
            "seurat": "with the largest normalised dispersion",
            "variance": "with the largest variance of counts",
        }
        genes = f"the {model.module.n_genes:,} genes {chosen[settings['gene_flavor']]}"
    batches = " and corrects for batches" if model.module.n_batch else ""
    number = f"{model.n_clusters_} clusters ({'a given' if _n_clusters_given(model) else 'an estimated'} number)"
    sentences = [
        f"Counts of {adata.n_obs:,} cells were clustered with scgpcl {version('scgpcl')}, a development of the method of Lee et "
        f"al. (2023), in scvi-tools {version('scvi-tools')}, with random seed {model.seed_}.",
        f"The model uses {genes}{batches}.",
    ]
    axes = "discriminant axes" if settings["start"] == "discriminant" else "principal components"
    if epochs[1]:
        start = "" if settings["start"] == "random" else f"starts at {axes} of the expression and "
        sentences.append(
            f"Its encoder, which {start}exchanges messages between cells and genes, was pre-trained for {_counted(epochs[1])}: random "
            "views of a cell are contrasted with those of other cells and with prototypes of groups of cells, and counts are "
            "reconstructed with a zero-inflated negative binomial distribution."
        )
    # only the second stage by distillation calibrates the confidence
    if float(model.module.temperature) != 1.0:
        sentences += [
            f"Cells were divided into {number} by the consensus of k-means and Leiden partitions of the latent vectors and of "
            f"{axes}, of all counts and of random parts of them.",
            f"The assignment of cells to clusters was then distilled for {_counted(epochs[2])}, so that cells with a random part of "
            "their molecules are assigned like whole cells, on latent vectors corrected for sequencing depth.",
            "The confidence was calibrated such that one half of a cell's molecules predicts the cluster of the other half.",
        ]
    else:
        sentences.append(
            f"Cells were divided into {number} by k-means on the latent vectors, refined by {_counted(epochs[2])} of self-training "
            "on the model's own sharpened assignments."
        )
    if n_found != model.n_clusters_:
        sentences.append(f"The cells of this page are in {n_found} clusters.")
    sentences.append(
        f"Marker genes were ranked with scanpy {version('scanpy')} on log-normalised counts of all genes, each cluster against all "
        "other cells."
    )
    return " ".join(sentences)


def _counted(n_epochs: int) -> str:
    return f"{n_epochs} epoch{'' if n_epochs == 1 else 's'}"


def _epochs(model: SCGPCL) -> dict[int, int]:
    """Return the number of epochs of pre-training (1) and of clustering (2)."""
    if _keys.STAGE not in model.history_:
        return {1: 0, 2: 0}
    stage = model.history_[_keys.STAGE].iloc[:, 0]
    return {number: int((stage == number).sum()) for number in (1, 2)}


def _references() -> list[Reference]:
    """Return the references that a user of the page should cite."""
    return [
        Reference(
            "The method",
            "Lee J, Kim S, Hyun D, Lee N, Kim Y, Park C. Deep single-cell RNA-seq data clustering with graph prototypical "
            "contrastive learning. Bioinformatics 39(6), btad342, 2023.",
            "https://doi.org/10.1093/bioinformatics/btad342",
        ),
        Reference(
            "The choice of genes",
            "Lause J, Berens P, Kobak D. Analytic Pearson residuals for normalization of single-cell RNA-seq UMI data. "
            "Genome Biology 22, 258, 2021.",
            "https://doi.org/10.1186/s13059-021-02451-7",
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
