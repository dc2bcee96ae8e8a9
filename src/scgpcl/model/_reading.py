"""Mini-batches of the registered cells, of new ones, or of a loader of scvi-tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgpcl import _keys
from scgpcl.data import tensors_to_counts
from scgpcl.model import _checks
from scgpcl.model._base import ModelState
from scgpcl.model._inference import as_index, cell_batches, match_genes, warn_of_missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch
    from anndata import AnnData

    from scgpcl.data import BipartiteBatch
    from scgpcl.model._inference import GeneMatch


class CellReading(ModelState):
    """Cells matched to the model and checked before any work."""

    def _batches(
        self,
        adata: AnnData | None,
        indices: Any,
        batch_size: int,
        transform_batch: str | None = None,
        *,
        unseen: bool = False,
    ) -> Iterator[BipartiteBatch]:
        """Check new cells before any work and give their batches."""
        frame = self._trained_frame()
        _checks.check_range(batch_size, 1, np.inf, "batch_size", whole=True)
        new = adata is not None and adata is not self.adata
        adata = self.adata if adata is None else adata
        if adata is None:
            msg = "Expected an AnnData, found none: the model is without. Pass `adata=`."
            raise ValueError(msg)
        _checks.check_is_adata(adata)
        layer, size_key = self._setup_arg("layer"), self._setup_arg("size_factor_key")
        match = self._match(adata)
        x = _checks.counts_of(adata, layer)
        if new:
            _checks.check_counts(x, layer, min_cells=1)
            _checks.check_size_factors(adata, size_key)
            warn_of_missing(match, frame)
        batch_index = self._batch_index(adata, transform_batch, unseen=unseen)
        size = None if size_key is None else adata.obs[size_key].to_numpy(dtype=np.float64)
        index = as_index(indices, adata.n_obs)
        return cell_batches(x, match, frame, size=size, index=index, batch_size=batch_size, batch_index=batch_index)

    def _streamed_batches(
        self,
        dataloader: Iterable[Mapping[str, torch.Tensor]],
        adata: AnnData | None,
        indices: Any,
        batch_size: int,
        transform_batch: str | None,
    ) -> Iterator[BipartiteBatch]:
        """Batches of the cells of a loader of scvi-tools."""
        frame = self._trained_frame()
        _checks.check_range(batch_size, 1, np.inf, "batch_size", whole=True)
        if adata is not None or indices is not None:
            msg = "Expected `dataloader` alone, found `adata` or `indices` too. Leave one of them out."
            raise ValueError(msg)
        if self._setup_arg("size_factor_key") is not None:
            msg = (
                "Expected an AnnData with the size factors that the model was set up with, found a `dataloader`, which has "
                "none. Pass `adata=`."
            )
            raise ValueError(msg)
        target = None if transform_batch is None else self._target_batches(transform_batch)[0]
        match = match_genes(frame.var_names, frame)
        for tensors in dataloader:
            counts, codes = tensors_to_counts(tensors, len(frame.var_names))
            _checks.check_counts(counts, None, min_cells=1, place="the data loader")
            known = self._known_codes(codes if target is None else np.full_like(codes, target))
            rows = np.arange(counts.shape[0])
            yield from cell_batches(
                counts, match, frame, size=None, index=rows, batch_size=batch_size, batch_index=known
            )

    def _match(self, adata: AnnData) -> GeneMatch:
        padded = None
        if adata is not self.adata and _keys.PADDED in adata.var:
            padded = adata.var[_keys.PADDED].to_numpy(dtype=bool)
        return match_genes(adata.var_names, self._trained_frame(), padded=padded)
