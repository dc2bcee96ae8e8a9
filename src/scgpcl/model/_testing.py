"""Test which groups in a labelling can be told apart."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgpcl import _input, _keys
from scgpcl._process import held
from scgpcl._random import derived_seed
from scgpcl._rules import check
from scgpcl.data import read_rows
from scgpcl.pp import holm, library_sizes, pair_test
from scgpcl.tl._expression import groups_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgpcl.model._reference import Registration

#: Minimum number of cells in a tested group, and maximum number used per group; larger groups are subsampled.
MIN_CELLS, MAX_CELLS = 20, 500


class Testing:
    """Mixin that adds ``test_clusters`` to the model."""

    seed_: int

    if TYPE_CHECKING:  # provided by the model itself

        @property
        def registration(self) -> Registration: ...
        def _target(self, adata: AnnData | None) -> AnnData: ...

    @held()
    def test_clusters(
        self,
        labels: str | Sequence[Any] | pd.Series = _keys.CLUSTER,
        adata: AnnData | None = None,
        *,
        clustered: bool = True,
        alpha: float = 0.05,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """Test which pairs of groups can be told apart by cells and genes that were not used to find a difference.

        For each pair, one half of the cells is used to select genes and to fit an axis between the two groups, and the
        other half is tested along this axis. The groups can come from any labelling. The test uses all registered genes
        but not the network, so a Leiden clustering or an author's annotation is treated in the same way as the model's
        own clusters.

        Parameters
        ----------
        labels
            Column of ``adata.obs``, or one label per cell. A Series is matched by cell name. Cells that have no label
            or are named ``"unassigned"`` are left out.
        adata
            AnnData with the cells; ``None`` uses the registered AnnData. It is not modified.
        clustered
            Whether the labels come from these counts, for example from a clustering or from an annotation based on a
            clustering. Any cut of a continuous group gives two groups that differ, so a difference alone proves
            nothing: two groups are told apart if the gap between them is larger than the gap from cutting a continuous
            group. Use ``False`` for labels from other sources, such as sorted cells, genotypes or treatments: two
            groups are then told apart if they differ at all.
        alpha
            Family-wise error rate, that is, the probability that at least one pair that is really a single group is
            reported as distinct. P-values are adjusted for the number of pairs.
        seed
            Random seed for the halves and draws; ``None`` uses the seed of the model.

        Returns
        -------
        Table with one row per pair of groups, sorted so that the least separated pairs come first. The columns are:

        - ``group1``, ``group2``, ``size1`` and ``size2``: names of the two groups and their numbers of cells;
        - ``auc``: probability that a held-out cell of one group has a larger score than a held-out cell of the other
          group, 0.5 by chance;
        - ``separation``: distance between the group means divided by the standard deviation within groups, measured in
          held-out cells and relative to the best-separating cut through one continuous group. Values above 1 indicate a
          gap;
        - ``p_value`` and ``p_adjusted``: p-value, and p-value adjusted for the number of pairs (Holm 1979);
        - ``apart``: whether ``p_adjusted`` is at most ``alpha``.

        A group with fewer than 20 cells is not tested: its rows contain NaN, and ``apart`` is False. Groups with more
        than 500 cells are subsampled.

        Raises
        ------
        KeyError
            If ``adata`` lacks the column or the layer.
        ValueError
            If the labels do not match the cells, if there are fewer than two groups, or if an argument is out of range.

        Notes
        -----
        The genes that differ most are divided between two linear discriminants, so a gap must appear in both sets of
        genes: two states of a single gene are not clusters. If ``clustered=True``, the separation is compared with the
        best cuts through draws that come from the closest density with a single peak and have the same variance
        (Silverman 1981). No clustering of noise or of a gradient could give a better cut. Otherwise, ranks are
        compared, which are exchangeable if the labels do not depend on the counts. If the model has batches,
        differences between batches are removed.

        The two ends of a gradient are told apart if the cells between them are in other groups, so compare neighbouring
        groups. If a pair is not told apart, this does not show that it is a single group, especially if it is small.

        Examples
        --------
        >>> table = model.test_clusters("leiden")  # doctest: +SKIP
        >>> table[~table["apart"]]  # doctest: +SKIP
        """
        seed = self.seed_ if seed is None else seed
        clustered, alpha, seed = check("test_clusters", clustered=clustered, alpha=alpha, seed=seed).values()
        target = self._target(adata)
        groups = _groups(target, labels)
        registered = self.registration
        counts = _input.counts_of(target, registered.layer)
        _input.check_counts(counts, registered.layer)
        batch = None
        if len(registered.batches) > 1:
            batch = pd.factorize(registered.names_of(target))[0]
        codes, names = groups.cat.codes.to_numpy(), list(groups.cat.categories)
        rng = np.random.default_rng(derived_seed(seed, 53))
        own = [rng.permutation(np.flatnonzero(codes == code))[:MAX_CELLS] for code in range(len(names))]
        rows = np.sort(np.concatenate(own))
        x = read_rows(counts, rows)
        size = library_sizes(x)
        x.data = np.log1p(x.data / np.repeat(size / np.median(size), np.diff(x.indptr)))
        found = []
        sizes = np.bincount(codes[codes >= 0], minlength=len(names))
        for first, second in combinations(range(len(names)), 2):
            row: dict[str, Any] = {"group1": names[first], "group2": names[second]}
            row |= {"size1": sizes[first], "size2": sizes[second]}
            if min(sizes[first], sizes[second]) >= MIN_CELLS:
                cells = np.concatenate([own[first], own[second]])
                side = codes[cells] == second
                known = None if batch is None else pd.factorize(batch[cells])[0]
                draws = np.random.default_rng(derived_seed(seed, 54, first, second))
                row |= pair_test(
                    x[np.searchsorted(rows, cells)], side, clustered=clustered, rng=draws, batch=known
                )._asdict()
            found.append(row)
        columns = ["group1", "group2", "size1", "size2", "auc", "separation", "p_value"]
        table = pd.DataFrame(found).reindex(columns=columns)
        table["p_adjusted"] = holm(table["p_value"].to_numpy(dtype=np.float64))
        table["apart"] = table["p_adjusted"] <= alpha
        by = "separation" if clustered else "auc"
        return table.sort_values(["apart", by], kind="stable").reset_index(drop=True)


def _groups(adata: AnnData, labels: Any) -> pd.Series:
    """Return the groups of cells as categorical strings, given a column of ``obs`` or one label per cell."""
    if isinstance(labels, str):
        if labels not in adata.obs:
            msg = (
                f"Expected `labels` to be a column of `adata.obs`, or a label for each cell, found {labels!r} and the columns "
                f"[{_input.listed(adata.obs.columns)}]."
            )
            raise KeyError(msg)
        return groups_of(adata, labels)
    if isinstance(labels, pd.Series) and not labels.index.equals(adata.obs_names):
        if not labels.index.is_unique or len(labels) != adata.n_obs or not labels.index.isin(adata.obs_names).all():
            msg = (
                "Expected `labels` to be a Series with the names of the cells, found other names. "
                "Pass `labels.to_numpy()` if it has the order of the cells."
            )
            raise ValueError(msg)
        labels = labels[adata.obs_names]
    values = np.asarray(labels, dtype=object)
    if values.shape != (adata.n_obs,):
        msg = f"Expected a label for each of the {adata.n_obs} cells in `labels`, found the shape {values.shape}."
        raise ValueError(msg)
    obs = pd.DataFrame({"labels": pd.Categorical(values)}, index=adata.obs_names)
    return groups_of(type(adata)(obs=obs), "labels")
