"""Levels of the tree: inspect the tree of clusters, cut it at another number of clusters, and merge clusters."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgpcl import _keys
from scgpcl._process import held
from scgpcl._rules import MAX_MISSING, check, listed
from scgpcl.cluster import Grown, Tree, merged_name
from scgpcl.model._annotate import names as annotation_names
from scgpcl.model._partition import all_of, in_order, in_use
from scgpcl.model._subclusters import Subclusters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgpcl.model._getters import Encoded
    from scgpcl.model._reference import Reference
    from scgpcl.module import SCGPCLModule

logger = logging.getLogger(__name__)

#: Number of cells that are followed down the tree at a time.
COUNTED_CELLS = 1 << 16


class Levels:
    """Mixin that adds ``get_tree``, ``get_levels``, ``cut`` and ``merge`` to the model."""

    adata: AnnData | None
    module: SCGPCLModule
    n_clusters_: int | None
    cluster_names_: np.ndarray | None
    #: State of the tree of clusters, which can be saved as arrays and numbers; ``None`` before training.
    tree_: dict[str, Any] | None = None
    #: Names of the clusters and of the tree nodes that make up each cluster; ``None`` for the clusters from training.
    level_: pd.DataFrame | None = None
    #: State of each cluster that was divided by ``subcluster``, keyed by number, see ``Subclusters.state``.
    subclusters_: dict[str, dict[str, Any]] | None = None

    if TYPE_CHECKING:  # provided by the model itself

        @property
        def reference(self) -> Reference: ...
        def _encode(self, *source: Any, **values: Any) -> Encoded: ...
        def _probability(self, z: np.ndarray, cells: pd.Index, missing: float) -> pd.DataFrame: ...
        def annotate(
            self,
            adata: AnnData | None = None,
            *,
            key_added: str = ...,
            min_confidence: float | None = ...,
            transform_batch: str | None = ...,
        ) -> None: ...

    @held()
    def get_tree(self, *, newick: bool = False) -> pd.DataFrame | str:
        """Return the tree of clusters, from a single group of all cells down to many small groups.

        The clusters from training are named "0", "1", ..., as usual. Their parts are named "3.1", "3.2", "3.1.1" and so
        on, and groups of several clusters are named "2+5", or "0-2+5" for the clusters 0, 1, 2 and 5. Every level of
        the tree is nested in the coarser levels, so the cluster of a cell at a fine level determines its cluster at a
        coarse level.

        Parameters
        ----------
        newick
            Whether to return the tree as text in Newick format, with names and branch lengths.

        Returns
        -------
        Text if ``newick`` is true, otherwise a table with one row per node, indexed by name, in the order in which the
        nodes arise from the root down. The columns are:

        - ``parent``: name of the parent node, empty for the root;
        - ``size``: number of cells in the node after :meth:`train` or :meth:`update`, NaN if the model was trained on a
          data module;
        - ``n_clusters``: smallest number of clusters for which the node is one of the clusters, see :meth:`cut`;
        - ``height``: height of the split below the node, defined as the fraction of many partitions that separate its
          two sides, and 0 for a leaf;
        - ``separation``: distance between the means of the two sides of this split on held-out molecules, relative to
          the spread within the sides and divided by its value for a cut through one continuous group, so that 1 means
          no gap;
        - ``support``: 1 minus the probability of such a separation in one continuous group. Nearly every split of real data
          has a support close to 1, because there is also variation within cell types;
        - ``stability``: Jaccard index between the cells that are assigned to the node based on each half of the
          molecules.

        Raises
        ------
        RuntimeError
            If the model is not trained, or was loaded from a file without a tree.
        """
        newick = check(newick=newick)["newick"]
        tree = self._grown().tree
        if newick:
            return tree.newick()
        names = np.array(tree.names)
        arises = np.ones(len(names), dtype=np.int64)
        for number, node in zip(tree.numbers[1:], tree.splits, strict=True):
            arises[tree.children[node]] = number
        table = pd.DataFrame(
            {
                "parent": np.where(tree.parent >= 0, names[tree.parent], ""),
                "size": tree.values.get("size", np.full(len(names), np.nan)),
                "n_clusters": arises,
                "height": tree.height,
                "separation": tree.values["separation"],
                "support": 1.0 - tree.values["p_value"],
                "stability": tree.values["stability"],
            },
            index=pd.Index(names, name="node"),
        )
        return table

    @held()
    def get_levels(
        self,
        levels: Sequence[int] | None = None,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
        transform_batch: str | None = None,
        max_missing: float = MAX_MISSING,
    ) -> pd.DataFrame:
        """Return the clusters of cells at several levels of the tree.

        Parameters
        ----------
        levels
            Levels to return, given by their numbers of clusters; ``None`` returns all levels of the tree.
        adata, indices, batch_size, transform_batch, max_missing
            See :meth:`get_latent_representation`.

        Returns
        -------
        Table with one row per cell and one column per level, named after its number of clusters. Each column is
        categorical, and its categories are nodes of :meth:`get_tree`.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        TypeError
            If ``levels`` is not a list of numbers.
        ValueError
            If the tree has no such level.
        """
        grown = self._grown()
        numbers = grown.tree.numbers if levels is None else self._known_levels(levels)
        values = check("get", batch_size=batch_size, max_missing=max_missing)
        path, cells = self._paths(grown, adata, indices, transform_batch, **values)
        found = {}
        for number in numbers:
            nodes = grown.tree.level(number)
            codes = grown.tree.below[nodes][:, path].argmax(0)
            found[number] = pd.Categorical.from_codes(codes, pd.Index([grown.tree.names[node] for node in nodes]))
        return pd.DataFrame(found, index=cells)

    @held()
    def cut(
        self,
        n_clusters: int | None = None,
        *,
        support: float | None = None,
        adata: AnnData | None = None,
        key_added: str = _keys.STEM,
        min_confidence: float | None = None,
    ) -> None:
        """Use another level of the tree as the clusters, without training.

        Afterwards, :meth:`predict` and :meth:`annotate` use these clusters, even if the model is saved and loaded.
        Latent vectors do not change. Call ``cut(model.n_clusters_)`` to restore the clusters from training. At a
        level that is too fine for the data, some clusters may have no cells, which is logged as a warning.

        Parameters
        ----------
        n_clusters
            Number of clusters.
        support
            Minimum support, as an alternative to ``n_clusters``. A split is made if it, or any split below it, has at
            least this support, see :meth:`get_tree`.
        adata, key_added, min_confidence
            See :meth:`annotate`. If ``adata`` is ``None``, the registered AnnData is annotated, if there is one.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        TypeError
            If both or neither of ``n_clusters`` and ``support`` are given.
        ValueError
            If the tree has no such level.
        """
        if (n_clusters is None) == (support is None):
            msg = (
                f"Expected either `n_clusters` or `support`, found n_clusters={n_clusters!r} and support={support!r}. "
                "Pass one of them."
            )
            raise TypeError(msg)
        tree = self._grown().tree
        if support is None:
            nodes = tree.level(self._known_level(n_clusters, "n_clusters"))
        else:
            least = check(support=support)["support"]
            nodes = tree.split(tree.held(1.0 - tree.values["p_value"] >= least))
        self._take_level(self._of_nodes(tree, nodes), adata, key_added, min_confidence)
        if self.adata is not None and (adata is None or adata is self.adata) and min_confidence is None:
            found = self.adata.obs[annotation_names(key_added).cluster].cat.categories
            empty = [tree.names[node] for node in nodes if tree.names[node] not in found]
            if empty:
                logger.warning(
                    "%d of the %d clusters of this level have no cells: %s. The data do not support so many clusters.",
                    len(empty),
                    len(nodes),
                    listed(empty),
                )

    @held()
    def merge(
        self,
        clusters: Sequence[str],
        *,
        adata: AnnData | None = None,
        key_added: str = _keys.STEM,
        min_confidence: float | None = None,
    ) -> None:
        """Merge several clusters into one and leave the other clusters unchanged.

        The new cluster is named after the merged clusters, for example "2+5", or after the tree node that consists of
        exactly these clusters. Merging all parts created by :meth:`subcluster` restores the original cluster. Use
        :meth:`cut` to undo a merge.

        Parameters
        ----------
        clusters
            Names of two or more of the current clusters.
        adata, key_added, min_confidence
            See :meth:`cut`.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        TypeError
            If ``clusters`` is not a list of names.
        ValueError
            If a name is unknown or repeated, if there is only one name, or if another cluster has the merged name.
        """
        tree = self._grown().tree
        level = self._present(tree)
        names = self._known_clusters(clusters, level)
        if len(names) < 2:
            msg = f"Expected two or more clusters to merge, found {clusters!r}. The clusters are {all_of(level)}."
            raise ValueError(msg)
        merged = level["cluster"].isin(names)
        found = list(level["node"][merged])
        parts = self._parts(level)
        for each in reversed(parts):  # all parts of a cluster together form the cluster
            if set(each.names) <= set(found):
                found = [*(node for node in found if node not in each.names), *each.whole]
        name = merged_name(list(dict.fromkeys(found)))
        if name in set(level["cluster"][~merged]):
            msg = (
                f"Expected clusters whose merged name is free, found {name!r} among the other clusters. Rename this type and "
                "train a new model."
            )
            raise ValueError(msg)
        if all(node in tree.names for node in found):
            below = tree.below[[tree.names.index(node) for node in found]][:, tree.leaves].any(0)
            same = (tree.below[:, tree.leaves] == below).all(1)
            if same.any():
                name = tree.names[int(same.argmax())]
                found = [name]
        rows = pd.DataFrame({"cluster": name, "node": found})
        level = in_order(pd.concat([level[~merged], rows], ignore_index=True))
        trained = (
            sorted(level["node"]) == sorted(self._names_of_training(tree)) and (level["cluster"] == level["node"]).all()
        )
        self._take_level(None if trained else level, adata, key_added, min_confidence, parts)

    def _grown(self) -> Grown:
        """Return the tree of the trained model."""
        _ = self.reference  # first, raise an error if the model is not trained
        if self.tree_ is None:
            msg = (
                "Expected a model with a tree of clusters, found one whose training made none: it comes from an older "
                "file, or its training failed. Call `model.train()`."
            )
            raise RuntimeError(msg)
        return Grown.of(self.tree_, self.cluster_names_)

    def _known_level(self, level: Any, argument: str = "level") -> int:
        """Check that the tree has a level with this number of clusters, and return the number."""
        numbers = self._grown().tree.numbers
        if isinstance(level, bool) or not isinstance(level, int | np.integer) or level not in numbers:
            whole = numbers == list(range(1, len(numbers) + 1))
            known = f"a whole number from 1 to {numbers[-1]}" if whole else f"one of {', '.join(map(str, numbers))}"
            msg = (
                f"Expected `{argument}` to be {known}, the levels of the tree, found {level!r}. "
                "`model.get_tree()` shows them."
            )
            raise ValueError(msg)
        return int(level)

    def _known_levels(self, levels: Any) -> list[int]:
        """Check that the tree has all of these levels, and return their numbers."""
        if isinstance(levels, str) or not hasattr(levels, "__iter__"):
            msg = f"Expected `levels` to be a list of numbers of clusters, found {levels!r}. Pass a list, such as `[5, 10]`."
            raise TypeError(msg)
        return [self._known_level(level) for level in levels]

    def _known_clusters(self, clusters: Any, level: pd.DataFrame) -> list[str]:
        """Check that the names are distinct and belong to current clusters, and return them."""
        if isinstance(clusters, str) or not hasattr(clusters, "__iter__"):
            msg = f"Expected `clusters` to be a list of names, found {clusters!r}. Pass a list, such as `['2', '5']`."
            raise TypeError(msg)
        names = [str(name) for name in clusters]
        unknown = [name for name in names if name not in set(level["cluster"])]
        if unknown:
            msg = f"Expected names of present clusters, found {listed(unknown)}. The clusters are {all_of(level)}."
            raise ValueError(msg)
        if len(set(names)) < len(names):
            msg = f"Expected each cluster once, found {clusters!r}: a cluster cannot be merged into itself."
            raise ValueError(msg)
        return names

    def _of_nodes(self, tree: Tree, nodes: list[int]) -> pd.DataFrame | None:
        """Return the partition that consists of the given tree nodes."""
        if sorted(nodes) == sorted(tree.clusters.tolist()):
            return None
        names = [tree.names[node] for node in nodes]
        return pd.DataFrame({"cluster": names, "node": names})

    def _present(self, tree: Tree) -> pd.DataFrame:
        """Return the current partition as a table, even if it is the partition from training."""
        names = self._names_of_training(tree)
        return pd.DataFrame({"cluster": names, "node": names}) if self.level_ is None else self.level_

    def _names_of_training(self, tree: Tree) -> list[str]:
        return [tree.names[node] for node in tree.clusters]

    def _partition(self, level: int) -> pd.DataFrame | None:
        """Return the partition at a level of the tree."""
        tree = self._grown().tree
        return self._of_nodes(tree, tree.level(self._known_level(level)))

    def _take_level(
        self,
        level: pd.DataFrame | None,
        adata: AnnData | None,
        key_added: str,
        min_confidence: float | None,
        parts: Sequence[Subclusters] = (),
    ) -> None:
        """Change the current partition and annotate the data.

        Only the ``parts`` in use are kept. On error, nothing is changed.
        """
        values = check(min_confidence=min_confidence, key_added=key_added)
        kept = [] if level is None else in_use(parts, level["node"])
        before = self.level_, self.subclusters_
        self.level_ = level
        self.subclusters_ = {str(number): each.state() for number, each in enumerate(kept)} or None
        try:
            if adata is not None or self.adata is not None:
                self.annotate(adata, **values)
        except BaseException:
            self.level_, self.subclusters_ = before
            raise

    def _parts(self, partition: pd.DataFrame) -> list[Subclusters]:
        """Return the sub-clusters used by a partition, if any.

        A sub-cluster that splits another is listed after it.
        """
        if self.subclusters_ is None:
            return []
        states = (self.subclusters_[key] for key in sorted(self.subclusters_, key=int))
        return in_use([Subclusters.of(state) for state in states], partition["node"])

    def _leaf_probability(self, grown: Grown, z: np.ndarray, missing: float) -> np.ndarray:
        """Compute the probabilities of the tree leaves, in order, float64, shape (n_cells, n_leaves)."""
        q = torch.from_numpy(self._probability(z, pd.RangeIndex(len(z)), missing).to_numpy())
        out = grown.branches.probability(q, torch.from_numpy(z), self.module.alpha.item()).numpy()
        found = np.zeros((len(z), len(grown.tree.parent)))
        np.add.at(found.T, grown.nodes, out.T)
        return found[:, grown.tree.leaves]

    def _paths(
        self,
        grown: Grown,
        adata: AnnData | None,
        indices: Any = None,
        transform_batch: str | None = None,
        *,
        batch_size: int | None = None,
        max_missing: float = MAX_MISSING,
    ) -> tuple[np.ndarray, pd.Index]:
        """Return the tree leaf of each cell, shape (n_cells,), and the cell names."""
        values: dict[str, Any] = {"batch_size": batch_size, "max_missing": max_missing}
        found = self._encode(adata, indices, transform_batch, None, **values)
        return grown.tree.paths(self._leaf_probability(grown, found.z, found.missing)), found.cells

    def _count_cells(self, z: np.ndarray) -> None:
        """Store the number of training cells in each node, given their latent vectors (n_cells, n_latent)."""
        if self.tree_ is None or "size" in self.tree_["values"]:
            return
        grown = self._grown()
        found = np.zeros(len(grown.tree.parent), dtype=np.int64)
        for start in range(0, len(z), COUNTED_CELLS):
            path = grown.tree.paths(self._leaf_probability(grown, z[start : start + COUNTED_CELLS], 0.0))
            found += np.bincount(path, minlength=len(found))
        size = grown.tree.below @ found
        self.tree_ = grown._replace(tree=grown.tree.with_values(size=size)).state()
