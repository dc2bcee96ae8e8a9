"""Stability of each cluster when molecules or cells are left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgpcl import _keys
from scgpcl._process import held
from scgpcl._random import cpu_generator, derived_seed
from scgpcl._rules import check
from scgpcl.cluster import jaccard, kmeans
from scgpcl.data import halves, thinned
from scgpcl.model._getters import Encoded, missing_share
from scgpcl.model._reference import READ_CELLS
from scgpcl.model._subclusters import Widened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from scgpcl.data import BipartiteBatch
    from scgpcl.model._getters import Assigned
    from scgpcl.model._reference import Reference
    from scgpcl.model._subclusters import Subclusters

#: Fraction of the molecules kept in each draw.
MOLECULES = 0.7
#: Fraction of the cells in each sub-sample.
CELLS = 0.8


class Stability:
    """Mixin that adds ``get_cluster_stability`` to the model."""

    seed_: int
    adata: AnnData | None
    level_: pd.DataFrame | None

    if TYPE_CHECKING:  # provided by the model itself

        def _partition(self, level: int) -> pd.DataFrame | None: ...
        def _target(self, adata: AnnData | None) -> AnnData: ...
        def _read(
            self, adata: AnnData | None, indices: Any, batch_size: int, *, reference: Reference | None = ...
        ) -> Iterator[BipartiteBatch]: ...
        def _represented(self, batch: BipartiteBatch) -> torch.Tensor: ...
        @property
        def reference(self) -> Reference: ...
        def _assign(self, encoded: Encoded, partition: pd.DataFrame | None) -> Assigned: ...
        def _parts(self, partition: pd.DataFrame) -> list[Subclusters]: ...

    @held()
    @torch.no_grad()
    def get_cluster_stability(
        self,
        adata: AnnData | None = None,
        *,
        level: int | None = None,
        n_draws: int = 5,
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Compute how stable each cluster is when molecules or cells are left out.

        The result also shows which other cluster each cluster is confused with. The model is not retrained. A stable
        cluster is not necessarily distinct from the others, because the model was trained on all molecules; use the
        ``support`` in :meth:`get_tree` to judge the splits of the tree. With read counts (no UMIs), each molecule
        contributes many reads, so subsampling the reads makes almost every cluster look stable.

        Parameters
        ----------
        adata
            AnnData with the cells to cluster; ``None`` uses the registered AnnData.
        level
            Level of the tree to use, given by its number of clusters, see :meth:`get_tree`; ``None`` uses the current
            clusters.
        n_draws
            Number of draws of each kind.
        seed
            Random seed for the draws; ``None`` uses the seed of the model, so that repeated calls agree.
        batch_size
            Number of cells to encode at a time.

        Returns
        -------
        Table with one row per cluster, indexed by name. A cluster without cells has NaN from ``thinned`` on and
        an empty ``neighbor``. The columns are:

        - ``size``: number of cells;
        - ``thinned``: Jaccard index between the cells of the cluster and the cells assigned to it when each molecule is
          kept with a probability of 0.7, averaged over the draws;
        - ``halves``: the same index between the assignments from two halves of the molecules of each cell;
        - ``subsampled``: Jaccard index with the most similar group found by k-means when it is run from a new start on
          the latent vectors of a random 80 % of the cells (Hennig 2007), averaged over the draws. k-means tends to miss
          small clusters, which training finds by using many partitions, and parts created by :meth:`subcluster`, which
          have their own genes;
        - ``neighbor``: cluster that receives most of the cells that leave this cluster in the thinned draws, empty if
          no cells leave it;
        - ``confused``: fraction of the cells in the cluster that move to this neighbour.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If the tree has no such level, or if an argument is out of range.

        Notes
        -----
        For the current clusters of the registered AnnData, the table is also stored in ``uns["scgpcl"]["stability"]``,
        where it is used by :func:`scgpcl.pl.stability` and the report until the cells are annotated again. Nothing else
        is written.
        """
        seed = self.seed_ if seed is None else seed
        n_draws, seed = check("get_cluster_stability", n_draws=n_draws, seed=seed).values()
        batch_size = check("get", batch_size=batch_size)["batch_size"]
        partition = self.level_ if level is None else self._partition(level)
        sub = [] if partition is None else self._parts(partition)
        wide = Widened.of(self.reference, sub)
        batches = self._read(adata, None, batch_size or READ_CELLS, reference=wide.reference)
        cells = self._target(adata).obs_names
        generator = cpu_generator(seed, 50)
        whole_z: list[np.ndarray] = []
        parts: list[list[np.ndarray]] = [[] for _ in range(1 + 3 * n_draws)]
        start = 0
        for batch in batches:
            share = torch.full((len(batch.size_factor),), MOLECULES)
            drawn = [batch, *(thinned(batch, share, generator) for _ in range(n_draws))]
            for _ in range(n_draws):
                drawn += halves(batch, generator)
            own = cells[start : start + len(share)]
            start += len(share)
            for found, each in zip(parts, drawn, strict=True):
                narrow, shares = wide.divided(each)
                z = self._represented(narrow).cpu().numpy()
                if each is batch:
                    whole_z.append(z)
                assigned = self._assign(Encoded(z, own, sub, shares, missing_share(narrow)), partition)
                found.append(assigned.codes)
        names = assigned.probability.columns
        codes = [np.concatenate(found) for found in parts]
        whole, thin, half = codes[0], codes[1 : 1 + n_draws], codes[1 + n_draws :]
        groups = _subsampled(torch.from_numpy(np.concatenate(whole_z)), len(names), n_draws, seed)
        moved = np.zeros((len(names), len(names)))
        for code in thin:
            np.add.at(moved, (whole, code), 1.0 / n_draws)
        np.fill_diagonal(moved, 0.0)
        size = np.bincount(whole, minlength=len(names))
        table = pd.DataFrame({"size": size}, index=pd.Index(names, name="cluster"))
        every = range(len(names))
        table["thinned"] = [np.mean([jaccard(whole == k, code == k) for code in thin]) for k in every]
        table["halves"] = [
            np.mean([jaccard(a == k, b == k) for a, b in zip(half[::2], half[1::2], strict=True)]) for k in every
        ]
        table["subsampled"] = [
            np.mean([max(jaccard(whole[rows] == k, found == g) for g in every) for rows, found in groups])
            for k in every
        ]
        table["neighbor"] = np.where(moved.any(1), np.asarray(names, dtype=object)[moved.argmax(1)], "")
        table["confused"] = moved.max(1) / np.maximum(size, 1)
        table.loc[size == 0, [*_keys.STABILITIES, "confused"]] = np.nan
        if adata is None or adata is self.adata:
            noted = self._target(None).uns.get(_keys.UNS)
            sizes = noted.get(_keys.SIZES) if isinstance(noted, Mapping) else None
            annotated = set(sizes.index) - {_keys.UNASSIGNED} if isinstance(sizes, pd.DataFrame) else set()
            if level is None and annotated and annotated <= set(names):
                # a new dictionary, since copies of an AnnData may share this one
                self._target(None).uns[_keys.UNS] = {**noted, _keys.STABILITY: table.copy()}
        return table


def _subsampled(z: torch.Tensor, n_clusters: int, n_draws: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw random cells and cluster their latent vectors (n_cells, n) with k-means.

    Returns the cells (n_some,) of each draw and their groups.
    """
    rng = np.random.default_rng(derived_seed(seed, 51))
    found = []
    for draw in range(n_draws):
        size = max(min(n_clusters, len(z)), round(CELLS * len(z)))
        rows = np.sort(rng.choice(len(z), size, replace=False))
        number = min(n_clusters, size)
        found.append((rows, kmeans(z[rows], number, n_init=3, seed=derived_seed(seed, 52, draw)).labels.cpu().numpy()))
    return found
