"""Words and numbers of the page, as plain data for the template."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.colors import to_hex

from scgpcl import _input as _checks
from scgpcl import _keys, _summary
from scgpcl.data import row_blocks
from scgpcl.pl._obs import categories_of, colors_of
from scgpcl.pp import library_sizes
from scgpcl.tl import top_markers

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scgpcl.model import SCGPCL

#: Marker genes per cluster in the table.
N_MARKERS = 8
#: Characters of a name in the page.
MAX_LENGTH = 80


class Reference(NamedTuple):
    """Something to cite."""

    what: str
    text: str
    url: str


def short(name: object) -> str:
    """Name of at most `MAX_LENGTH` characters; the middle of a longer one is left out."""
    text = "".join(c if c.isprintable() else " " for c in str(name))
    half = MAX_LENGTH // 2
    return text if len(text) <= MAX_LENGTH else f"{text[:half]}…{text[-half + 1 :]}"


def facts(
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
        (f"{np.median(n_detected):,.0f}", "genes in the median cell"),
        (f"{sizes.min():,} to {sizes.max():,}", "cells in a cluster"),
    ]
    if batch_key is not None:
        found.append((f"{adata.obs[batch_key].nunique():,}", f"batches ({short(batch_key)})"))
    return found


def cluster_rows(
    adata: AnnData, key: str, label_key: str | None, *, markers: pd.DataFrame | None
) -> list[dict[str, Any]]:
    """One row of the table per cluster, in the order of the categories."""
    groups = categories_of(adata, key)
    table = _summary.cluster_table(adata, key, label_key)
    genes = {} if markers is None else top_markers(markers, N_MARKERS)
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


def settings(model: SCGPCL) -> list[tuple[str, str]]:
    """Name and value of each setting of the model and what training did with them."""
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


def software() -> list[tuple[str, str]]:
    """Name and version of the programs behind the page."""
    packages = ("scgpcl", "scvi-tools", "scanpy", "anndata", "torch", "numpy")
    return [*((name, version(name)) for name in packages), ("Python", platform.python_version())]


def methods(adata: AnnData, model: SCGPCL, key: str) -> str:
    """A sentence for the methods section of an article."""
    n_clusters = categories_of(adata, key).nunique()
    chosen = "a given" if _n_clusters_given(model) else "an estimated"
    return (
        f"Counts of {adata.n_obs:,} cells were clustered with scgpcl {version('scgpcl')} (Lee et al. 2023; scvi-tools "
        f"{version('scvi-tools')}) on {model.module.n_genes:,} genes with {chosen} number of {model.n_clusters_} "
        f"clusters, of which {n_clusters} have cells, and the random seed {model.seed_}. Marker genes were ranked with "
        f"scanpy {version('scanpy')} on log-normalised counts of all genes."
    )


def cite() -> list[Reference]:
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
