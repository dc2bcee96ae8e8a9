"""Parameters of the simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Tolerance for the sum of the group probabilities.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class SplatParameters:
    """Parameters of Splatter's model, with Splatter's names and default values.

    Parameters that are marked as "per group" or "per batch" take either one number for all groups or batches, or one
    number for each of them. Splatter's paths, normally distributed library sizes, and dropout per batch, group or cell
    are not implemented.

    Parameters
    ----------
    n_genes
        Number of genes.
    batch_cells
        Number of cells in each batch.
    group_prob
        Probability of each group. The probabilities must sum to one.
    mean_shape, mean_rate
        Shape and rate of the gamma distribution of gene means.
    lib_loc, lib_scale
        Location and scale of the log-normal distribution of expected library sizes. By default, cells have about
        60,000 counts before dropout.
    out_prob
        Probability that a gene is an outlier, whose mean is the median of all gene means times a factor.
    out_fac_loc, out_fac_scale
        Location and scale of the log-normal distribution of outlier factors.
    de_prob
        Probability that a gene is differentially expressed in a group (per group).
    de_down_prob
        Probability that such a gene is down-regulated (per group).
    de_fac_loc, de_fac_scale
        Location and scale of the log-normal distribution of differential expression factors (per group).
    bcv_common
        Biological coefficient of variation common to all genes.
    bcv_df
        Degrees of freedom of the variation around this trend. Fewer degrees of freedom give more variation.
    dropout_mid
        Log of the mean of a gene in a cell at which half of the counts are lost. If ``None``, there is no dropout.
    dropout_shape
        Slope of the logistic curve. With negative values, small counts are lost more often.
    batch_fac_loc, batch_fac_scale
        Location and scale of the log-normal distribution of the batch factors of each gene (per batch). They are only
        used if there is more than one batch.

    Raises
    ------
    ValueError
        If a value is out of range, or if a sequence does not have one value per group or batch.

    References
    ----------
    Zappia, Phipson and Oshlack (2017). Splatter: simulation of single-cell RNA sequencing data. Genome Biology 18, 174.
    """

    n_genes: int = 2000
    batch_cells: Sequence[int] = (1000,)
    group_prob: Sequence[float] = (1.0,)
    mean_shape: float = 0.6
    mean_rate: float = 0.3
    lib_loc: float = 11.0
    lib_scale: float = 0.2
    out_prob: float = 0.05
    out_fac_loc: float = 4.0
    out_fac_scale: float = 0.5
    de_prob: float | Sequence[float] = 0.1
    de_down_prob: float | Sequence[float] = 0.5
    de_fac_loc: float | Sequence[float] = 0.1
    de_fac_scale: float | Sequence[float] = 0.4
    bcv_common: float = 0.1
    bcv_df: float = 60.0
    dropout_mid: float | None = None
    dropout_shape: float = -1.0
    batch_fac_loc: float | Sequence[float] = 0.1
    batch_fac_scale: float | Sequence[float] = 0.1

    def __post_init__(self) -> None:
        _check_sizes("n_genes", self.n_genes)
        _check_sizes("batch_cells", list(self.batch_cells))
        prob = np.asarray(self.group_prob, dtype=np.float64)
        if prob.ndim != 1 or not prob.size or not (prob >= 0).all() or abs(prob.sum() - 1) > _SUM_TOLERANCE:
            msg = f"Expected `group_prob` to be probabilities that sum to one, found {self.group_prob}."
            raise ValueError(msg)
        for name in ("out_prob", "de_prob", "de_down_prob"):
            self._check(name, lambda x: (x >= 0) & (x <= 1), "between 0 and 1")
        for name in ("mean_shape", "mean_rate", "lib_scale", "out_fac_scale", "de_fac_scale", "bcv_df"):
            self._check(name, lambda x: x > 0, "above 0")
        self._check("batch_fac_scale", lambda x: x > 0, "above 0")
        self._check("bcv_common", lambda x: x >= 0, "0 or more")
        for name in ("lib_loc", "out_fac_loc", "de_fac_loc", "batch_fac_loc", "dropout_shape"):
            self._check(name, np.isfinite, "finite")
        if self.dropout_mid is not None:
            self._check("dropout_mid", np.isfinite, "finite, or None for no dropout")

    @property
    def n_cells(self) -> int:
        """Total number of cells."""
        return int(sum(self.batch_cells))

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.group_prob)

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self.batch_cells)

    def per_group(self, name: str) -> np.ndarray:
        """Return the values of a parameter for all groups, shape (n_groups,)."""
        return np.broadcast_to(np.asarray(getattr(self, name), dtype=np.float32), self.n_groups)

    def per_batch(self, name: str) -> np.ndarray:
        """Return the values of a parameter for all batches, shape (n_batches,)."""
        return np.broadcast_to(np.asarray(getattr(self, name), dtype=np.float32), self.n_batches)

    def _check(self, name: str, accepted: Any, rule: str) -> None:
        n_values = {"de": self.n_groups, "batch": self.n_batches}.get(name.split("_")[0], None)
        try:
            value = np.asarray(getattr(self, name), dtype=np.float64)
        except (TypeError, ValueError):
            value = np.array(np.nan)
        # comparisons with NaN are false, so NaN is always rejected
        if not (np.isfinite(value) & accepted(value)).all():
            msg = f"Expected `{name}` to be {rule}, found {getattr(self, name)!r}."
            raise ValueError(msg)
        if value.ndim and (n_values is None or value.shape != (n_values,)):
            wanted = "one number" if n_values is None else f"one number or {n_values} of them"
            msg = f"Expected `{name}` to be {wanted}, found {getattr(self, name)!r}."
            raise ValueError(msg)


def _check_sizes(name: str, sizes: Any) -> None:
    values = list(sizes) if np.iterable(sizes) else [sizes]
    if not values or not all(is_whole(n) and n > 0 for n in values):
        msg = f"Expected `{name}` to be whole numbers above 0, found {sizes!r}."
        raise ValueError(msg)


def is_whole(n: Any) -> bool:
    """Return whether a value is a whole number. Booleans are not considered whole numbers."""
    return isinstance(n, (int, np.integer)) and not isinstance(n, bool)
