"""Match new cells to the training data, and read cells for the model from an AnnData or a data loader."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scvi import settings

from scgpcl import _input
from scgpcl._batch_names import batch_name, batch_names, combined_names
from scgpcl._rules import MAX_MISSING, listed
from scgpcl.data import DataModuleCounts, GeneMatch, read_cells, tensors_to_counts
from scgpcl.model._setup import check_batch_columns, unknown_batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import scipy.sparse as sp
    import torch
    from anndata import AnnData

    from scgpcl.data import Cells

#: Number of cells read and encoded at a time.
READ_CELLS = 2048


@dataclass(frozen=True, eq=False)
class Registration:
    """Where counts, size factors, batches and labels are stored in an AnnData, and the names of batches and types."""

    layer: str | None
    size_factor_key: str | None
    batch_key: str | None
    batches: pd.Index
    #: Columns that define the batches: ``batch_key``, followed by the categorical covariates.
    batch_columns: tuple[str, ...] = ()
    labels_key: str | None = None
    types: pd.Index = field(default_factory=lambda: pd.Index([]))
    unlabeled: str | None = None

    def label_index(self, adata: AnnData, *, complete: bool = False) -> np.ndarray | None:
        """Return the index of each cell's labelled type in the model, int64, shape (n_cells,).

        All other cells get -1. If the model has no labels, ``None`` is returned. If the labels have types that were not
        registered, or lack registered types although ``complete`` is set, an error is raised.
        """
        if self.labels_key is None:
            return None
        _input.check_obs_key(adata, self.labels_key, "labels_key")
        own = batch_names(adata.obs[self.labels_key]).remove_unused_categories()
        found = own.categories.drop([self.unlabeled], errors="ignore")
        if not found.isin(self.types).all() or (complete and len(found) < len(self.types)):
            msg = (
                f"Expected the types {listed(self.types)} in `adata.obs[{self.labels_key!r}]`, as when the AnnData was set "
                f"up, found {listed(found)}. Restore them, or call `setup_anndata` again and create a new model."
            )
            raise ValueError(msg)
        return self.types.get_indexer(own.categories)[own.codes].astype(np.int64)

    def batch_index(
        self, adata: AnnData, transform_batch: str | None = None, *, unseen: bool = False
    ) -> np.ndarray | None:
        """Return the index of each cell's batch among the batches of the model, int64, shape (n_cells,).

        If the model has fewer than two batches, ``None`` is returned, with a warning if the cells are from another
        batch. If ``transform_batch`` is given, all cells are assigned to that batch and the column is not read. If
        ``unseen`` is set, cells from unknown batches get -1, and so do all cells if the column does not exist.
        """
        columns, several = self.batch_columns, len(self.batches) > 1
        if transform_batch is not None:
            code = self.batch_code(transform_batch)
            return np.full(adata.n_obs, code, dtype=np.int64) if several else None
        if not columns:
            return None
        if unseen and not self.names_batches(adata):
            return np.full(adata.n_obs, -1, dtype=np.int64) if several else None
        own = combined_names(self._batch_columns_of(adata), columns)
        index = self.batches.get_indexer(own.categories)[own.codes]
        new = sorted(own.categories.difference(self.batches))
        if new and several and not unseen:
            raise ValueError(unknown_batches(columns, new, self.batches))
        if new and not several:
            msg = (
                f"The model was trained on one batch, {self.batches[0]!r}, and cannot correct for others: cells from "
                f"{listed(new)} are treated as cells of that batch."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
        return index.astype(np.int64) if several else None

    def names_batches(self, adata: AnnData) -> bool:
        """Return whether an AnnData has the columns that define the batches."""
        return bool(self.batch_columns) and all(column in adata.obs for column in self.batch_columns)

    def new_batches(self, adata: AnnData) -> list[str]:
        """Return the names of the batches in an AnnData that are unknown to the model.

        The list is empty if the model does not correct for batches.
        """
        if len(self.batches) < 2 or not self.names_batches(adata):
            return []
        return sorted(set(self.names_of(adata)) - set(self.batches))

    def names_of(self, adata: AnnData) -> np.ndarray:
        """Return the name of each cell's batch, spelled as in the model, shape (n_cells,)."""
        return np.asarray(combined_names(self._batch_columns_of(adata), self.batch_columns), dtype=object)

    def _batch_columns_of(self, adata: AnnData) -> pd.DataFrame:
        """Check that an AnnData has the columns that define the batches, and return its ``obs``."""
        lacking = [column for column in self.batch_columns if column not in adata.obs]
        if lacking:
            msg = (
                f"Expected the columns that name the batches of the model (`batch_key={self.batch_key!r}`) in `adata.obs`, found "
                f"columns [{listed(adata.obs.columns)}] without {listed(lacking)}. Rename yours, or write the batch, new or known, "
                f"as in `adata.obs[{lacking[0]!r}] = 'new'`, or pass `transform_batch={self.batches[0]!r}` to treat the cells as "
                "of a batch that the model knows."
            )
            raise KeyError(msg)
        check_batch_columns(adata, self.batch_columns, self.batch_key)
        return adata.obs

    def sizes(self, adata: AnnData) -> np.ndarray | None:
        """Check and return the given size factors, float64 (n_cells,), or ``None`` if the model uses library sizes."""
        key = self.size_factor_key
        if key is None:
            return None
        _input.check_size_factors(adata, key)
        return adata.obs[key].to_numpy(dtype=np.float64)

    def batch_code(self, name: Any) -> int:
        """Return the index of a named batch among the batches of the model."""
        if not self.batch_columns:
            msg = (
                "Expected no `transform_batch` for a model without batches, "
                f"found {name!r}. To use batches, call `setup_anndata(adata, batch_key=...)` and train a new model."
            )
            raise ValueError(msg)
        code = self.batches.get_indexer(pd.Index([batch_name(name)]))[0]
        if code < 0:
            msg = f"Expected `transform_batch` to name batches of the model, {listed(self.batches)}, found {name!r}."
            raise ValueError(msg)
        return int(code)

    def target_batches(self, transform_batch: str | Sequence[str] | None) -> list[int | None]:
        """Return the indices of the named batches, or a single ``None`` for each cell's own batch."""
        if transform_batch is None:
            return [None]
        names = [transform_batch] if np.ndim(transform_batch) == 0 else list(transform_batch)
        if not names:
            msg = "Expected at least one batch in `transform_batch`, found an empty list. Pass None to use each cell's own batch."
            raise ValueError(msg)
        return [self.batch_code(name) for name in names]

    def known_codes(self, codes: Any) -> np.ndarray | None:
        """Check and return the batch codes of a data module, (n_cells,), or ``None`` for fewer than two batches."""
        n_batch = len(self.batches)
        if n_batch < 2:
            return None
        if len(codes) and (codes.min() < 0 or codes.max() >= n_batch):
            msg = (
                f"Expected batch codes from 0 to {n_batch - 1} from the data module, found {codes.min()} to "
                f"{codes.max()}. Use a data module with the batches of the model, {listed(self.batches)}."
            )
            raise ValueError(msg)
        return codes


