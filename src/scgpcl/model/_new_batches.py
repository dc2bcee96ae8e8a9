"""Support for batches that were not seen in training, whose moments are measured on their own cells."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scvi import settings

from scgpcl import _input
from scgpcl._rules import listed
from scgpcl.model._reference import READ_CELLS
from scgpcl.train import cluster_distance, linked_shares

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anndata import AnnData

    from scgpcl.data import Cells
    from scgpcl.model._reference import Reference
    from scgpcl.module import SCGPCLModule

#: Minimum number of cells needed to measure the moments of a new batch.
MIN_CELLS = 100
#: Number of pseudo-cells added from the nearest known batch.
PRIOR_CELLS = 10.0
#: Number of rounds that alternate between computing the composition and the moments of the batch.
ROUNDS = 3
#: Maximum number of cells used to find the nearest batch.
MAX_NEAREST_CELLS = 500


class NewBatch(NamedTuple):
    """Moments of a batch, each float32 of shape (n_genes,); see :class:`scgpcl.nn.Moments` and ``BatchLinks``."""

    mean: np.ndarray
    std: np.ndarray
    share: np.ndarray


def with_new_batches(
    module: SCGPCLModule,
    reference: Reference,
    statistics: Mapping[str, np.ndarray] | None,
    adata: AnnData,
    names: list[str],
) -> tuple[Reference, list[NewBatch]]:
    """Append the batches ``names`` of an AnnData to the reference, and return it together with their moments."""
    registered = reference.registered
    _input.check_counts(_input.counts_of(adata, registered.layer), registered.layer, min_cells=1)
    own = registered.names_of(adata)
    moments: list[NewBatch] = []
    measured: list[str] = []
    few: list[str] = []
    for name in names:
        index = np.flatnonzero(own == name)
        sample = index[:: max(1, -(-len(index) // MAX_NEAREST_CELLS))]
        known = registered.batches
        distance = []
        for batch in known:
            cells = list(reference.read(adata, sample, READ_CELLS, batch, quiet=True))
            distance.append(np.mean(np.concatenate([_distances(module, part, statistics) for part in cells])))
        nearest = int(np.argmin(distance))
        if len(index) < MIN_CELLS or statistics is None or "features" not in statistics:
            few.append(f"{name!r} ({len(index)} cells, treated as {known[nearest]!r})")
            mean, std, share = module.gene_mean, module.gene_std, module.link_share
            moments.append(NewBatch(*(each[nearest].cpu().numpy() for each in (mean, std, share))))  # type: ignore[index]
            continue
        parts = list(reference.read(adata, index, READ_CELLS, known[nearest], quiet=True))
        moments.append(_measured(module, parts, statistics, nearest))
        measured.append(name)
    msg = (
        f"{len(names)} batches of the cells were not in training. "
        if len(names) > 1
        else "A batch was not in training. "
    )
    if measured:
        msg += f"The feature means and standard deviations of {listed(measured)} are estimated from their own cells. "
    if few:
        msg += (
            f"Batches with fewer than {MIN_CELLS} cells are treated as the most similar known batch: {', '.join(few)}. "
        )
    warnings.warn(
        msg + "Pass `transform_batch=` to name a batch.", UserWarning, stacklevel=settings.warnings_stacklevel
    )
    return replace(
        reference, registered=replace(registered, batches=registered.batches.append(pd.Index(names, dtype=object)))
    ), moments


def _represented(module: SCGPCLModule, cells: Cells) -> torch.Tensor:
    batch = cells.batch()
    z = module.encode(batch)
    return module.represent(z, batch.size_factor.to(z.device))


def _distances(module: SCGPCLModule, cells: Cells, statistics: Mapping[str, np.ndarray] | None) -> np.ndarray:
    """Compute the distance of each cell to the nearest cluster, shape (n_cells,)."""
    z = _represented(module, cells)
    if statistics is not None:
        return cluster_distance(z.cpu().numpy(), statistics["means"], statistics["precision"])
    return torch.cdist(z, module.centers.detach()).amin(1).cpu().numpy()  # type: ignore[union-attr]


def _measured(module: SCGPCLModule, parts: list[Cells], statistics: Mapping[str, np.ndarray], nearest: int) -> NewBatch:
    """Measure the moments of a batch, accounting for its own cell composition.

    The moments are the means over its cells minus the values expected from the clusters of these cells.
    """
    std = module.gene_std[nearest].cpu().numpy().astype(np.float64)
    prior = [each[nearest].cpu().numpy().astype(np.float64) for each in (module.gene_mean, module.link_share)]  # type: ignore[index]
    counts = sp.vstack([part.rows(np.arange(len(part))) for part in parts], format="csr")
    size, measured = np.concatenate([part.size_factor for part in parts]), parts[0].measured()
    scale = module.feature_scale.item()
    log = counts.copy()
    log.data = np.log1p(scale * log.data / np.repeat(size, np.diff(log.indptr)))
    n_cells = len(size)
    observed = [np.asarray(each.mean(0)).ravel() for each in (log, linked_shares(counts))]
    # a cell without some genes is linked to the others alone, so shares refer to the measured genes
    share_of = lambda shares: shares * measured / max(float((shares * measured).sum()), 1e-12)
    before = [prior[0], share_of(prior[1])]
    found = NewBatch(*(each.astype(np.float32) for each in (prior[0], std, prior[1])))
    for _ in range(ROUNDS):
        with extended(module, [found]):
            code = module.gene_mean.shape[0] - 1
            labels = [module.probabilities(_represented(module, part.of_batch(code))).argmax(1) for part in parts]
        share = np.bincount(torch.cat(labels).numpy(), minlength=len(statistics["features"])) / n_cells
        links = share_of(prior[1] + share @ statistics["links"]) - before[1]
        expected = (std * (share @ statistics["features"]), links)
        values = [
            np.where(measured, (n_cells * (seen - gone) + PRIOR_CELLS * own) / (n_cells + PRIOR_CELLS), own)
            for seen, gone, own in zip(observed, expected, before, strict=True)
        ]
        found = NewBatch(values[0].astype(np.float32), found.std, values[1].astype(np.float32))
    return found


@contextmanager
def extended(module: SCGPCLModule, moments: list[NewBatch]) -> Iterator[None]:
    """Add further batches to the network inside the block, numbered after the existing batches."""
    if not moments:
        yield
        return
    before = (module.gene_mean, module.gene_std, cast("torch.Tensor", module.link_share))
    try:
        module.gene_mean, module.gene_std, module.link_share = (
            torch.cat([old, torch.from_numpy(np.stack(new)).to(old)])
            for old, new in zip(before, zip(*moments, strict=True), strict=True)
        )
        yield
    finally:
        module.gene_mean, module.gene_std, module.link_share = before
