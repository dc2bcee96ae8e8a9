"""Getters: arrays for any cells, and nothing written to the AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
import torch

from scgpcl.model import _checks
from scgpcl.model._annotate import cluster_names
from scgpcl.model._inference import as_index
from scgpcl.model._reading import CellReading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anndata import AnnData

    from scgpcl.data import BipartiteBatch

#: Cells encoded at a time.
ENCODE_BATCH = 2048
#: Cells assigned to clusters at a time.
ASSIGNED_ROWS = 1 << 16
#: Cells decoded at a time: the result is dense over genes.
DECODE_BATCH = 512


class Getters(CellReading):
    """Latent vectors, labels and denoised expression of the registered or of new cells."""

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
        transform_batch: str | None = None,
        dataloader: Iterable[Mapping[str, torch.Tensor]] | None = None,
    ) -> np.ndarray:
        """Latent vectors of cells.

        Each cell is encoded on its own from the gene states stored at the end of training: the result depends
        neither on the other cells nor on their order, and repeated calls give identical arrays.

        Parameters
        ----------
        adata
            Cells to encode; ``None`` is the registered AnnData. Another AnnData needs no set-up: its genes are matched
            by name, in any order, and its counts are read from the registered layer.
        indices
            Positions of the cells, or a boolean mask.
        batch_size
            Cells encoded at a time.
        transform_batch
            Encode all cells as cells of this batch of the model, whatever their own. New cells of a batch that the model
            has not seen need it; ``None`` is each cell's own batch.
        dataloader
            Mini-batches of scvi-tools to take the cells from instead, such as ``datamodule.inference_dataloader()``. Their
            genes are those of the model in its order.

        Returns
        -------
        Array of shape (n_cells, n_latent), float32.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If genes that the model uses are missing, if counts are not counts, or if the model does not know a batch.
        """
        size = _size(batch_size, ENCODE_BATCH)
        if dataloader is not None:
            streamed = self._streamed_batches(dataloader, adata, indices, size, transform_batch)
            parts = [self.module.shorten(self.module.encode(batch)).cpu().numpy() for batch in streamed]
            return np.concatenate(parts) if parts else np.empty((0, self.module.n_latent), dtype=np.float32)
        batches = self._batches(adata, indices, size, transform_batch)
        cells = cast("AnnData", self.adata if adata is None else adata)
        latent = np.empty((len(as_index(indices, cells.n_obs)), self.module.n_latent), dtype=np.float32)
        start = 0
        for batch in batches:
            stop = start + len(batch.cell_index)
            latent[start:stop] = self.module.shorten(self.module.encode(batch)).cpu().numpy()
            start = stop
        return latent

    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        *,
        min_confidence: float | None = None,
        batch_size: int | None = None,
        transform_batch: str | None = None,
        dataloader: Iterable[Mapping[str, torch.Tensor]] | None = None,
    ) -> np.ndarray | pd.DataFrame:
        """Cluster of cells.

        Parameters
        ----------
        adata, indices, batch_size, transform_batch, dataloader
            See :meth:`get_latent_representation`. With a ``dataloader`` cells have numbers in place of names.
        soft
            Return the assignment probabilities instead.
        min_confidence
            Cells whose largest probability is below this are named ``"unassigned"``; ``None`` names all by their
            cluster.

        Returns
        -------
        Names of the clusters ("0" is the largest in training), shape (n_cells,); with ``soft`` a table of
        probabilities of shape (n_cells, n_clusters), indexed by cell, whose rows sum to one.

        Raises
        ------
        ValueError
            If ``min_confidence`` is no probability, or is given together with ``soft``.
        """
        _checks.check_min_confidence(min_confidence)
        _checks.check_flag(soft, "soft")
        if soft and min_confidence is not None:
            msg = (
                f"Expected `min_confidence` for names of clusters only, found {min_confidence!r} with `soft=True`. "
                "Probabilities are given for every cell: leave one of the two out."
            )
            raise ValueError(msg)
        z = self.get_latent_representation(
            adata, indices, batch_size=batch_size, transform_batch=transform_batch, dataloader=dataloader
        )
        if dataloader is None:
            names = cast("AnnData", self.adata if adata is None else adata).obs_names
            cells = names[as_index(indices, len(names))]
        else:
            cells = pd.RangeIndex(len(z))
        probability = self._probability(z, cells)
        return probability if soft else np.asarray(cluster_names(probability, min_confidence), dtype=object)

    @torch.no_grad()
    def _probability(self, z: np.ndarray, cells: pd.Index) -> pd.DataFrame:
        parts = torch.from_numpy(z).split(ASSIGNED_ROWS)
        q = torch.cat([self.module.soft_assign(rows.to(self.module.device)).cpu() for rows in parts]).numpy()
        return pd.DataFrame(q, index=cells, columns=[str(k) for k in range(q.shape[1])])

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
        """Denoised expression: the means of the fitted distribution, without its dropout.

        Call :meth:`train_decoder` before: :meth:`train` ends when the clusters have settled, and the decoder of a small
        data set is little trained by then. Cells are decoded at their own library size. Genes that new cells lack are
        estimated like all others.

        Parameters
        ----------
        adata, indices
            See :meth:`get_latent_representation`.
        gene_list
            Genes to return, in this order; ``None`` is all genes that the model uses.
        library_size
            Each cell's expression over all genes of the model sums to this; ``"latent"`` gives mean counts at the
            cell's own library size instead, which here is counted, not inferred.
        batch_size
            Cells decoded at a time.
        return_numpy
            Return an array instead of a table of cells and genes; ``None`` returns the table, as scVI does for one
            estimate per cell.
        transform_batch
            Batch to decode all cells as: what a cell would have shown there. A list gives the mean over its batches,
            ``None`` decodes each cell as of its own batch. Cells are encoded as of their own batch; those of a batch
            that the model has not seen are encoded as of the batch that they are decoded as.

        Returns
        -------
        Shape (n_cells, n_genes).

        Raises
        ------
        KeyError
            If ``gene_list`` names genes that the model does not use.
        ValueError
            If the model does not know a batch.
        """
        self._trained_frame()
        if library_size != "latent":
            _checks.check_range(library_size, 1e-9, np.inf, "library_size")
        genes, columns = self._gene_columns(gene_list)
        parts = []
        targets = self._target_batches(transform_batch)
        for batch in self._batches(adata, indices, _size(batch_size, DECODE_BATCH), unseen=transform_batch is not None):
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
        cells = (self.adata if adata is None else adata).obs_names
        return pd.DataFrame(values, index=cells[as_index(indices, len(cells))], columns=genes)

    @torch.no_grad()
    def get_likelihood_parameters(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, *, batch_size: int | None = None
    ) -> dict[str, np.ndarray]:
        """Parameters of the zero-inflated negative binomial of each cell and gene of the model.

        Parameters
        ----------
        adata, indices, batch_size
            See :meth:`get_normalized_expression`.

        Returns
        -------
        ``"mean"`` (of the negative binomial, at the cell's own library size), ``"dispersions"`` (inverse) and
        ``"dropout"`` (logits), each of shape (n_cells, n_genes).
        """
        self._trained_frame()
        parts = [self._decode(batch) for batch in self._batches(adata, indices, _size(batch_size, DECODE_BATCH))]
        names = ("mean", "dispersions", "dropout")
        empty = torch.empty(0, self.module.n_genes)
        stacked = (torch.cat(values).cpu() for values in zip(*parts, strict=True)) if parts else [empty] * 3
        return {name: values.numpy() for name, values in zip(names, stacked, strict=True)}

    def _decode(self, batch: BipartiteBatch, target: int | None = None) -> Any:
        """Decode cells as of their own batch, or of another, which stands in where their own is not known."""
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
        selected = self._trained_frame().selected
        if gene_list is None:
            return selected, slice(None)
        if isinstance(gene_list, str) or not hasattr(gene_list, "__iter__"):
            msg = f"Expected `gene_list` to be a list of genes, found {gene_list!r}. Pass `gene_list=[{gene_list!r}]`."
            raise TypeError(msg)
        genes = pd.Index(list(gene_list))
        columns = selected.get_indexer(genes)
        if (columns < 0).any():
            msg = (
                f"Expected genes that the model uses in `gene_list`, found {_checks.listed(genes[columns < 0])}. "
                f"The model uses {len(selected)} genes, see `model.selected_genes_`; train with `n_top_genes=None` "
                "to use all."
            )
            raise KeyError(msg)
        return genes, torch.from_numpy(columns)


def _size(batch_size: int | None, default: int) -> int:
    return default if batch_size is None else batch_size
