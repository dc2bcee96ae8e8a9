"""Getters that return results for any cells without writing to the AnnData."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from scvi.distributions import ZeroInflatedNegativeBinomial

from scgpcl import _input, _keys
from scgpcl._process import held
from scgpcl._random import derived_seed, seeded
from scgpcl._rules import MAX_MISSING, check, listed
from scgpcl.data import SPARE
from scgpcl.model._attributions import gene_parts
from scgpcl.model._new_batches import extended, with_new_batches
from scgpcl.model._partition import shared_out
from scgpcl.model._reference import READ_CELLS, as_index
from scgpcl.model._subclusters import Widened
from scgpcl.train import cluster_distance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from anndata import AnnData
    from sparse import GCXS

    from scgpcl.cluster import Grown
    from scgpcl.data import BipartiteBatch
    from scgpcl.model._new_batches import NewBatch
    from scgpcl.model._reference import Reference
    from scgpcl.model._subclusters import Subclusters
    from scgpcl.module import SCGPCLModule

#: Number of cells decoded at a time. The decoded values are dense over all genes.
DECODE_BATCH = 512


def missing_share(batch: BipartiteBatch) -> float:
    """Return the fraction of the genes that were not measured in the cells of a batch."""
    return 0.0 if batch.measured is None else 1.0 - int(batch.measured.sum()) / len(batch.measured)


class Encoded(NamedTuple):
    """Encoded cells.

    Contains the latent vectors (n_cells, n_latent), the cell names, the sub-divided clusters with the probabilities of
    their parts (n_cells, n_parts), and the fraction of the model's genes that are missing in the cells.
    """

    z: np.ndarray
    cells: pd.Index
    parts: Sequence[Subclusters]
    shares: list[np.ndarray]
    missing: float


class Assigned(NamedTuple):
    """Cluster assignment of cells at one level.

    Contains a table of assignment probabilities, shape (n_cells, n_clusters), and the column index of each cell's
    cluster.
    """

    probability: pd.DataFrame
    codes: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the cluster to which each cell is assigned, shape (n_cells,)."""
        return np.take_along_axis(self.probability.to_numpy(), self.codes[:, None], 1)[:, 0]

    def names(self, min_confidence: float | None, novel: np.ndarray | None = None) -> pd.Categorical[str]:
        """Return the cluster name of each cell.

        Cells whose confidence is below ``min_confidence``, and ``novel`` cells, bool (n_cells,), are named
        ``"unassigned"``, which is the last category.
        """
        codes, categories = self.codes, self.probability.columns
        if min_confidence is not None or novel is not None:
            left_out = np.zeros(len(codes), dtype=bool) if novel is None else novel.copy()
            if min_confidence is not None:
                left_out |= self.confidence < min_confidence
            codes = np.where(left_out, len(categories), codes).astype(np.int64)
            categories = categories.append(pd.Index([_keys.UNASSIGNED]))
        return pd.Categorical.from_codes(codes, categories=categories)


