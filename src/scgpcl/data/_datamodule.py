"""Counts from scvi-tools' data modules, and a data module for a collection of files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scvi import REGISTRY_KEYS

from scgpcl._batch_names import batch_names
from scgpcl.data._counts import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anndata.experimental import AnnCollection

#: Number of rows of a collection to read at a time.
READ_ROWS = 4096
#: Room in arrays that grow in place, relative to the length needed for all cells, or for the cells read so far.
SPARE = 1.1
#: Upper bound of the gene weights whose sums identify cells. Sums over ten million molecules are exact.
MAX_WEIGHT = 1 << 29


def tensors_to_counts(tensors: Mapping[str, torch.Tensor], n_genes: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return the counts and batch codes of a mini-batch from scvi-tools.

    The counts are float32 with shape (n_cells, n_genes), and the batch codes are int64 with shape (n_cells,).
    """
    x = tensors.get(REGISTRY_KEYS.X_KEY) if hasattr(tensors, "get") else None
    if not isinstance(x, torch.Tensor):
        msg = (
            f"Expected mini-batches of scvi-tools, dictionaries with counts under 'X', found {type(tensors).__name__}. "
            "Pass the `inference_dataloader()` of a data module of scvi-tools."
        )
        raise TypeError(msg)
    if x.ndim != 2 or x.shape[1] != n_genes:
        msg = f"Expected cells of {n_genes} genes, those of the model in its order, found counts of shape {tuple(x.shape)}."
        raise ValueError(msg)
    x = x.cpu()
    if x.layout is torch.sparse_csr:
        parts = (x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy())
        counts = canonical(sp.csr_matrix(parts, shape=tuple(x.shape), dtype=np.float32))
    else:
        counts = sp.csr_matrix((x.to_dense() if x.is_sparse else x).numpy(), dtype=np.float32)
    codes = tensors.get(REGISTRY_KEYS.BATCH_KEY)
    index = np.zeros(counts.shape[0], dtype=np.int64) if codes is None else codes.cpu().numpy().ravel().astype(np.int64)
    return counts, index


class DataModuleCounts:
    """Counts (n_cells, n_genes) of a data module that can only be read in the order of its inference loader.

    After the first pass, ``library`` contains the total count of each cell, float64 (n_cells,), and ``batch_index``
    contains its batch code, int64 (n_cells,).
    """

    dtype = np.dtype(np.float32)

    def __init__(self, datamodule: Any) -> None:
        self._datamodule = datamodule
        self.shape = (int(datamodule.n_obs), int(datamodule.n_vars))
        self.library: np.ndarray | None = None
        self.batch_index: np.ndarray | None = None
        #: Integer weight of each gene. The exact weighted sum of its counts identifies a cell.
        self._weights = np.random.default_rng(0).integers(1, MAX_WEIGHT, self.shape[1]).astype(np.float64)
        self._sums: np.ndarray | None = None

    def row_blocks(self) -> Iterator[sp.csr_matrix]:
        """Iterate over the cells in blocks.

        The number of cells must match the data module, and their order must be the same as in the first pass.
        """
        n_cells, n_genes = self.shape
        totals: list[np.ndarray] = []
        batches: list[np.ndarray] = []
        sums: list[np.ndarray] = []
        start = 0
        for tensors in self._datamodule.inference_dataloader():
            block, codes = tensors_to_counts(tensors, n_genes)
            stop = start + len(codes)
            sums.append(block.astype(np.float64) @ self._weights + codes)
            if self._sums is not None and not np.array_equal(sums[-1], self._sums[start:stop]):
                msg = (
                    f"Expected the data module to give its cells in one order, found different ones at {start} to {stop} "
                    "when they were read again. Make its inference loader without shuffling."
                )
                raise ValueError(msg)
            totals.append(np.asarray(block.sum(1, dtype=np.float64)).ravel())
            batches.append(codes)
            start = stop
            yield block
        if start != n_cells:
            msg = (
                f"Expected the {n_cells} cells of the data module, found {start} in its inference loader. "
                "Make it so that it gives every cell once and drops none."
            )
            raise ValueError(msg)
        self.library, self.batch_index = np.concatenate(totals), np.concatenate(batches)
        self._sums = np.concatenate(sums)

    def columns(self, index: np.ndarray) -> PackedCounts:
        """Load the counts of some genes into memory for all cells, shape (n_cells, len(index)).

        The arrays grow in place, so that there is never a second copy of them.
        """
        n_cells = self.shape[0]
        data, indices = np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.min_scalar_type(len(index)))
        indptr = np.zeros(n_cells + 1, dtype=np.int64)
        start = filled = 0
        for block in self.row_blocks():
            own = block[:, index]
            stop, end = start + own.shape[0], filled + own.nnz
            if end > len(data):
                expected = max(end, round(SPARE * end / stop * n_cells))
                for array in (data, indices):
                    array.resize(expected, refcheck=False)
            needed = np.min_scalar_type(int(own.data.max(initial=0)))
            if needed.itemsize > data.itemsize:
                data = data.astype(needed)
            data[filled:end], indices[filled:end] = own.data, own.indices
            indptr[start + 1 : stop + 1] = filled + own.indptr[1:]
            start, filled = stop, end
        for array in (data, indices):
            array.resize(filled, refcheck=False)
        return PackedCounts(data, indices, indptr, (n_cells, len(index)))


