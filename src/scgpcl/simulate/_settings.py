"""Settings of the simulation study in Lee et al. (2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgpcl.simulate._splatter import splatter

if TYPE_CHECKING:
    import anndata as ad

#: Parameters shared by all settings. The other parameters have Splatter's default values.
_SHARED: dict[str, Any] = {"n_genes": 5000, "dropout_shape": -1.0}


def dropout(mid: float = 2.0, *, n_groups: int = 6, seed: int = 0, **parameters: Any) -> ad.AnnData:
    """Simulate the paper's setting with strong dropout.

    The data set has 3000 cells in equal groups and 5000 genes, with differential expression factors of scale 0.3. The
    paper uses values of 0, 0.5, 1, 1.5 and 2 for ``mid``, with 3 and 6 groups (its data sets SimT3 and SimT6, 1 to 5).
    As in the paper, genes and cells without counts are removed.

    Parameters
    ----------
    mid
        Midpoint of the dropout curve (``dropout_mid`` in :class:`SplatParameters`). With higher values, more counts are
        lost.
    n_groups
        Number of groups.
    seed
        Random seed.
    **parameters
        Other arguments of :func:`splatter`, such as ``batch_cells`` or ``n_genes``.

    Returns
    -------
    AnnData as returned by :func:`splatter`.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    Lee et al. (2023). Deep single-cell RNA-seq data clustering with graph prototypical contrastive learning.
    Bioinformatics 39, btad342. The values are taken from ``simulate.ipynb`` in the published code.
    """
    return _simulate(seed, parameters, batch_cells=3000, de_fac_scale=0.3, dropout_mid=mid, **_equal(n_groups))


def signal(scale: float = 0.1, *, n_groups: int = 3, seed: int = 0, **parameters: Any) -> ad.AnnData:
    """Simulate the paper's setting with small differences between groups.

    The data set has 3000 cells in equal groups and 5000 genes, with dropout at midpoint 0. The paper's code uses values
    of 0.1, 1.5, 2 and 2.5 for ``scale`` (its data sets Sig1 to Sig4), with the heading "1.0" above the first. As in the
    paper, genes and cells without counts are removed.

    Parameters
    ----------
    scale
        Scale of the differential expression factors (``de_fac_scale`` in :class:`SplatParameters`). With smaller
        values, the groups are harder to separate.
    n_groups
        Number of groups.
    seed
        Random seed.
    **parameters
        Other arguments of :func:`splatter`, such as ``batch_cells`` or ``n_genes``.

    Returns
    -------
    AnnData as returned by :func:`splatter`.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    As in :func:`dropout`.
    """
    return _simulate(seed, parameters, batch_cells=3000, de_fac_scale=scale, dropout_mid=0.0, **_equal(n_groups))


def imbalance(retention: float = 0.1, *, n_groups: int = 6, seed: int = 0, **parameters: Any) -> ad.AnnData:
    """Simulate the paper's setting with groups of unequal size.

    The data set has 1500 cells and 5000 genes, with differential expression factors of scale 0.4 and dropout at
    midpoint 0. The group probabilities increase linearly. The paper uses values of 0.1, 0.3, 0.5, 0.7 and 0.9 for
    ``retention`` (its data sets Imb1 to Imb5). As in the paper, genes and cells without counts are removed.

    Parameters
    ----------
    retention
        Ratio of the smallest to the largest group probability, above 0 and at most 1.
    n_groups
        Number of groups.
    seed
        Random seed.
    **parameters
        Other arguments of :func:`splatter`, such as ``batch_cells`` or ``n_genes``.

    Returns
    -------
    AnnData as returned by :func:`splatter`.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    As in :func:`dropout`.
    """
    if not 0 < retention <= 1:
        msg = f"Expected `retention` to be above 0 and at most 1, found {retention!r}."
        raise ValueError(msg)
    _check_groups(n_groups)
    share = np.linspace(retention, 1, n_groups)
    return _simulate(
        seed, parameters, batch_cells=1500, de_fac_scale=0.4, dropout_mid=0.0, group_prob=share / share.sum()
    )


def _simulate(seed: int, parameters: dict[str, Any], **setting: Any) -> ad.AnnData:
    """Simulate counts, then remove cells and genes without counts."""
    adata = splatter(**{**_SHARED, **setting, **parameters}, seed=seed)
    seen = adata.X > 0
    cells, genes = (np.asarray(seen.sum(axis)).ravel() > 0 for axis in (1, 0))
    return adata[cells, genes].copy()


def _equal(n_groups: int) -> dict[str, Any]:
    _check_groups(n_groups)
    return {"group_prob": [1 / n_groups] * n_groups}


def _check_groups(n_groups: int) -> None:
    if n_groups < 1:
        msg = f"Expected `n_groups` to be 1 or more, found {n_groups!r}."
        raise ValueError(msg)
