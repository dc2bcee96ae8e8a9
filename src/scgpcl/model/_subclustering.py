"""Sub-cluster a single cluster, using genes and axes selected from its own cells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgpcl import _keys
from scgpcl._process import held
from scgpcl._rules import check
from scgpcl.cluster import part_names
from scgpcl.data import concatenated
from scgpcl.model._partition import all_of, in_order
from scgpcl.model._reference import READ_CELLS
from scgpcl.model._subclusters import fit_subclusters
from scgpcl.pp import fit_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgpcl.cluster import Grown, Tree
    from scgpcl.model._getters import Assigned, Encoded
    from scgpcl.model._reference import Reference, Registration
    from scgpcl.model._subclusters import Subclusters
    from scgpcl.module import SCGPCLModule
    from scgpcl.pp import GeneFlavor

#: Minimum number of cells in a cluster that is divided, and minimum average number of cells per part.
MIN_CELLS, PART_CELLS = 20, 5
#: Maximum number of cells used to find the parts; larger clusters are subsampled.
MAX_CELLS = 10_000


class Subclustering:
    """Mixin that adds ``subcluster`` to the model."""

    module: SCGPCLModule
    adata: AnnData | None
    keep_genes: list[str] | None
    gene_flavor: GeneFlavor
    gene_scaling: float
    feature_total: float | None

    if TYPE_CHECKING:  # provided by the model itself

        @property
        def reference(self) -> Reference: ...
        @property
        def registration(self) -> Registration: ...
        def _target(self, adata: AnnData | None) -> AnnData: ...
        def _check_written(self, adata: AnnData, key_added: str) -> None: ...
        def _grown(self) -> Grown: ...
        def _present(self, tree: Tree) -> pd.DataFrame: ...
        def _encode(self, *source: Any, **values: Any) -> Encoded: ...
        def _assign(self, encoded: Encoded, partition: pd.DataFrame | None) -> Assigned: ...
        def _take_level(
            self,
            level: pd.DataFrame | None,
            adata: AnnData | None,
            key_added: str,
            min_confidence: float | None,
            parts: Sequence[Subclusters] = ...,
        ) -> None: ...

    @held()
    def subcluster(
        self,
        cluster: str,
        n: int | None = None,
        *,
        false_splits: float = 0.01,
        adata: AnnData | None = None,
        key_added: str = _keys.STEM,
        min_confidence: float | None = None,
    ) -> None:
        """Divide one cluster using genes selected from its own cells, and leave the other clusters unchanged.

        The parts of cluster "3" are named "3.a", "3.b", ..., starting with the largest. They differ from the nodes
        "3.1" and "3.2" of the tree, which is based on the genes and the latent space of all cells and does not change.
        The parts of a merged cluster "2+5" are named "(2+5).a" and so on. Afterwards, :meth:`predict` and
        :meth:`annotate` return the parts, also for new cells and after the model is saved and loaded. Use :meth:`merge`
        to join parts, or :meth:`cut` to undo all changes.

        Parameters
        ----------
        cluster
            Name of one of the current clusters, which can itself be a part.
        n
            Number of parts; ``None`` estimates it as in training, along the axes of these cells, and uses 2 if no split
            holds. The separation of a split must significantly exceed 1.3 instead of 1.11, because the axes are chosen
            from the same cells. Use :meth:`test_clusters` to test whether the parts differ.
        false_splits
            Used to estimate the number of parts, see :meth:`train`.
        adata
            AnnData with the cells to divide and annotate; ``None`` uses the registered AnnData.
        key_added, min_confidence
            See :meth:`annotate`.

        Notes
        -----
        The network is not retrained. Genes are selected from all registered genes in the same way as for the model, and
        discriminant axes are computed from the cells of the cluster. As in training, the parts are the consensus of
        many partitions along these axes, based on several draws of the molecules. Cells are assigned to the parts by
        the same Student-t assignment with a depth correction, and its confidence is calibrated on halves of the
        molecules. The probability of a part is the probability of the cluster multiplied by the probability of the part
        within the cluster. Clusters with more than 10,000 cells are subsampled. New cells from batches that are unknown
        to the model can be assigned to the parts, and are then standardised with the mean over the known batches, but a
        cluster can only be divided with cells from known batches.

        Raises
        ------
        KeyError
            If the layer or a column is missing in ``adata``.
        RuntimeError
            If the model is not trained.
        ValueError
            If the cluster does not exist, if it has fewer than 20 cells or fewer than 5 cells per part, if all of its
            cells are alike, or if the model has no cells and none are given.

        Examples
        --------
        >>> model.subcluster("3")  # doctest: +SKIP
        >>> adata.obs["scgpcl_cluster"].cat.categories  # doctest: +SKIP
        Index(['0', '1', '2', '3.a', '3.b', '4'], dtype='object')
        """
        tree = self._grown().tree
        n = check("subcluster", n=n)["n"]
        false_splits = check(false_splits=false_splits)["false_splits"]
        values = check(min_confidence=min_confidence, key_added=key_added)
        level = self._present(tree)
        own = level["cluster"] == str(cluster)
        if not own.any():
            msg = f"Expected `cluster` to be one of the present clusters, {all_of(level)}, found {cluster!r}."
            raise ValueError(msg)
        target = self._target(adata)
        self._check_written(target, values["key_added"])
        encoded = self._encode(adata, None, None, None, partition=level)
        parts, assigned = encoded.parts, self._assign(encoded, level)
        sizes = np.bincount(assigned.codes, minlength=assigned.probability.shape[1])
        names = list(assigned.probability.columns)
        size = int(sizes[names.index(str(cluster))])
        least = max(MIN_CELLS, 0 if n is None else PART_CELLS * n)
        if size < least:
            large = [name for name, count in zip(names, sizes, strict=True) if count >= least]
            what = "to look into" if n is None else f"for `n={n}`"
            instead = f"Clusters that are large enough: {', '.join(map(repr, large)) or 'none'}."
            if n is not None and size >= MIN_CELLS:
                instead = f"Pass a number from 2 to {size // PART_CELLS}, or another cluster."
            msg = f"Expected a cluster of at least {least} cells {what}, found {size} cells in {cluster!r}. {instead}"
            raise ValueError(msg)
        rows = np.flatnonzero(assigned.codes == names.index(str(cluster)))
        if len(rows) > MAX_CELLS:
            rows = np.sort(np.random.default_rng(0).choice(rows, MAX_CELLS, replace=False))
        found = self._divided(target, rows, n, tuple(level["node"][own]), false_splits)
        if found is None:
            msg = f"Expected cells that differ in {cluster!r}, found {len(rows)} cells that are all alike. Choose another cluster."
            raise ValueError(msg)
        taken = {*tree.names, *level["cluster"], *(name for each in parts for name in each.names)}
        found = replace(found, names=part_names(str(cluster), len(found.centers), taken))
        added = pd.DataFrame({"cluster": found.names, "node": found.names})
        self._take_level(
            in_order(pd.concat([level[~own], added], ignore_index=True)), adata, **values, parts=[*parts, found]
        )

    def _divided(
        self, adata: AnnData, rows: np.ndarray, n: int | None, whole: tuple[str, ...], false_splits: float
    ) -> Subclusters | None:
        """Divide the cells in the given rows into parts, or return None if all of them are alike."""
        reference = self.reference
        genes = adata.var_names[adata.var_names.isin(reference.genes)]
        every = replace(reference, selected=genes)
        cells = concatenated(list(every.read(adata, rows, READ_CELLS, registered=adata is self.adata)))
        features = fit_features(
            cells.rows(np.arange(len(cells))),
            size=cells.size_factor,
            n_genes=min(self.module.n_genes, len(genes)),
            flavor=self.gene_flavor,
            gene_scaling=self.gene_scaling,
            feature_total=self.feature_total,
            keep=None if self.keep_genes is None else genes.isin(self.keep_genes),
            batch_index=cells.batch_index,
            n_batch=self.module.n_batch,
        )
        return fit_subclusters(
            features.cells,
            features.moments,
            n,
            whole=whole,
            genes=genes[features.mask].to_numpy(dtype=object),
            unit=features.unit_size,
            alpha=self.module.alpha.item(),
            shrinkage=self.module.shrinkage.item(),
            false_splits=false_splits,
        )