@dataclass(frozen=True)
class PackedCounts:
    """Counts in memory in the arrays of a CSR matrix, but with the smallest integer types that hold them.

    Rows are unpacked as they are read. Most counts and positions of genes then take three bytes instead of eight.
    """

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    shape: tuple[int, int]

    def __getitem__(self, rows: np.ndarray | slice) -> sp.csr_matrix:
        """Return some rows as a float32 matrix."""
        start, stop = self.indptr[:-1][rows], self.indptr[1:][rows]
        indptr = np.r_[0, (stop - start).cumsum()]
        entries = np.arange(indptr[-1]) + np.repeat(start - indptr[:-1], stop - start)
        values = self.data[entries].astype(np.float32), self.indices[entries].astype(np.int32), indptr
        return sp.csr_matrix(values, shape=(len(start), self.shape[1]))


class CollectionDataModule:
    """Data module for several AnnData objects, such as files on disk, whose cells are concatenated lazily.

    Implements the parts of scvi-tools' data-module interface that :meth:`scgpcl.SCGPCL.train` uses. Files with the same
    genes can stay on disk. If their genes differ, use the common genes with ``AnnCollection(..., join_vars="inner")``.

    Parameters
    ----------
    collection
        Collection of AnnData objects.
    layer
        Layer with the counts. If ``None``, ``X`` is used.
    batch_key
        Column of ``collection.obs`` with the batch of each cell, such as the ``label`` of the collection.

    Attributes
    ----------
    n_obs, n_vars
        Numbers of cells and genes.
    obs_names
        Names of the cells, in the order of the inference loader.
    registry
        Registry for creating a model: ``scgpcl.SCGPCL(registry=datamodule.registry)``.

    Raises
    ------
    KeyError
        If the layer or the column does not exist.
    TypeError
        If ``collection`` is not a collection.
    ValueError
        If the column has missing values.

    Examples
    --------
    >>> import anndata, scgpcl
    >>> from anndata.experimental import AnnCollection
    >>> cells = scgpcl.datasets.pbmc3k()
    >>> collection = AnnCollection({"a": cells[:1000], "b": cells[1000:]}, label="sample")
    >>> datamodule = scgpcl.data.CollectionDataModule(collection, layer="counts", batch_key="sample")
    >>> model = scgpcl.SCGPCL(registry=datamodule.registry, n_clusters=9)
    >>> model.train(datamodule=datamodule)  # doctest: +SKIP
    """

    def __init__(self, collection: AnnCollection, *, layer: str | None = None, batch_key: str | None = None) -> None:
        if not all(hasattr(collection, name) for name in ("adatas", "obs_names", "var_names")):
            msg = (
                f"Expected `collection` to be an AnnCollection, found {type(collection).__name__}. Make one of several "
                "AnnData with `anndata.experimental.AnnCollection([...])`."
            )
            raise TypeError(msg)
        self._collection = collection
        self._layer = layer
        self.n_obs, self.n_vars = (int(n) for n in collection.shape)
        self.obs_names = collection.obs_names
        lacking = [i for i, adata in enumerate(collection.adatas) if layer is not None and layer not in adata.layers]
        if lacking:
            msg = f"Expected raw counts in `layers[{layer!r}]` of all parts of the collection, found none in parts {lacking}."
            raise KeyError(msg)
        self._batches, names = self._read_batches(batch_key)
        self.registry = {
            "setup_method_name": "setup_datamodule",
            "setup_args": {"layer": layer, "batch_key": batch_key},
            "field_registries": {
                REGISTRY_KEYS.X_KEY: {
                    "state_registry": {
                        "n_obs": self.n_obs,
                        "n_vars": self.n_vars,
                        "column_names": collection.var_names,
                    },
                    "summary_stats": {"n_vars": self.n_vars, "n_cells": self.n_obs},
                },
                REGISTRY_KEYS.BATCH_KEY: {
                    "state_registry": {"categorical_mapping": names, "original_key": batch_key},
                    "summary_stats": {"n_batch": len(names)},
                },
            },
        }

    def inference_dataloader(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield mini-batches of all cells in order, with sparse counts and batch codes."""
        for start in range(0, self.n_obs, READ_ROWS):
            stop = min(start + READ_ROWS, self.n_obs)
            rows = self._collection[np.arange(start, stop)]
            counts = canonical(sp.csr_matrix(rows.X if self._layer is None else rows.layers[self._layer]))
            counts = counts.astype(np.float32)
            indptr, indices, values = (torch.from_numpy(part) for part in (counts.indptr, counts.indices, counts.data))
            yield {
                REGISTRY_KEYS.X_KEY: torch.sparse_csr_tensor(indptr, indices, values, size=counts.shape),
                REGISTRY_KEYS.BATCH_KEY: torch.from_numpy(self._batches[start:stop, None]),
            }

    def _read_batches(self, key: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch codes of all cells and the names of the batches."""
        if key is None:
            return np.zeros(self.n_obs, dtype=np.int64), np.array(["0"])
        obs = getattr(self._collection, "obs", None)
        if obs is None or key not in obs:
            found = "" if obs is None else ", ".join(map(repr, obs.columns))
            msg = (
                f"Expected `batch_key={key!r}` to be a column of all parts of the collection, found columns [{found}]."
            )
            raise KeyError(msg)
        n_missing = int(obs[key].isna().sum())
        if n_missing:
            msg = f"Expected a value for every cell in `obs[{key!r}]`, found {n_missing} missing ones. Fill them in."
            raise ValueError(msg)
        codes, names = pd.factorize(np.asarray(batch_names(obs[key]), dtype=object), sort=True)
        return codes.astype(np.int64), names