class Getters:
    """Mixin with getters for latent vectors, labels and denoised expression of registered or new cells."""

    adata: AnnData | None
    module: SCGPCLModule
    seed_: int
    cluster_names_: np.ndarray | None
    statistics_: dict[str, np.ndarray] | None
    level_: pd.DataFrame | None
    if TYPE_CHECKING:  # provided by the model itself

        @property
        def reference(self) -> Reference: ...
        def _partition(self, level: int) -> pd.DataFrame | None: ...
        def _grown(self) -> Grown: ...
        def _leaf_probability(self, grown: Grown, z: np.ndarray, missing: float) -> np.ndarray: ...
        def _parts(self, partition: pd.DataFrame) -> list[Subclusters]: ...

    @held()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
        transform_batch: str | None = None,
        dataloader: Iterable[Mapping[str, torch.Tensor]] | None = None,
        max_missing: float = MAX_MISSING,
    ) -> np.ndarray:
        """Return the latent representation of each cell.

        Each cell is encoded on its own, using the gene states that were stored at the end of training. The result does
        not depend on the other cells or on their order, and repeated calls return identical arrays.

        If there are at least 40 labelled cells per type on average (``labels_key`` in :meth:`setup_anndata`), the
        vectors that are clustered are projected onto the linear discriminants of the types. The other directions are
        kept, with less weight.

        Parameters
        ----------
        adata
            AnnData with the cells to encode; ``None`` uses the registered AnnData. Any other AnnData does not need to
            be set up: its genes are matched by name, in any order, and its counts are read from the registered layer.
        indices
            Indices of the cells to use, or a boolean mask.
        batch_size
            Number of cells to encode at a time.
        transform_batch
            Batch of the model in which all cells are encoded; ``None`` uses each cell's own batch. If a batch was not
            seen in training, ``None`` estimates its moments from all of its cells in ``adata``, provided that there are
            at least 100, and otherwise uses the known batch that fits the cells best. A warning is issued in both
            cases.
        dataloader
            Data loader of scvi-tools from which to read the cells instead, such as
            ``datamodule.inference_dataloader()``. It must have the same genes as the model, in the same order.
        max_missing
            Maximum fraction of the model's genes that may be missing in new cells. A missing gene is set to its
            training mean.

        Returns
        -------
        Array of shape (n_cells, n_latent), float32.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If too many genes of the model are missing, if the layer does not contain raw counts, or if a batch is unknown
            to the model.
        """
        values = check("get", batch_size=batch_size, max_missing=max_missing)
        return self._reported(self._encode(adata, indices, transform_batch, dataloader, **values).z)

    @held()
    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        *,
        level: int | None = None,
        min_confidence: float | None = None,
        max_novelty: float | None = None,
        batch_size: int | None = None,
        transform_batch: str | None = None,
        dataloader: Iterable[Mapping[str, torch.Tensor]] | None = None,
        max_missing: float = MAX_MISSING,
    ) -> np.ndarray | pd.DataFrame:
        """Predict the cluster of each cell.

        Parameters
        ----------
        adata, indices, batch_size, transform_batch, dataloader, max_missing
            See :meth:`get_latent_representation`. If a ``dataloader`` is used, cells are numbered instead of named.
            Assignments become less confident as more genes are missing.
        soft
            Whether to return the assignment probabilities instead of the cluster names.
        level
            Level of the tree to use, given by its number of clusters, see :meth:`get_tree`. ``None`` uses the current
            clusters, which are the clusters from training until :meth:`cut`, :meth:`merge` or
            :meth:`subcluster` is called.
        min_confidence
            Cells with a confidence below this value are named ``"unassigned"``; ``None`` names every cell after its
            cluster.
        max_novelty
            Cells with a novelty above this value are named ``"unassigned"``, see :meth:`get_novelty`. With a value of
            1, this applies to about one percent of cells that resemble the training cells. ``None`` names every cell
            after its cluster.

        Returns
        -------
        Cluster names, shape (n_cells,). If there are labels, these are the labelled types and ``"new 0"``, ...;
        otherwise they are numbers, and "0" is the largest cluster in training. If ``soft=True``, a table of
        probabilities (n_cells, n_clusters), indexed by cell, whose rows sum to one.

        Raises
        ------
        ValueError
            If ``min_confidence`` is outside [0, 1] or is combined with ``soft``, or if the tree has no such level.
        """
        limits = {"min_confidence": min_confidence, "max_novelty": max_novelty}
        check("get", soft=soft, **limits)
        values = check("get", batch_size=batch_size, max_missing=max_missing)
        if soft and any(value is not None for value in limits.values()):
            name = "min_confidence" if min_confidence is not None else "max_novelty"
            msg = (
                f"Expected `{name}` for names of clusters only, found {limits[name]!r} with `soft=True`. "
                "Probabilities are given for every cell: leave one of the two out."
            )
            raise ValueError(msg)
        partition = self.level_ if level is None else self._partition(level)
        encoded = self._encode(adata, indices, transform_batch, dataloader, partition=partition, **values)
        assigned = self._assign(encoded, partition)
        if soft:
            return assigned.probability
        return np.asarray(assigned.names(min_confidence, self._novel(encoded.z, max_novelty)), dtype=object)

    @held()
    def get_novelty(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
        transform_batch: str | None = None,
        dataloader: Iterable[Mapping[str, torch.Tensor]] | None = None,
        max_missing: float = MAX_MISSING,
    ) -> np.ndarray:
        """Return the distance of each cell to the nearest cluster, which is large for types not seen in training.

        Novelty is the Mahalanobis distance to the nearest cluster, based on the covariance within clusters (Lee, Lee,
        Lee and Shin 2018) and divided by the 99th percentile of this distance among the training cells. Confidence does
        not measure novelty: a cell that is far from all clusters can still be much closer to one of them than to the others.

        Parameters
        ----------
        adata, indices, batch_size, transform_batch, dataloader, max_missing
            See :meth:`get_latent_representation`.

        Returns
        -------
        Array of shape (n_cells,). Cells with a value above 1 are farther from the clusters than 99 % of the training
        cells.

        Raises
        ------
        RuntimeError
            If the model is not trained, or was saved by a version that did not store the required statistics.
        """
        values = check("get", batch_size=batch_size, max_missing=max_missing)
        return self._novelty(self._encode(adata, indices, transform_batch, dataloader, **values).z)

    @held()
    @torch.no_grad()
    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1,
        batch_size: int | None = None,
        return_numpy: bool | None = None,
        transform_batch: str | Sequence[str] | None = None,
    ) -> np.ndarray | pd.DataFrame:
        """Return the denoised expression, which is the mean of the fitted distribution without dropout.

        Call :meth:`train_decoder` first: :meth:`train` ends when the clusters have settled, and on a small data set the
        decoder is hardly trained at that point. Cells are decoded at their own library size. Genes that are missing in
        new cells are estimated in the same way as all other genes.

        Parameters
        ----------
        adata, indices
            See :meth:`get_latent_representation`.
        gene_list
            Genes to return, in this order; ``None`` returns all genes that the model uses.
        library_size
            Scale the expression of each cell so that it sums to this value over all genes of the model. ``"latent"``
            instead returns mean counts at the library size of the cell, which is counted rather than inferred.
        batch_size
            Number of cells to decode at a time.
        return_numpy
            Return a NumPy array instead of a table of cells and genes. ``None`` returns the table, as scVI does when
            there is one estimate per cell.
        transform_batch
            Batch in which all cells are decoded, to predict their expression in that batch. If a list of batches is
            given, the mean over these batches is returned; ``None`` decodes each cell in its own batch. Cells are
            encoded in their own batch or, if it is unknown to the model, in the batch in which they are decoded.

        Returns
        -------
        Denoised expression, shape (n_cells, n_genes).

        Raises
        ------
        KeyError
            If ``gene_list`` contains genes that the model does not use.
        ValueError
            If a batch is unknown to the model.
        """
        library_size, batch_size = check("get", library_size=library_size, batch_size=batch_size).values()
        genes, columns = self._gene_columns(gene_list)
        parts = []
        targets = self.reference.registered.target_batches(transform_batch)
        for batch in self._read(adata, indices, batch_size or DECODE_BATCH, unseen=transform_batch is not None):
            mean = torch.zeros(())
            for target in targets:
                mu = self._decode(batch, target).mu
                if library_size != "latent":
                    mu = mu / mu.sum(1, keepdim=True) * library_size
                mean = mu if len(targets) == 1 else mean.to(mu) + mu / len(targets)
            parts.append(mean[:, columns].cpu().numpy())
        values = np.concatenate(parts) if parts else np.empty((0, len(genes)), dtype=np.float32)
        if return_numpy:
            return values
        names = self._target(adata).obs_names
        return pd.DataFrame(values, index=names[as_index(indices, names)], columns=genes)

    @held()
    @torch.no_grad()
    def get_likelihood_parameters(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, *, batch_size: int | None = None
    ) -> dict[str, np.ndarray]:
        """Return the parameters of the zero-inflated negative binomial for each cell and gene of the model.

        Parameters
        ----------
        adata, indices, batch_size
            See :meth:`get_normalized_expression`.

        Returns
        -------
        Dictionary with ``"mean"`` (mean of the negative binomial at the library size of the cell), ``"dispersions"``
        (inverse dispersions) and ``"dropout"`` (dropout logits), each of shape (n_cells, n_genes).
        """
        batch_size = check("get", batch_size=batch_size)["batch_size"]
        parts = [self._decode(batch) for batch in self._read(adata, indices, batch_size or DECODE_BATCH)]
        names = ("mean", "dispersions", "dropout")
        empty = torch.empty(0, self.module.n_genes)
        stacked = (torch.cat(values).cpu() for values in zip(*parts, strict=True)) if parts else [empty] * 3
        return {name: values.numpy() for name, values in zip(names, stacked, strict=True)}

    @held()
    @torch.no_grad()
    def posterior_predictive_sample(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_samples: int = 1,
        gene_list: Sequence[str] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> GCXS:
        """Sample counts from the zero-inflated negative binomial of each cell, at the library size of the cell.

        The latent vector of a cell is a point rather than a distribution as in scVI, so the samples only vary because
        of the count distribution.

        Parameters
        ----------
        adata, indices
            See :meth:`get_latent_representation`.
        n_samples
            Number of samples to draw per cell and gene.
        gene_list
            See :meth:`get_normalized_expression`.
        batch_size
            Number of cells to sample at a time. The samples are dense until they are stored.
        seed
            Random seed; ``None`` uses the seed of the model, so that repeated calls agree.

        Returns
        -------
        Sparse array of shape (n_cells, n_genes), or (n_cells, n_genes, n_samples) if more than one sample is drawn.

        Raises
        ------
        KeyError
            If ``gene_list`` contains genes that the model does not use.
        RuntimeError
            If the model is not trained.
        ValueError
            If an argument is out of range.
        """
        import sparse

        seed = self.seed_ if seed is None else seed
        n_samples, batch_size, seed = check("get", n_samples=n_samples, batch_size=batch_size, seed=seed).values()
        genes, columns = self._gene_columns(gene_list)
        drawn = []
        with seeded(derived_seed(seed, 40)):
            for batch in self._read(adata, indices, batch_size or DECODE_BATCH):
                # drawn on the CPU: the same counts on every device, and the device's random state is the user's
                mu, theta, zi_logits = (value[:, columns].cpu() for value in self._decode(batch))
                px = ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=zi_logits)
                counts = px.sample((n_samples,)).permute(1, 2, 0).numpy()
                drawn.append(sparse.GCXS.from_numpy(counts[..., 0] if n_samples == 1 else counts))
        if not drawn:
            shape = (0, len(genes)) if n_samples == 1 else (0, len(genes), n_samples)
            return sparse.GCXS.from_numpy(np.empty(shape, dtype=np.float32))
        return sparse.concatenate(drawn, axis=0)

    @held()
    @torch.no_grad()
    def get_gene_attributions(
        self,
        cluster: str,
        neighbor: str | None = None,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Compute the exact contribution of each gene to the separation of a cluster from a neighbour.

        Let :math:`z` be the latent vector of a cell, :math:`c` the centre of its cluster and :math:`n` the centre of
        the neighbour. The difference of the squared distances is
        :math:`|z - n|^2 - |z - c|^2 = 2 z \cdot (c - n) + |n|^2 - |c|^2`, which is positive if the cell is closer to
        its own cluster. The encoder is affine at inference, so this difference is the sum of one contribution per gene
        and a constant. Contributions are averaged over the cells of the cluster.

        Parameters
        ----------
        cluster
            Name of the cluster to explain. It must be a cluster from training, even if the current clusters are others,
            see :meth:`cut`.
        neighbor
            Name of the cluster to compare it with; ``None`` uses the cluster with the nearest centre.
        adata, indices
            Cells to use, of which only the cells in the cluster are explained. See :meth:`get_latent_representation`.
        batch_size
            Number of cells to explain at a time. Their contributions are dense arrays over genes.

        Returns
        -------
        Table with one row per gene of the model, sorted from the largest to the smallest contribution. The column
        ``contribution`` is the sum of ``expression`` (from the count of the gene itself) and ``graph`` (from the
        message that the gene sends if it is expressed). ``attrs`` contains ``cluster``, ``neighbor``, ``n_cells``, the
        ``constant``, and the ``difference`` of the squared distances, which is the sum of all contributions and the
        constant. Genes that are missing in new cells do not contribute.

        Raises
        ------
        KeyError
            If a cluster is not one of the clusters from training.
        RuntimeError
            If the model is not trained.
        ValueError
            If there are no cells in the cluster, or if it is compared with itself.
        """
        batch_size = check("get", batch_size=batch_size)["batch_size"]
        selected = self.reference.selected
        centers = cast("torch.Tensor", self.module.centers).detach().double()
        own = self._cluster_code(cluster, "cluster")
        between = torch.cdist(centers[own : own + 1], centers)[0]
        between[own] = torch.inf
        other = int(between.argmin()) if neighbor is None else self._cluster_code(neighbor, "neighbor")
        if own == other:
            msg = f"Expected two clusters to compare, found {cluster!r} twice. Pass another `neighbor`, or None."
            raise ValueError(msg)
        direction = 2.0 * (centers[own] - centers[other])
        constant = float(centers[other].square().sum() - centers[own].square().sum())
        sums = torch.zeros(2, len(selected), dtype=torch.float64, device=centers.device)
        n_cells, rest = 0, 0.0
        for batch in self._read(adata, indices, batch_size or DECODE_BATCH):
            inside = self.module.probabilities(self._represented(batch)).argmax(1) == own
            if not inside.any():
                continue
            expression, graph, left = gene_parts(self.module, batch.to(centers.device), direction)
            chosen = inside.to(centers.device)
            sums += torch.stack([expression[chosen].sum(0), graph[chosen].sum(0)])
            rest += float(left[chosen].sum())
            n_cells += int(inside.sum())
        if n_cells == 0:
            msg = f"Expected cells of the cluster {cluster!r} to explain, found none. See `model.predict` for the clusters."
            raise ValueError(msg)
        parts = (sums / n_cells).cpu().numpy()
        table = pd.DataFrame({"contribution": parts.sum(0), "expression": parts[0], "graph": parts[1]}, index=selected)
        constant += rest / n_cells
        names = self._cluster_names()
        table = table.sort_values("contribution", ascending=False, kind="stable").rename_axis("gene")
        table.attrs = {"cluster": names[own], "neighbor": names[other], "n_cells": n_cells, "constant": constant}
        table.attrs["difference"] = float(table["contribution"].sum() + constant)
        return table

    def _cluster_names(self) -> list[str]:
        """Return the cluster names in the order of the centres."""
        if self.cluster_names_ is not None:
            return list(self.cluster_names_)
        return [str(k) for k in range(len(cast("torch.Tensor", self.module.centers)))]

    def _current_clusters(self) -> list[str]:
        """Return the names of the current clusters."""
        _ = self.reference  # first, raise an error if the model is not trained
        return self._cluster_names() if self.level_ is None else list(dict.fromkeys(self.level_["cluster"]))

    def _cluster_code(self, name: str, argument: str) -> int:
        """Return the number of a cluster from training."""
        names = self._cluster_names()
        if name not in names:
            hint = "" if self.level_ is None else " Call `model.cut(model.n_clusters_)` to use these clusters again."
            msg = f"Expected `{argument}` to be a cluster from training, {listed(names)}, found {name!r}.{hint}"
            raise KeyError(msg)
        return names.index(name)

    def _target(self, adata: AnnData | None) -> AnnData:
        """Return the given AnnData, or the registered AnnData if none is given."""
        target = self.adata if adata is None else adata
        if target is None:
            msg = "Expected an AnnData, found none: this model was loaded without data. Pass `adata=`."
            raise ValueError(msg)
        if target is not self.adata:
            _input.check_is_adata(target)
        return target

    def _read(
        self,
        adata: AnnData | None,
        indices: Any,
        batch_size: int,
        transform_batch: str | None = None,
        dataloader: Iterable[Mapping[str, torch.Tensor]] | None = None,
        *,
        unseen: bool = False,
        reference: Reference | None = None,
    ) -> Iterator[BipartiteBatch]:
        """Check the requested cells, match them to the model or another reference, and return mini-batches of them."""
        reference = reference or self.reference
        if dataloader is not None:
            if adata is not None or indices is not None:
                msg = "Expected `dataloader` alone, found `adata` or `indices` too. Leave one of them out."
                raise ValueError(msg)
            return (cells.batch() for cells in reference.stream(dataloader, batch_size, transform_batch))
        target = self._target(adata)
        own = target is self.adata
        chunks = reference.read(target, indices, batch_size, transform_batch, registered=own, unseen=unseen)
        return (cells.batch() for cells in chunks)

    def _encode(
        self,
        adata: AnnData | None,
        indices: Any,
        transform_batch: str | None,
        dataloader: Iterable[Mapping[str, torch.Tensor]] | None,
        *,
        batch_size: int | None = None,
        max_missing: float = MAX_MISSING,
        partition: pd.DataFrame | None = None,
    ) -> Encoded:
        """Encode cells, and compute the probabilities of the parts of clusters that a partition divides."""
        size = batch_size or READ_CELLS
        parts = [] if partition is None else self._parts(partition)
        empty: list[np.ndarray] = [np.empty((0, self.module.n_latent), dtype=np.float32)]
        empty += [np.empty((0, len(each.names))) for each in parts]
        if dataloader is not None:
            every = Widened.of(self.reference, parts)
            batches = self._read(adata, indices, size, transform_batch, dataloader, reference=every.reference)
            stop = 0
            for batch in batches:
                kept, found_shares = every.divided(batch)
                rows = [self._represented(kept).cpu().numpy(), *found_shares]
                start, stop = stop, stop + len(rows[0])
                for array, values in zip(empty, rows, strict=True):  # grown in place, so that there is no second copy
                    if stop > len(array):
                        array.resize((round(SPARE * stop), array.shape[1]), refcheck=False)
                    array[start:stop] = values
            for array in empty:
                array.resize((stop, array.shape[1]), refcheck=False)
            z, *shares = empty
            return Encoded(z, pd.RangeIndex(len(z)), parts, shares, 0.0)
        reference = replace(self.reference, max_missing=max_missing)
        target = self._target(adata)
        own = target is self.adata
        moments: list[NewBatch] = []
        names = [] if own or transform_batch is not None else reference.registered.new_batches(target)
        if names:
            reference, moments = with_new_batches(self.module, reference, self.statistics_, target, names)
        wide = Widened.of(reference, parts) if parts else None
        chunks = (reference if wide is None else wide.reference).read(
            target, indices, size, transform_batch, registered=own
        )
        cells = target.obs_names[as_index(indices, target.obs_names)]
        z, *shares = (np.empty((len(cells), each.shape[1]), dtype=each.dtype) for each in empty)
        stop, missing = 0, 0.0
        with extended(self.module, moments) if moments else nullcontext():
            for chunk in chunks:
                start, stop = stop, stop + len(chunk)
                batch = chunk.batch()
                if wide is not None:
                    batch, found_shares = wide.divided(batch)
                    for share, values in zip(shares, found_shares, strict=True):
                        share[start:stop] = values
                z[start:stop] = self._represented(batch).cpu().numpy()
                missing = missing_share(batch)
        return Encoded(z, cells, parts, shares, missing)

    def _assign(self, encoded: Encoded, partition: pd.DataFrame | None) -> Assigned:
        """Compute the cluster probabilities for a partition, and assign each cell to a cluster."""
        z, cells, parts, shares, missing = encoded
        if partition is None:
            probability = self._probability(z, cells, missing)
            return Assigned(probability, probability.to_numpy().argmax(1))
        grown = self._grown()
        tree = grown.tree
        leaves = self._leaf_probability(grown, z, missing)
        probability, codes = shared_out(tree, leaves, partition, parts, shares)
        return Assigned(probability.set_axis(cells), codes)

    @torch.no_grad()
    def _probability(self, z: np.ndarray, cells: pd.Index, missing: float) -> pd.DataFrame:
        q = self.module.probabilities(torch.from_numpy(z)).numpy()
        if missing > 0 and self.statistics_ is not None:
            grid, log = self.statistics_["hidden"], np.log(self.statistics_["temperatures"])
            logits = np.log(np.maximum(q, np.finfo(q.dtype).tiny)) / np.exp(np.interp(missing, grid, log))
            q = softmax(logits, axis=1).astype(q.dtype)
        return pd.DataFrame(q, index=cells, columns=self._cluster_names())

    def _novelty(self, z: np.ndarray) -> np.ndarray:
        if self.statistics_ is None:
            msg = (
                "Expected a model with stored statistics of its training cells, found one saved by an earlier version. "
                "Train it again to compute the novelty."
            )
            raise RuntimeError(msg)
        found = self.statistics_
        return cluster_distance(z, found["means"], found["precision"]) / float(found["reach"])

    def _novel(self, z: np.ndarray, limit: float | None) -> np.ndarray | None:
        """Return whether the novelty of each cell exceeds a limit, bool (n_cells,), or ``None`` without a limit."""
        return None if limit is None else self._novelty(z) > limit

    def _reported(self, z: np.ndarray) -> np.ndarray:
        """Convert clustered latent vectors to those reported to the user, which separate labelled types."""
        axes = None if self.statistics_ is None else self.statistics_.get("type_axes")
        return z if axes is None else (z @ axes.T).astype(z.dtype)

    def _represented(self, batch: BipartiteBatch) -> torch.Tensor:
        """Return the latent vectors that are clustered, shape (n_cells, n_latent)."""
        z = self.module.encode(batch)
        return self.module.represent(z, batch.size_factor.to(z.device))

    def _decode(self, batch: BipartiteBatch, target: int | None = None) -> Any:
        """Decode each cell in its own batch, or all cells in batch ``target``, which also replaces unknown batches."""
        size_factor = batch.size_factor.to(self.module.device)
        if batch.batch_index is None:
            return self.module.decoder(self.module.encode(batch), size_factor)
        batch_index = batch.batch_index
        if target is not None:
            decoded = torch.full_like(batch_index, target)
            batch = batch._replace(batch_index=torch.where(batch_index < 0, decoded, batch_index))
            batch_index = decoded
        return self.module.decoder(self.module.encode(batch), size_factor, batch_index.to(self.module.device))

    def _gene_columns(self, gene_list: Sequence[str] | None) -> tuple[pd.Index, Any]:
        selected = self.reference.selected
        if gene_list is None:
            return selected, slice(None)
        if isinstance(gene_list, str) or not hasattr(gene_list, "__iter__"):
            msg = f"Expected `gene_list` to be a list of genes, found {gene_list!r}. Pass `gene_list=[{gene_list!r}]`."
            raise TypeError(msg)
        genes = pd.Index(list(gene_list))
        columns = selected.get_indexer(genes)
        if (columns < 0).any():
            msg = (
                f"Expected genes that the model uses in `gene_list`, found {listed(genes[columns < 0])}. "
                f"The model uses {len(selected)} genes, see `model.selected_genes_`; train with `n_top_genes=None` "
                "to use all."
            )
            raise KeyError(msg)
        return genes, torch.from_numpy(columns)