class TrainingCounts(NamedTuple):
    """Counts and annotations of the training cells.

    Contains the counts of all genes in any storage format, shape (n_cells, n_vars), and the size factors, batches and
    labels, each of shape (n_cells,) or ``None``.
    """

    counts: Any
    size: np.ndarray | None
    batch_index: np.ndarray | None
    label_index: np.ndarray | None = None


def training_counts(adata: AnnData | None, datamodule: Any, registered: Registration) -> TrainingCounts:
    """Read and check the counts of the registered AnnData or of a data module."""
    if adata is None:
        counts = DataModuleCounts(datamodule)
        _input.check_counts(counts, None, place="the data module")
        return TrainingCounts(counts, None, registered.known_codes(counts.batch_index))
    batch_index, size = registered.batch_index(adata), registered.sizes(adata)
    counts = _input.counts_of(adata, registered.layer)
    # checked again, because counts are often normalised in place after they were registered
    _input.check_counts(counts, registered.layer)
    return TrainingCounts(counts, size, batch_index, registered.label_index(adata))


@dataclass(frozen=True, eq=False)
class Reference:
    """Properties of the training data against which new cells are matched.

    Parameters
    ----------
    registered
        Where counts and batches are stored in an AnnData, and the names of the batches.
    genes
        All genes of the training data, over which library sizes are summed.
    selected
        Genes used by the model, in the model's order.
    unit_size
        Library size (or given size factor) that corresponds to a size factor of 1.
    shares
        Share of each gene in the training library, shape (n_vars,). The shares sum to 1.
    max_missing
        Maximum fraction of the model's genes that may be missing in new cells.
    """

    registered: Registration
    genes: pd.Index
    selected: pd.Index
    unit_size: float
    shares: np.ndarray
    max_missing: float = MAX_MISSING
    seen: str | None = None

    def match(self, names: pd.Index) -> GeneMatch:
        """Match the model's genes by name, and raise an error if too many are missing."""
        n_genes = len(self.selected)
        if names.equals(self.genes):
            return GeneMatch(None, 1.0, names.get_indexer(self.selected), None, n_genes)
        _input.check_names(names, "var_names")
        library, selected = names.get_indexer(self.genes), names.get_indexer(self.selected)
        missing = self.selected[selected < 0]
        if len(missing) > self.max_missing * n_genes:
            msg = (
                f"Expected at least {1 - self.max_missing:.0%} of the {n_genes} genes that the model uses in "
                f"`adata.var_names`, found {len(missing)} missing: {listed(missing)}. Genes are matched by name; "
                "check that both data sets name genes alike. If so, pass a larger `max_missing`."
            )
            raise ValueError(msg)
        known = library >= 0
        share = 1.0 if known.all() else float(self.shares[known].sum())
        places = np.flatnonzero(selected >= 0) if len(missing) else None
        return GeneMatch(library[known], share, selected[selected >= 0], places, n_genes)

    def read(
        self,
        adata: AnnData,
        indices: Any,
        batch_size: int,
        transform_batch: str | None = None,
        *,
        registered: bool = False,
        unseen: bool = False,
        quiet: bool = False,
    ) -> Iterator[Cells]:
        """Match and check all cells, then read the requested cells in order, ``batch_size`` at a time.

        The counts of ``registered`` cells have already been checked, so this method only verifies that they have not
        changed. ``quiet`` skips the checks for cells that are read a second time. See :meth:`Registration.batch_index`
        for the other arguments.
        """
        layer = self.registered.layer
        index = as_index(indices, adata.obs_names)
        if registered:
            check_same_genes(adata.var_names, self.genes)
        match = self.match(adata.var_names)
        batch_index = self.registered.batch_index(adata, transform_batch, unseen=unseen)
        size = self.registered.sizes(adata)
        x = _input.counts_of(adata, layer)
        inspect = None
        if registered:
            check_unchanged(x, layer, self.seen)

            def inspect(block: sp.csr_matrix) -> None:
                if not _input.holds_counts(block):
                    _input.check_counts(x, layer, min_cells=1)
        elif not quiet:
            _input.check_counts(x, layer, min_cells=1)
            if match.places is not None:
                self._warn_of_missing(match.places)
        return read_cells(
            x,
            index,
            batch_size,
            match=match,
            unit_size=self.unit_size,
            size=size,
            batch_index=batch_index,
            inspect=inspect,
        )

    def stream(
        self, dataloader: Iterable[Mapping[str, torch.Tensor]], batch_size: int, transform_batch: str | None
    ) -> Iterator[Cells]:
        """Read cells from a data loader of scvi-tools, ``batch_size`` at a time."""
        if self.registered.size_factor_key is not None:
            msg = (
                "Expected an AnnData, because the model was set up with size factors, found a `dataloader`, which does not "
                "provide them. Pass `adata=`."
            )
            raise ValueError(msg)
        target = None if transform_batch is None else self.registered.batch_code(transform_batch)
        match = self.match(self.genes)
        for tensors in dataloader:
            counts, codes = tensors_to_counts(tensors, len(self.genes))
            _input.check_counts(counts, None, min_cells=1, place="the data loader")
            known = self.registered.known_codes(codes if target is None else np.full_like(codes, target))
            index = np.arange(counts.shape[0])
            yield from read_cells(counts, index, batch_size, match=match, unit_size=self.unit_size, batch_index=known)

    def _warn_of_missing(self, places: np.ndarray) -> None:
        missing = self.selected.delete(places)
        msg = (
            f"{len(missing)} of the {len(self.selected)} genes that the model uses are missing in `adata.var_names` "
            f"({listed(missing)}) and take their training mean."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def check_same_genes(found: pd.Index, registered: pd.Index) -> None:
    """Check that the AnnData of a model still has the registered genes, in any order."""
    if found.equals(registered) or (len(found) == len(registered) and found.isin(registered).all()):
        return
    msg = (
        f"Expected the {len(registered)} registered genes in the AnnData of the model, found {len(found)} genes, of which "
        f"{int(found.isin(registered).sum())} are registered: genes were removed or renamed after "
        "`SCGPCL.setup_anndata`. Register the AnnData again and create a new model, or pass `adata.copy()`: "
        "the genes of new cells are matched by name."
    )
    raise ValueError(msg)


def check_unchanged(x: Any, layer: str | None, seen: str | None) -> None:
    """Check the registered counts again if they have changed, and warn about the change.

    Removing cells is allowed, because each cell is read independently.
    """
    now = _input.fingerprint(x)
    if seen is None or now == seen or seen.split()[0] != now.split()[0]:
        return
    _input.check_counts(x, layer, min_cells=1)
    msg = (
        f"Expected the registered counts to be unchanged since they were last checked, found other counts in "
        f"{_input.place_of(layer)}. The results are those of the current counts; call `model.train()` to train on them."
    )
    warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def as_index(indices: Any, cells: pd.Index) -> np.ndarray:
    """Convert ``None`` (all cells), a boolean mask or integers to the indices of the requested cells.

    A mask given as a Series is aligned by cell name.
    """
    n_cells = len(cells)
    if indices is None:
        return np.arange(n_cells)
    if isinstance(indices, pd.Series) and indices.dtype == bool and not indices.index.equals(cells):
        at = cells.get_indexer(indices.index) if cells.is_unique else np.full(len(indices), -1)
        if (at >= 0).all() and indices.index.is_unique:
            return np.sort(at[indices.to_numpy()])
    index = np.asarray(indices)
    if index.ndim != 1:
        msg = f"Expected `indices` to be one-dimensional, found {indices!r}. Pass a list of positions, such as `[0]`, or a mask."
        raise IndexError(msg)
    if index.dtype == bool:
        if len(index) != n_cells:
            msg = f"Expected a mask of {n_cells} cells in `indices`, found one of {len(index)}."
            raise IndexError(msg)
        return np.flatnonzero(index)
    if index.size == 0:
        return np.empty(0, dtype=np.int64)
    if not np.issubdtype(index.dtype, np.integer):
        msg = f"Expected whole numbers or a boolean mask in `indices`, found values of type {index.dtype}."
        raise IndexError(msg)
    if index.min() < -n_cells or index.max() >= n_cells:
        msg = f"Expected positions below {n_cells} in `indices`, found {index.min()} to {index.max()}."
        raise IndexError(msg)
    return index.astype(np.int64) % n_cells
