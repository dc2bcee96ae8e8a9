"""Simulate data sets as AnnData."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scgpcl.simulate._model import Latents, dropout_logit, gamma_shape_scale, latent_model, require_numpyro
from scgpcl.simulate._parameters import SplatParameters, is_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Number of entries (cells times genes) per block. The arrays of a block take a few tens of megabytes.
_BLOCK_SIZE = 2**21


def splatter(
    n_cells: int | None = None,
    n_genes: int = 2000,
    *,
    group_prob: Sequence[float] = (1.0,),
    batch_cells: Sequence[int] | int | None = None,
    seed: int = 0,
    true_counts: bool = True,
    true_means: bool = False,
    **parameters: Any,
) -> ad.AnnData:
    """Simulate counts with known groups from the model of Splatter.

    The model is :func:`splat_model`. Gene and cell variables are sampled with numpyro. Given these, counts are sampled with
    numpy in blocks of cells, which is about fifteen times faster and avoids a dense array of all cells. The data set depends
    on the seed but not on the block size. The R package gives a different data set for the same seed.

    Parameters
    ----------
    n_cells
        Number of cells in a single batch, 1000 by default. Cannot be combined with ``batch_cells``.
    n_genes
        Number of genes.
    group_prob
        Probability of each group. The probabilities must sum to one.
    batch_cells
        Number of cells in each batch.
    seed
        Random seed.
    true_counts
        Whether to store the counts before dropout.
    true_means
        Whether to store the expected counts, which are a dense float32 layer without zeros.
    **parameters
        Further parameters of :class:`SplatParameters`, such as ``de_prob``, ``de_fac_scale``, ``dropout_mid`` or ``lib_loc``.

    Returns
    -------
    AnnData with all cells and genes, including cells and genes without counts.

    ``.X``
        Counts, CSR int32.
    ``.layers["true_counts"]``
        Counts before dropout, CSR int32. They are equal to ``.X`` if there is no dropout.
    ``.layers["true_means"]``
        Expected counts given the batch, group and library size, if ``true_means`` is set.
    ``.obs["group"]``, ``.obs["batch"]``
        Group and batch of each cell (categorical).
    ``.obs["lib_size"]``
        Expected library size before dropout.
    ``.var["base_mean"]``, ``.var["outlier_factor"]``, ``.var["mean"]``
        Mean of each gene before outliers are introduced, outlier factor (one for genes that are not outliers), and mean
        after outliers are introduced.
    ``.var["bcv_noise"]``
        Deviation from the trend of the squared coefficient of variation.
    ``.varm["de_factors"]``, ``.varm["batch_factors"]``
        Factors by which the mean is multiplied in each group and in each batch (data frames). They are one for genes
        that do not differ. If there is only one batch, there are no batch factors.
    ``.uns["simulation"]``
        Parameters and seed. Missing values are stored as ``"none"``.

    Raises
    ------
    ValueError
        If a parameter is outside its range.
    TypeError
        If a parameter does not exist.
    ImportError
        If jax or numpyro is not installed.

    References
    ----------
    Zappia, Phipson and Oshlack (2017). Splatter: simulation of single-cell RNA sequencing data. Genome Biology 18, 174.

    Examples
    --------
    >>> adata = scgpcl.simulate.splatter(500, 1000, group_prob=[0.6, 0.4], de_fac_scale=0.3, dropout_mid=2.0, seed=1)
    >>> adata.obs["group"].cat.categories.tolist()
    ['Group1', 'Group2']
    """
    p = _parameters(n_cells, n_genes, group_prob, batch_cells, parameters)
    if not is_whole(seed) or not 0 <= seed < 2**32:
        msg = f"Expected `seed` to be a whole number from 0 to 2**32 - 1, found {seed!r}."
        raise ValueError(msg)
    require_numpyro()
    latents, sites = _draw_latents(p, int(seed))
    counts, true = _draw_counts(p, latents, int(seed), keep_true=true_counts)
    adata = ad.AnnData(counts, obs=_obs(latents, p), var=_var(latents, sites, p))
    adata.varm["de_factors"] = _frame(sites["de_factor"], "Group", adata.var_names)
    if p.n_batches > 1:
        adata.varm["batch_factors"] = _frame(sites["batch_factor"], "Batch", adata.var_names)
    if true is not None:
        adata.layers["true_counts"] = true
    if true_means:
        adata.layers["true_means"] = np.concatenate([x.astype(np.float32) for x in _base_means(latents)])
    values = {field.name: getattr(p, field.name) for field in fields(p)}
    adata.uns["simulation"] = {k: "none" if v is None else v for k, v in values.items()} | {"seed": int(seed)}
    return adata


def _parameters(
    n_cells: int | None,
    n_genes: int,
    group_prob: Sequence[float],
    batch_cells: Sequence[int] | int | None,
    others: dict[str, Any],
) -> SplatParameters:
    """Create the parameters from the arguments of ``splatter``."""
    if n_cells is not None and batch_cells is not None:
        msg = f"Expected `n_cells` or `batch_cells`, found both: {n_cells} and {batch_cells}. Pass only one of them."
        raise ValueError(msg)
    names = {field.name for field in fields(SplatParameters)}
    unknown = sorted(set(others) - names)
    if unknown:
        msg = f"Expected parameters among {sorted(names)}, found {unknown}."
        raise TypeError(msg)
    cells = batch_cells if batch_cells is not None else 1000 if n_cells is None else n_cells
    # lists, so that parameters can be compared and written to files
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in others.items()}
    return SplatParameters(
        n_genes=n_genes,
        batch_cells=list(cells) if np.iterable(cells) else [cells],
        group_prob=np.asarray(group_prob, dtype=np.float64).tolist(),
        **plain,
    )


def _draw_latents(p: SplatParameters, seed: int) -> tuple[Latents, dict[str, np.ndarray]]:
    """Draw the latent variables in float64, together with the values of all sites."""
    import jax
    from numpyro import handlers

    trace: dict[str, Any] = {}

    def model() -> Latents:
        with handlers.trace() as tracer:
            latents = latent_model(p)
        trace.update(tracer)
        return latents

    latents = Latents(*(np.asarray(x) for x in handlers.seed(model, jax.random.key(seed))()))
    sites = {name: np.asarray(site["value"]) for name, site in trace.items() if site["type"] != "plate"}
    profiles = latents.profiles.astype(np.float64)
    return latents._replace(
        profiles=profiles / profiles.sum(-1, keepdims=True),
        bcv_noise=latents.bcv_noise.astype(np.float64),
        lib_size=latents.lib_size.astype(np.float64),
    ), sites


def _base_means(latents: Latents) -> Iterator[np.ndarray]:
    """Yield the expected counts of successive blocks of cells, each of shape (n_block, n_genes)."""
    n_cells, n_genes = len(latents.group), latents.profiles.shape[-1]
    n_block = max(1, _BLOCK_SIZE // n_genes)
    for start in range(0, n_cells, n_block):
        cells = slice(start, start + n_block)
        yield latents.lib_size[cells, None] * latents.profiles[latents.batch[cells], latents.group[cells]]


def _draw_counts(
    p: SplatParameters, latents: Latents, seed: int, *, keep_true: bool
) -> tuple[sparse.csr_matrix, sparse.csr_matrix | None]:
    """Draw the counts after and before dropout, CSR int32 (n_cells, n_genes)."""
    # one stream per kind of draw, used cell by cell, so that the block size does not matter
    streams = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    mean_stream, count_stream, dropout_stream = streams
    observed: list[sparse.csr_matrix] = []
    true: list[sparse.csr_matrix] = []
    for base in _base_means(latents):
        shape, scale = gamma_shape_scale(base, latents.bcv_noise, p.bcv_common, xp=np)
        mean = mean_stream.standard_gamma(shape) * scale
        block = sparse.csr_matrix(count_stream.poisson(mean).astype(np.int32))
        if keep_true and p.dropout_mid is not None:
            true.append(block)
        observed.append(_after_dropout(block, mean, p, dropout_stream))
    x = _stacked(observed)
    if not keep_true:
        return x, None
    return x, x.copy() if p.dropout_mid is None else _stacked(true)


def _after_dropout(
    block: sparse.csr_matrix, mean: np.ndarray, p: SplatParameters, stream: np.random.Generator
) -> sparse.csr_matrix:
    """Return the counts after dropout, or the block itself if there is no dropout."""
    if p.dropout_mid is None:
        return block
    # a logistic variable exceeds a logit with the complementary probability
    kept = stream.logistic(size=block.nnz) > dropout_logit(mean[block.nonzero()], p, xp=np)
    indptr = np.concatenate(([0], np.cumsum(kept)))[block.indptr]
    return sparse.csr_matrix((block.data[kept], block.indices[kept], indptr), shape=block.shape)


def _stacked(blocks: list[sparse.csr_matrix]) -> sparse.csr_matrix:
    """Stack all blocks and clear the list, so that the blocks do not take memory twice."""
    result = sparse.vstack(blocks, format="csr")
    blocks.clear()
    return result


def _obs(latents: Latents, p: SplatParameters) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "group": pd.Categorical.from_codes(latents.group, pd.Index(_names("Group", p.n_groups))),
            "batch": pd.Categorical.from_codes(latents.batch, pd.Index(_names("Batch", p.n_batches))),
            "lib_size": latents.lib_size,
        },
        index=_names("Cell", p.n_cells),
    )


def _var(latents: Latents, sites: dict[str, np.ndarray], p: SplatParameters) -> pd.DataFrame:
    columns = {name: sites[name] for name in ("base_mean", "outlier_factor", "mean")}
    return pd.DataFrame({**columns, "bcv_noise": latents.bcv_noise}, index=_names("Gene", p.n_genes))


def _frame(factors: np.ndarray, prefix: str, genes: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(factors.T, index=genes, columns=_names(prefix, len(factors)))


def _names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i + 1}" for i in range(n)]
