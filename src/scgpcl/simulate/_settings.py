"""The settings of the simulation study of Lee et al. (2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._splatter import splatter

if TYPE_CHECKING:
    import anndata as ad

#: Parameters that all settings share; every other one has the default value of Splatter.
_SHARED: dict[str, Any] = {"n_genes": 5000, "dropout_shape": -1.0}


def dropout(mid: float = 2.0, *, n_groups: int = 6, seed: int = 0, **parameters: Any) -> ad.AnnData:
    """Simulate the paper's setting of many lost counts.

    3000 cells in equal groups and 5000 genes, differential factors of scale 0.3. The paper has `mid` 0, 0.5, 1, 1.5 and
    2 with 3 and 6 groups (its sets SimT3 and SimT6, 1 to 5). As there, genes and cells without counts are left out.

    Parameters
    ----------
    mid
        Midpoint of the dropout curve, `dropout_mid` in `SplatParameters`; larger loses more counts.
    n_groups
        Number of groups.
    seed
        Seed.
    **parameters
        Parameters of `splatter` to set otherwise, such as `batch_cells` or `n_genes`.

    Returns
    -------
    AnnData as `splatter` gives it.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    Lee et al. (2023). Deep single-cell RNA-seq data clustering with graph prototypical contrastive learning.
    Bioinformatics 39, btad342. Values are those of `simulate.ipynb` of its code.
    """
    return _simulate(seed, parameters, batch_cells=3000, de_fac_scale=0.3, dropout_mid=mid, **_equal(n_groups))


def signal(scale: float = 0.1, *, n_groups: int = 3, seed: int = 0, **parameters: Any) -> ad.AnnData:
    """Simulate the paper's setting of small differences between groups.

    3000 cells in equal groups and 5000 genes, dropout with midpoint 0. The paper's code has `scale` 0.1, 1.5, 2 and 2.5
    (its sets Sig1 to Sig4), with the heading "1.0" above the first. As there, genes and cells without counts are left out.

    Parameters
    ----------
    scale
        Scale of the differential factors, `de_fac_scale` in `SplatParameters`; smaller is harder.
    n_groups
        Number of groups.
    seed
        Seed.
    **parameters
        Parameters of `splatter` to set otherwise, such as `batch_cells` or `n_genes`.

    Returns
    -------
    AnnData as `splatter` gives it.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    As in `dropout`.
    """
    return _simulate(seed, parameters, batch_cells=3000, de_fac_scale=scale, dropout_mid=0.0, **_equal(n_groups))


def imbalance(retention: float = 0.1, *, n_groups: int = 6, seed: int = 0, **parameters: Any) -> ad.AnnData:
    """Simulate the paper's setting of groups of unequal size.

    1500 cells and 5000 genes, differential factors of scale 0.4, dropout with midpoint 0. The probabilities of the groups
    rise linearly. The paper has `retention` 0.1, 0.3, 0.5, 0.7 and 0.9 (its sets Imb1 to Imb5). As there, genes and cells
    without counts are left out.

    Parameters
    ----------
    retention
        Probability of the smallest group over that of the largest, above 0 and at most 1.
    n_groups
        Number of groups.
    seed
        Seed.
    **parameters
        Parameters of `splatter` to set otherwise, such as `batch_cells` or `n_genes`.

    Returns
    -------
    AnnData as `splatter` gives it.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    As in `dropout`.
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
