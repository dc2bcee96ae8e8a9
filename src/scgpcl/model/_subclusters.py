"""Find the parts of a cluster using genes and axes of its own cells, and assign cells without the network."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from scgpcl._random import cpu_generator
from scgpcl.cluster import Evidence, estimate_n_clusters, targets
from scgpcl.data import halves, of_genes, thinned
from scgpcl.model._reference import READ_CELLS
from scgpcl.nn import (
    BatchLinks,
    DepthCorrection,
    Moments,
    fit_centers,
    fit_temperature,
    shrink_length,
    soft_assign,
    standardized_counts,
)
from scgpcl.pp import FeatureAxes
from scgpcl.train import DRAWN_SHARE, N_DEPTH_DRAWS, N_DRAWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from scgpcl.data import BipartiteBatch, Cells
    from scgpcl.model._reference import Reference

logger = logging.getLogger(__name__)

#: Minimum fraction of the molecules in the draws used to fit the depth correction and the centres.
LEAST_SHARE = 0.05
#: Seed for all random steps, so that repeated calls agree regardless of the model's seed.
SEED = 0
#: Minimum that the separation of a split must significantly exceed. Along axes chosen from the same cells, splits of a pure cell
#: line reach 1.4.
MIN_SEPARATION = 1.3


@dataclass(frozen=True, eq=False)
class Subclusters:
    """Assignment of cells to the parts of one cluster.

    Parameters
    ----------
    whole
        Tree nodes and parts of other clusters that make up the cluster.
    names
        Names of the parts, starting with the largest.
    genes
        Names of the genes used.
    unit
        Size factor of the model that corresponds to a size factor of 1 in the cluster.
    moments
        Moments of the features for these genes, computed from the cells of the cluster.
    axes, origin
        Axes in feature space, shape (n_axes, n_genes), and mean of the cells along these axes, shape (n_axes,).
    depth
        Weight of the depth correction, see :class:`scgpcl.nn.DepthCorrection`.
    centers
        Centres of the parts, shape (n_parts, n_axes).
    alpha, shrinkage, temperature
        See :func:`scgpcl.nn.soft_assign` and :func:`scgpcl.nn.shrink_length`.
    """

    whole: tuple[str, ...]
    names: tuple[str, ...]
    genes: np.ndarray
    unit: float
    moments: Moments
    axes: np.ndarray
    origin: np.ndarray
    depth: np.ndarray
    centers: np.ndarray
    alpha: float
    shrinkage: float
    temperature: float = 1.0

    def size_factor(self, batch: BipartiteBatch) -> torch.Tensor:
        """Compute the size factors of cells relative to the cluster, shape (n_cells,)."""
        return batch.size_factor / self.unit

    def scores(self, batch: BipartiteBatch) -> torch.Tensor:
        """Compute the centred features of cells along the axes from the counts of ``genes``, shape (n_cells, n_axes).

        Cells from batches that are unknown to the model are standardised with the mean over the known batches.
        """
        mean, std = (torch.from_numpy(each) for each in (self.moments.mean, self.moments.std))
        links = None
        if mean.dim() == 2:
            assert batch.batch_index is not None
            n_known = len(mean)
            mean, std = (torch.cat([each, each.mean(0, keepdim=True)]) for each in (mean, std))
            known = (batch.batch_index >= 0) & (batch.batch_index < n_known)
            links = BatchLinks(torch.where(known, batch.batch_index, n_known), torch.empty(0))
        features = standardized_counts(
            batch.graph,
            batch.counts,
            self.size_factor(batch),
            mean,
            std,
            scale=self.moments.scale,
            mask=None if batch.measured is None else batch.measured.unsqueeze(1),
            links=links,
        )
        return features.project(torch.from_numpy(self.axes))[:, 0] - torch.from_numpy(self.origin)

    def vectors(self, batch: BipartiteBatch) -> torch.Tensor:
        """Compute the scores used for clustering.

        They are corrected for depth and reduced in length, float64, shape (n_cells, n_axes).
        """
        correction = DepthCorrection(len(self.axes))
        correction.weight.copy_(torch.from_numpy(self.depth))
        z = correction(self.scores(batch), self.size_factor(batch))
        return shrink_length(z.double(), self.shrinkage)

    def probability(self, batch: BipartiteBatch) -> torch.Tensor:
        """Compute the probability of each part for cells in the cluster, float64, shape (n_cells, n_parts)."""
        centers = torch.from_numpy(self.centers).double()
        return soft_assign(self.vectors(batch), centers, alpha=self.alpha, temperature=self.temperature)

    def state(self) -> dict[str, Any]:
        """Return the state of the object as arrays and numbers."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moments = values.pop("moments")
        texts = {name: np.array(values[name], dtype=object) for name in ("whole", "names", "genes")}
        return {**values, **texts, "mean": moments.mean, "std": moments.std, "scale": float(moments.scale)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Subclusters:
        """Restore the object from its :meth:`state`."""
        values = dict(state)
        moments = Moments(*(values.pop(name) for name in ("mean", "std", "scale")))
        texts = {name: tuple(str(each) for each in values[name]) for name in ("whole", "names")}
        return cls(**{**values, **texts, "moments": moments})


@torch.no_grad()
def fit_subclusters(
    cells: Cells,
    moments: Moments,
    n: int | None,
    *,
    whole: tuple[str, ...],
    genes: np.ndarray,
    unit: float,
    alpha: float,
    shrinkage: float,
    false_splits: float,
) -> Subclusters | None:
    """Find the parts of a cluster along discriminant axes, in the same way as training finds clusters.

    Parameters
    ----------
    cells, moments
        Cells of the cluster, and moments of their features.
    n
        Number of parts; ``None`` estimates it.
    whole, genes, unit, alpha, shrinkage
        See :class:`Subclusters`.
    false_splits
        See :func:`scgpcl.cluster.estimate_n_clusters`.

    Returns
    -------
    Parts without names, or None if all cells are alike.
    """
    axes = FeatureAxes(cells, moments, discriminant=True, seed=SEED).start
    if axes is None:
        return None
    n_axes = len(axes)
    values: dict[str, Any] = {
        "axes": axes,
        "origin": np.zeros(n_axes, dtype=np.float32),
        "depth": np.zeros((2 * (n_axes + 1), n_axes), dtype=np.float32),
        "centers": np.zeros((n or 2, n_axes), dtype=np.float32),
    }
    parts = Subclusters(whole, (), genes, unit, moments, **values, alpha=alpha, shrinkage=shrinkage)
    batches = [cells.batch(rows) for rows in np.array_split(np.arange(len(cells)), -(-len(cells) // READ_CELLS))]
    batches = [batch._replace(size_factor=batch.size_factor * unit) for batch in batches]  # size factors of the model

    def thin(stream: int, low: float, high: float) -> list[BipartiteBatch]:
        """Thin the cells to log-uniform fractions of their molecules."""
        generator = cpu_generator(SEED, stream)
        share = [high * (low / high) ** torch.rand(len(batch.cell_index), generator=generator) for batch in batches]
        return [thinned(batch, own, generator) for batch, own in zip(batches, share, strict=True)]

    whole_scores = _gathered(parts.scores, batches)
    parts = replace(parts, origin=whole_scores.mean(0).numpy())
    whole_scores = whole_scores - whole_scores.mean(0)
    shallow = [thin(draw, LEAST_SHARE, 1.0) for draw in range(N_DEPTH_DRAWS)]
    correction = DepthCorrection(n_axes)
    seen = ((_gathered(parts.scores, drawn), _gathered(parts.size_factor, drawn)) for drawn in shallow)
    correction.fit(seen, whole_scores)
    parts = replace(parts, depth=correction.weight.numpy())

    def draws() -> Iterator[torch.Tensor]:
        yield correction(whole_scores, _gathered(parts.size_factor, batches))
        for draw in range(N_DRAWS):
            scores = _gathered(parts.scores, thin(N_DEPTH_DRAWS + draw, DRAWN_SHARE, DRAWN_SHARE))
            yield scores - scores.mean(0)

    evidence = Evidence.of(draws(), n or 2, seed=SEED)
    generator = cpu_generator(SEED, N_DEPTH_DRAWS + N_DRAWS)
    pairs = [*zip(*(halves(batch, generator) for batch in batches), strict=True)]
    if n is None:
        scores = [_gathered(parts.scores, half)[evidence.linked].numpy() for half in pairs]
        found = estimate_n_clusters(
            evidence, [(scores[0], scores[1])], min_separation=MIN_SEPARATION, false_splits=false_splits, seed=SEED
        )
        n = max(2, found.n_clusters)
        logger.info("Estimated %d parts of the cluster: splits that hold on held-out molecules, and at least one.", n)
    target = targets(evidence.support(n))
    rows = [_gathered(parts.vectors, drawn).float() for drawn in (batches, shallow[0])]
    means = target.t() @ rows[0] / target.sum(0).unsqueeze(1)
    centers = fit_centers(torch.cat(rows), torch.cat([target, target]), means, alpha=alpha)
    parts = replace(parts, centers=centers.numpy())
    first, second = (_gathered(parts.probability, half) for half in pairs)
    labels = torch.cat([second.argmax(1), first.argmax(1)])
    return replace(parts, temperature=fit_temperature(torch.cat([first, second]), labels))


def _gathered(values: Callable[[BipartiteBatch], torch.Tensor], batches: Iterable[BipartiteBatch]) -> torch.Tensor:
    """Compute and concatenate the values of all batches, shape (n_cells, ...)."""
    return torch.cat([values(batch) for batch in batches])


class Widened(NamedTuple):
    """Reference that reads the genes of the model, followed by the genes of sub-clusters."""

    reference: Reference
    n_own: int
    parts: Sequence[Subclusters]

    @classmethod
    def of(cls, reference: Reference, parts: Sequence[Subclusters]) -> Widened:
        """Extend the reference by the genes of all ``parts``."""
        own = reference.selected
        more = pd.Index(dict.fromkeys(gene for each in parts for gene in each.genes if gene not in own), dtype=object)
        return cls(replace(reference, selected=own.append(more)) if len(more) else reference, len(own), parts)

    def divided(self, batch: BipartiteBatch) -> tuple[BipartiteBatch, list[np.ndarray]]:
        """Return the batch with the genes of the model, and the probabilities of the parts.

        For each sub-divided cluster, the probabilities of its parts have shape (n_cells, n_parts).
        """
        if not self.parts:
            return batch, []
        selected = self.reference.selected
        shares = [
            each.probability(of_genes(batch, selected.get_indexer(pd.Index(each.genes)))).numpy() for each in self.parts
        ]
        return of_genes(batch, np.arange(self.n_own)), shares
