"""Data for the map on the page: positions, values and names of cells, and sums over groups, packed for a browser."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from scgpcl import _input as _checks
from scgpcl import _keys
from scgpcl._report._describe import stability_of
from scgpcl.data import row_blocks
from scgpcl.pl._style import categories_of, colors_of
from scgpcl.tl import rank_markers, top_markers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgpcl.model import SCGPCL

#: Maximum number of cells on the map. Larger data sets are randomly subsampled.
MAX_CELLS = 200_000
#: Number of marker genes that are listed and can be drawn for each cluster, and maximum number of values for all cells
#: and genes on the page. If this would be exceeded, fewer genes are used.
N_MARKERS, MAX_VALUES = 8, 25_000_000
#: Maximum number of groups that can be distinguished in a column of ``obs``.
MAX_GROUPS = 100
#: Number of neighbours per cell, number of cells to find neighbours for, and number of cells to search.
N_NEIGHBORS, N_ASKED, N_SEARCHED = 15, 4000, 40_000
#: Counts per cell after normalisation, as used to rank marker genes.
TARGET_SUM = 1e4
#: Number of steps in a colour scale and in the values of a gene.
N_COLORS = 64
DOUBLET_SCORE = "doublet_score"


class Level(NamedTuple):
    """One division of the cells into groups.

    Contains its name, the groups as text, the code of each cell (-1 if it has no group), and the colours and marker
    genes of the groups.
    """

    name: str
    groups: list[str]
    codes: np.ndarray
    colors: list[str]
    genes: list[list[str]]


class Measured(NamedTuple):
    """Total counts, detected genes, mitochondrial share (or None) and log-normalised expression (CSR) of each cell."""

    depth: np.ndarray
    n_genes: np.ndarray
    mitochondrial: np.ndarray | None
    expression: sp.csr_matrix


def check_levels(levels: Any, adata: ad.AnnData) -> None:
    """Check that the levels are nested labels of all cells, with one column per level."""
    if levels is None:
        return
    if not isinstance(levels, pd.DataFrame) or levels.shape[1] == 0:
        found = "no columns" if isinstance(levels, pd.DataFrame) else type(levels).__name__
        msg = f"Expected `levels` to be a DataFrame with a column of labels for each level, found {found}."
        raise TypeError(msg)
    if not levels.index.equals(adata.obs_names):
        msg = (
            f"Expected `levels` to have the cells of `adata` in their order, found {len(levels)} other rows for "
            f"{adata.n_obs} cells. Take `levels.loc[adata.obs_names]`."
        )
        raise ValueError(msg)
    if not levels.columns.is_unique:
        msg = (
            f"Expected levels with different names, found the columns [{_checks.listed(levels.columns)}]. Rename them."
        )
        raise ValueError(msg)
    if levels.isna().any().any():
        column = levels.columns[levels.isna().any()][0]
        msg = f"Expected a label for every cell in `levels`, found {int(levels[column].isna().sum())} without one in {column!r}."
        raise ValueError(msg)
    coarse_to_fine = sorted(levels, key=lambda column: levels[column].nunique())
    for coarse, fine in zip(coarse_to_fine, coarse_to_fine[1:], strict=False):
        parents = levels[coarse].groupby(levels[fine], observed=True).nunique()
        if parents.max() > 1:
            name = parents.idxmax()
            msg = (
                f"Expected nested levels, found group {str(name)!r} of {fine!r} in {parents.max()} groups of {coarse!r}. "
                "Cut all levels from one tree."
            )
            raise ValueError(msg)


def check_genes(genes: Any, adata: ad.AnnData) -> list[str]:
    """Check that genes are in ``adata``, and return their names without duplicates."""
    if genes is None:
        return []
    if isinstance(genes, str | bytes) or not isinstance(genes, Iterable):
        msg = f"Expected `genes` to be a list of names, found {genes!r}."
        raise TypeError(msg)
    names = list(dict.fromkeys(genes))
    unknown = [name for name in names if name not in adata.var_names]
    if unknown:
        msg = (
            f"Expected genes of `adata.var_names` in `genes`, found [{_checks.listed(unknown)}]. Check their spelling "
            f"(the first gene of the data is {str(adata.var_names[0])!r})."
        )
        raise ValueError(msg)
    return names


def explorer(
    adata: ad.AnnData,
    model: SCGPCL,
    key: str,
    *,
    positions: np.ndarray | None,
    layer: str | None,
    batch_key: str | None,
    label_key: str | None,
    markers: pd.DataFrame | None,
    levels: pd.DataFrame | None,
    genes: Sequence[str],
    doublets: bool,
    seed: int,
) -> dict[str, Any]:
    """Return everything that the script of the page reads, ready for JSON.

    ``positions`` (n_cells, 2) are the positions of the cells on the map.
    """
    rng = np.random.default_rng(seed)
    counts = _checks.counts_of(adata, layer)
    n_groups = categories_of(adata, key).nunique() + (0 if levels is None else int(levels.nunique().sum()))
    n_markers = int(np.clip(MAX_VALUES // min(adata.n_obs, MAX_CELLS) // n_groups, 2, N_MARKERS))
    own, *others = _levels(adata, key, markers, levels, layer=layer, n_markers=n_markers)
    divisions = sorted([own, *others], key=lambda level: len(level.groups))
    names = [str(name) for name in adata.var_names]
    known = {name: column for column, name in enumerate(names)}
    drawn = list(dict.fromkeys([*genes, *(g for level in divisions for group in level.genes for g in group)]))
    measured = measure(counts, [known[name] for name in drawn], names)
    scores = _doublet_scores(adata, counts, batch_key, seed) if doublets else adata.obs.get(DOUBLET_SCORE)

    # the finest groups, of which the groups of every level are unions
    combined = np.column_stack([level.codes for level in divisions])
    unions, atoms = np.unique(combined, axis=0, return_inverse=True)
    atoms = atoms.ravel()
    n_atoms = len(unions)
    member = sp.csr_matrix((np.ones(adata.n_obs), (atoms, np.arange(adata.n_obs))), shape=(n_atoms, adata.n_obs))
    sizes = np.bincount(atoms, minlength=n_atoms)
    confidence = adata.obs.get(_keys.CONFIDENCE)
    stored = stability_of(adata, key)
    stability = None if stored is None else stored[list(_keys.STABILITIES)].to_numpy().tolist()

    shown = np.arange(adata.n_obs)
    if adata.n_obs > MAX_CELLS:
        shown = np.sort(rng.choice(adata.n_obs, MAX_CELLS, replace=False))
    shown = shown[np.argsort(atoms[shown], kind="stable")]  # similar cells side by side compress well

    values: list[dict[str, Any]] = []
    if confidence is not None:
        values.append(_number("Confidence", confidence.to_numpy(), shown, high=1.0))
    values.append(_number("Counts", measured.depth, shown, log=True, quality=True))
    values.append(_number("Genes detected", measured.n_genes, shown, log=True, quality=True))
    if measured.mitochondrial is not None:
        values.append(_number("Mitochondrial share (%)", 100 * measured.mitochondrial, shown, low=0.0, quality=True))
    if scores is not None and pd.api.types.is_numeric_dtype(scores):
        values.append(_number("Doublet score", np.asarray(scores, dtype=float), shown, low=0.0, quality=True))
    columns = [("Batch", batch_key), ("Type", label_key), ("Name", _keys.NAME if _keys.NAME in adata.obs else None)]
    groups = [_groups(adata, column, caption, shown, member) for caption, column in columns if column is not None]

    expression = measured.expression
    mean = np.asarray((member @ expression).todense()) / sizes[:, None]
    detected = np.asarray((member @ (expression > 0)).todense()) / sizes[:, None]
    by_gene = expression[shown].tocsc()
    return {
        "key": key,
        "n_cells": adata.n_obs,
        "n_shown": len(shown),
        "levels": [
            {
                "name": level.name,
                "groups": level.groups,
                "colors": level.colors,
                "genes": [[drawn.index(name) for name in group] for group in level.genes],
                "atoms": unions[:, number].tolist(),
                "stability": stability if level is own else None,
            }
            for number, level in enumerate(divisions)
        ],
        "start": next(number for number, level in enumerate(divisions) if level is own),
        "sizes": sizes.tolist(),
        "confidence": None if confidence is None else (member @ confidence.to_numpy() / sizes).tolist(),
        "links": _packed(_links(adata, atoms, n_atoms, rng).astype(np.float32)),
        "positions": None if positions is None else _packed(_scaled(positions)[shown]),
        "atoms": _packed(atoms[shown].astype(np.uint16)),
        "cells": _packed("\n".join(str(name).replace("\n", " ") for name in adata.obs_names[shown])),
        "values": values,
        "columns": groups,
        "genes": [
            {"name": name, "max": high, "data": _packed(levels_of_gene)}
            for name, (high, levels_of_gene) in zip(drawn, map(_dense, _columns(by_gene)), strict=True)
        ],
        "listed": n_markers,
        "mean": _packed(mean.astype(np.float32)),
        "detected": _packed(detected.astype(np.float32)),
        "scales": {"light": _scale("BuPu", 0.18, 1.0), "dark": _scale("magma", 0.22, 0.98)},
    }


def measure(counts: Any, columns: Sequence[int], names: Sequence[str]) -> Measured:
    """Measure the cells in one pass over the counts (n_cells, n_genes), in any storage.

    ``columns`` are the positions of the genes to log-normalise.
    """
    mitochondrial = np.flatnonzero([str(name).upper().startswith("MT-") for name in names])
    depth, n_genes, share, expression = [], [], [], []
    for block in row_blocks(counts):
        total = np.asarray(block.sum(1), dtype=np.float64).ravel()
        per_cell = 1.0 / np.maximum(total, 1.0)
        depth.append(total)
        n_genes.append(np.diff(block.indptr) if (block.data != 0).all() else np.asarray((block != 0).sum(1)).ravel())
        share.append(np.asarray(block[:, mitochondrial].sum(1), dtype=np.float64).ravel() * per_cell)
        part = sp.csr_matrix(block[:, np.asarray(columns, dtype=int)], dtype=np.float64)
        part = sp.csr_matrix(sp.diags(TARGET_SUM * per_cell) @ part)
        part.eliminate_zeros()
        expression.append(part.log1p())
    return Measured(
        np.concatenate(depth),
        np.concatenate(n_genes),
        np.concatenate(share) if len(mitochondrial) else None,
        sp.csr_matrix(sp.vstack(expression)),
    )


def _levels(
    adata: ad.AnnData,
    key: str,
    markers: pd.DataFrame | None,
    levels: pd.DataFrame | None,
    *,
    layer: str | None,
    n_markers: int,
) -> list[Level]:
    """Return the clusters, then the levels of the tree, except for a level with the same groups as the clusters."""
    clusters = categories_of(adata, key)
    codes = clusters.cat.codes.to_numpy()
    hexes = [to_hex(color) for color in (colors_of(adata, key)[name] for name in clusters.cat.categories)]
    own = Level(key, _texts(clusters), codes, hexes, _listed(markers, _texts(clusters), n_markers))
    found = [own]
    for name, labels in {} if levels is None else levels.items():
        column = labels.astype("category").cat.remove_unused_categories()
        of_cell = column.cat.codes.to_numpy()
        pairs = pd.DataFrame({"level": of_cell, "own": codes}).value_counts()
        if len(pairs) == len(own.groups) == len(column.cat.categories):
            continue
        cells = ad.AnnData(
            _checks.counts_of(adata, layer),
            obs=pd.DataFrame({"level": column.array}, index=adata.obs_names),
            var=pd.DataFrame(index=adata.var_names),
        )
        ranked = None
        if len(column.cat.categories) > 1 and column.value_counts().max() > 1:
            ranked = rank_markers(cells, "level", method="t-test", key_added=None)
        groups = _texts(column)
        found.append(
            Level(str(name), groups, of_cell, _inherited(pairs, hexes, len(groups)), _listed(ranked, groups, n_markers))
        )
    return found


def _texts(column: pd.Series) -> list[str]:
    return [str(name) for name in column.cat.categories]


def _listed(markers: pd.DataFrame | None, groups: list[str], n_markers: int) -> list[list[str]]:
    """Return the marker genes of each group, best first."""
    genes: Mapping[str, list[str]] = {} if markers is None else top_markers(markers, n_markers, skip_mt_ribo=True)
    return [[str(gene) for gene in genes.get(name, [])] for name in groups]


def _inherited(pairs: pd.Series, colors: list[str], n_groups: int) -> list[str]:
    """Return the colour of each group of a level.

    A group has the colour of the cluster with most of its cells, and further groups of the same cluster are paler.
    """
    most = pairs.reset_index(name="n").sort_values(["n", "level"], ascending=[False, True]).drop_duplicates("level")
    most = most[most["own"] >= 0]
    result = ["#808080"] * n_groups
    for _, rows in most.groupby("own"):
        for step, (level, own) in enumerate(rows[["level", "own"]].to_numpy()):
            paler = 0.7 * step / max(2, len(rows))
            red, green, blue = ((1 - paler) * part + paler for part in to_rgb(colors[own]))
            result[level] = to_hex((red, green, blue))
    return result


def _links(adata: ad.AnnData, atoms: np.ndarray, n_atoms: int, rng: np.random.Generator) -> np.ndarray:
    """Estimate the number of neighbours in each group (columns) for the cells of each group (rows).

    Neighbours are the nearest cells in the latent space.
    """
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    latent = normalize(np.asarray(adata.obsm[_keys.LATENT], dtype=np.float32))
    links = np.zeros((n_atoms, n_atoms))
    n_neighbors = min(N_NEIGHBORS, adata.n_obs - 2)
    if n_neighbors < 1:
        return links
    searched = np.arange(adata.n_obs)
    if adata.n_obs > N_SEARCHED:
        searched = np.sort(rng.choice(adata.n_obs, N_SEARCHED, replace=False))
    sizes = np.bincount(atoms, minlength=n_atoms)
    asked = [
        rng.permutation(np.flatnonzero(atoms == atom))[: max(N_ASKED // n_atoms, N_ASKED * sizes[atom] // adata.n_obs)]
        for atom in range(n_atoms)
    ]
    index = NearestNeighbors(n_neighbors=n_neighbors + 1, algorithm="brute").fit(latent[searched])
    for atom, cells in enumerate(asked):
        near = searched[index.kneighbors(latent[cells], return_distance=False)]
        others = near != cells[:, None]
        others[others.all(1), -1] = False  # the cell itself was not among those searched, or came after its copies
        links[atom] = np.bincount(atoms[near[others]], minlength=n_atoms) * sizes[atom] / len(cells)
    return links


def _doublet_scores(adata: ad.AnnData, counts: Any, batch_key: str | None, seed: int) -> np.ndarray:
    """Compute the doublet score of each cell with :func:`scanpy.pp.scrublet`, or NaN for cells that it leaves out."""
    import scanpy as sc

    cells = ad.AnnData(sp.vstack(list(row_blocks(counts)), format="csr", dtype=np.float32))
    cells.obs_names = np.arange(cells.n_obs).astype(str)
    if batch_key is not None:
        cells.obs["batch"] = pd.Categorical(adata.obs[batch_key].astype(str))
    fewest = cells.n_obs if batch_key is None else int(cells.obs["batch"].value_counts().min())
    # any threshold: only the scores are used, and finding one would need scikit-image
    sc.pp.scrublet(
        cells,
        batch_key=None if batch_key is None else "batch",
        n_prin_comps=max(2, min(30, fewest - 1, cells.n_vars - 1)),
        threshold=1.0,
        verbose=False,
        random_state=seed,
    )
    return cells.obs[DOUBLET_SCORE].to_numpy(dtype=float)


def _number(
    caption: str,
    values: np.ndarray,
    shown: np.ndarray,
    *,
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    quality: bool = False,
) -> dict[str, Any]:
    """Encode the values of the drawn cells in 65535 steps between two limits, with 0 for missing values."""
    values = np.asarray(values, dtype=np.float64)[shown]
    values = np.log10(np.maximum(values, 1.0)) if log else values
    finite = values[np.isfinite(values)]
    low = (float(finite.min()) if len(finite) else 0.0) if low is None else low
    high = (float(finite.max()) if len(finite) else 1.0) if high is None else high
    high = high if high > low else low + 1.0
    steps = np.where(np.isfinite(values), 1 + np.rint(65534 * np.clip((values - low) / (high - low), 0, 1)), 0)
    return {
        "caption": caption,
        "low": low,
        "high": high,
        "log": log,
        "quality": quality,
        "data": _packed(np.nan_to_num(steps).astype(np.uint16)),
    }


def _groups(adata: ad.AnnData, column: str, caption: str, shown: np.ndarray, member: sp.csr_matrix) -> dict[str, Any]:
    """Encode the group of each drawn cell (0 for none), and count the cells of each group in ``member``.

    If there are very many groups, only the largest are kept.
    """
    groups = categories_of(adata, column)
    names = list(groups.cat.categories)
    colors = [to_hex(color) for color in (colors_of(adata, column)[name] for name in names)]
    kept = np.sort(np.argsort(-groups.value_counts(sort=False).to_numpy(), kind="stable")[:MAX_GROUPS])
    new = np.zeros(len(names) + 1, dtype=np.uint8)
    new[kept] = np.arange(1, len(kept) + 1)
    codes = new[groups.cat.codes.to_numpy()]
    counts = np.column_stack([member @ (codes == code).astype(float) for code in range(1, len(kept) + 1)])
    return {
        "is_type": caption == "Type",
        "counts": _packed(counts.astype(np.float32)),
        "caption": caption if str(column) in (caption, _keys.NAME) else f"{caption} ({column})",
        "names": [str(names[old]) for old in kept],
        "colors": [colors[old] for old in kept],
        "data": _packed(codes[shown]),
    }


def _scaled(positions: np.ndarray) -> np.ndarray:
    """Scale positions to 65535 steps of the longer side of the map, centred in a square; uint16, (n_cells, 2)."""
    positions = np.asarray(positions, dtype=np.float64)
    middle = (positions.max(0) + positions.min(0)) / 2
    reach = float(np.ptp(positions, axis=0).max()) or 1.0
    return np.rint(65535 * ((positions - middle) / reach + 0.5)).astype(np.uint16)


def _columns(matrix: sp.csc_matrix) -> Iterable[tuple[np.ndarray, np.ndarray, int]]:
    """Yield the rows and values of each column, together with the number of rows."""
    for start, end in zip(matrix.indptr, matrix.indptr[1:], strict=False):
        yield matrix.indices[start:end], matrix.data[start:end], matrix.shape[0]


def _dense(column: tuple[np.ndarray, np.ndarray, int]) -> tuple[float, np.ndarray]:
    """Return the largest value of a gene, and its values in a few steps.

    The value 0 is only used for zeros, which compress well.
    """
    rows, values, n_cells = column
    result = np.zeros(n_cells, dtype=np.uint8)
    high = float(values.max()) if len(values) else 0.0
    result[rows] = np.maximum(1, np.rint((N_COLORS - 1) * values / (high or 1.0)))
    return high, result


def _packed(values: np.ndarray | str) -> str:
    """Compress the bytes of an array (little-endian) or of text in UTF-8, and encode them in base64."""
    if isinstance(values, str):
        data = values.encode("utf-8", errors="replace")
    else:
        data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")


def _scale(name: str, low: float, high: float) -> list[str]:
    """Return colours from a matplotlib colormap between two given points."""
    return [to_hex(color) for color in colormaps[name](np.linspace(low, high, N_COLORS))]
