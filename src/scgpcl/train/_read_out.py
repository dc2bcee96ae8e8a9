"""Find the clusters of a trained network: their number, the tree, and the calibration of the confidence."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from scgpcl._random import cpu_generator
from scgpcl.cluster import (
    Evidence,
    Grown,
    NClusters,
    also_stable,
    any_apart,
    calibrated,
    estimate_n_clusters,
    fit_branches,
    grow,
    jaccard,
    most_leaves,
    runners_up,
    split_test,
    support_of,
)
from scgpcl.data import halves, thinned
from scgpcl.nn import fit_temperature, matched_temperature
from scgpcl.train._callbacks import encode_all
from scgpcl.train._progress import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from scgpcl.data import BipartiteBatch, BipartiteSplitter
    from scgpcl.module import SCGPCLModule
    from scgpcl.pp import FeatureAxes

logger = logging.getLogger(__name__)

#: Maximum number of cells used for clustering and distillation; larger data sets are sampled.
MAX_CLUSTERED_CELLS = 10_000
#: Number of draws of the molecules that are partitioned in addition to the whole cells, and the share of molecules in
#: each draw.
N_DRAWS = 5
DRAWN_SHARE = 0.7
#: Number of draws of the molecules used to fit the depth correction.
N_DEPTH_DRAWS = 4
#: Random seed for the draws and partitions. It is independent of the model's seed, so runs with different seeds differ
#: only in training.
READ_OUT_SEED = 0


class ReadOut:
    """Find clusters with a trained network.

    This sets the depth correction and the temperature of the network, but not its weights.

    Parameters
    ----------
    module
        The network.
    splitter
        Source of the cells.
    axes
        Axes of the features of the cells.
    visible
        Whether to show progress bars.

    Attributes
    ----------
    known
        Type of each labelled cell, or -1 for the other cells, shape (n_cells,). ``None`` if there are no labels.
    index
        Ascending positions of the cells used for clustering and distillation, including the labelled cells.
    """

    def __init__(
        self,
        module: SCGPCLModule,
        splitter: BipartiteSplitter,
        *,
        axes: FeatureAxes,
        visible: bool,
    ) -> None:
        self.module = module
        self.splitter = splitter
        self._axes = axes
        self._visible = visible
        label_index = splitter.source.label_index
        self.known = None if label_index is None else torch.from_numpy(label_index)
        self._encoded: tuple[list[torch.Tensor], torch.Tensor] | None = None
        self._evidence: Evidence | None = None

    @cached_property
    def index(self) -> np.ndarray:
        index = sampled_positions(len(self.splitter.source), MAX_CLUSTERED_CELLS)
        if self.known is None:
            return index
        labelled = np.flatnonzero(self.known.numpy() >= 0)
        return np.union1d(index, labelled[sampled_positions(len(labelled), MAX_CLUSTERED_CELLS)])

    def encode_all(self) -> torch.Tensor:
        """Return the latent vectors of all cells (n_cells, n_latent), recomputed only if the encoder has changed."""
        weights = [weight.detach().cpu().clone() for weight in self.module.encoder.parameters()]
        if self._encoded is None or not all(map(torch.equal, weights, self._encoded[0])):
            self._encoded = weights, encode_all(self.module, self.splitter)
        return self._encoded[1]

    @torch.no_grad()
    def components(self, splitter: BipartiteSplitter, index: np.ndarray | None = None) -> torch.Tensor:
        """Return the centred components of some or all cells of a splitter, shape (n_some, n_axes)."""
        device = self.module.gene_mean.device
        scores = torch.cat([self._scores(batch) for batch in splitter.batches(index, device=device)])
        return scores - scores.mean(0)

    def fit_depth(self, depth: float) -> None:
        """Fit the depth correction to cells that are thinned to no less than the share ``depth`` of their molecules."""
        encode, index = self.module.encode, self.index
        draws = (
            self._thinned(encode, index, cpu_generator(READ_OUT_SEED, 25, i), depth, 1.0) for i in range(N_DEPTH_DRAWS)
        )
        self.module.depth.fit(draws, self.encode_all()[torch.from_numpy(index)])

    def draws(self) -> Iterator[torch.Tensor]:
        """Yield the latent vectors and components of the clustered cells, and the components of molecule draws.

        Each has shape (n_some, n).
        """
        yield from shown(self._draws(), "Partitions of the cells", total=N_DRAWS + 2, visible=self._visible)

    def _draws(self) -> Iterator[torch.Tensor]:
        index = self.index
        z = self.encode_all()[torch.from_numpy(index)]
        yield self.module.depth(z, torch.from_numpy(self.splitter.source.size_factor[index]).to(z.device))
        yield self.components(self.splitter, index)
        for draw in range(N_DRAWS):
            scores = self._thinned(
                self._scores, index, cpu_generator(READ_OUT_SEED, 24, draw), DRAWN_SHARE, DRAWN_SHARE
            )[0]
            yield scores - scores.mean(0)

    def evidence(self, n_clusters: int, draws: Iterable[torch.Tensor] | None = None) -> Evidence:
        """Return the partitions of the clustered cells, which are computed once, from ``draws`` if given."""
        if self._evidence is None:
            self._evidence = Evidence.of(draws or self.draws(), n_clusters, seed=READ_OUT_SEED)
        return self._evidence

    @torch.no_grad()
    def estimate(self, false_splits: float) -> NClusters:
        """Estimate the number of clusters, which is 1 if no groups of cells are apart and no cells are labelled."""
        evidence = self.evidence(2)
        index = self.index[evidence.linked.numpy()]
        _, kinds = self._halves(index)
        found = estimate_n_clusters(evidence, kinds, false_splits=false_splits, seed=READ_OUT_SEED)
        k = found.n_clusters
        if self.known is None and (k == 1 or not self._any_apart(index, found.splits, false_splits)):
            logger.info("The cells form one group without clear gaps. To divide it anyway: model.cut(%d).", max(k, 2))
            return found._replace(n_clusters=1)
        logger.info(
            "Estimated %d clusters from splits that most partitions make and that hold on held-out molecules.", k
        )
        more = also_stable(runners_up(found.curve, k))
        if more:
            logger.info("%s.", more)
        return found

    def _any_apart(self, index: np.ndarray, splits: list[tuple[np.ndarray, np.ndarray]], false_splits: float) -> bool:
        """Test on held-out molecules whether any groups of some cells are apart along the principal axes."""
        principal = self._axes.principal
        if principal is None:
            return False
        axes = torch.from_numpy(principal).to(self.module.gene_mean.device)
        scores = lambda batch: self.module.features(batch).project(axes)[:, 0]
        generator = cpu_generator(READ_OUT_SEED, 28)
        found = self._vectors(scores, lambda batch: (batch, *halves(batch, generator)), index)
        whole, first, second = ((part - part.mean(0)).cpu().numpy() for part, _ in found)
        return any_apart(whole, (first, second), splits, false_splits=false_splits, seed=READ_OUT_SEED)

    @torch.no_grad()
    def calibrate(self, accuracy: float) -> None:
        """Set the temperature at which one half of a cell's molecules best predicts the cluster of the other half.

        If the accuracy of the names is known and lower than the confidence, the temperature is raised to match the
        accuracy.
        """
        self.module.temperature.fill_(1.0)
        generator = cpu_generator(READ_OUT_SEED, 26)
        q: list[list[torch.Tensor]] = [[], []]
        for batch in self.splitter.batches(self.index):
            for found, half in zip(q, halves(batch, generator), strict=True):
                half = half.to(self.module.gene_mean.device)
                found.append(self.module.assign_all(self.module.encode(half), half.size_factor))
        first, second = (torch.cat(found) for found in q)
        labels = torch.cat([second.argmax(1), first.argmax(1)])
        temperature = fit_temperature(torch.cat([first, second]), labels)
        if not np.isnan(accuracy):
            batches = self.splitter.batches(self.index, device=self.module.gene_mean.device)
            whole = [self.module.assign_all(self.module.encode(batch), batch.size_factor) for batch in batches]
            temperature = max(temperature, matched_temperature(torch.cat(whole), accuracy))
        self.module.temperature.fill_(temperature)

    @torch.no_grad()
    def grow(self) -> Grown:
        """Grow the tree from the evidence of the linked cells, and test each split on halves of their molecules."""
        module, alpha = self.module, self.module.alpha.item()
        evidence = self.evidence(len(cast("torch.Tensor", module.centers)))
        index = self.index[evidence.linked.numpy()]
        z, size_factor = self._vectors(module.encode, lambda batch: (batch,), index)[0]
        rows, q = module.represent(z, size_factor).cpu(), module.assign_all(z, size_factor).cpu()
        labels = q.argmax(1)
        n_clusters = q.shape[1]
        tree, cells = grow(evidence, labels.numpy(), n_clusters, most_leaves(len(index), n_clusters))
        cluster = torch.from_numpy(tree.cluster_of[tree.leaves])
        support = support_of(evidence.labels[:, evidence.linked], [cells[leaf] for leaf in tree.leaves])
        branches = fit_branches(rows, support, labels, cluster, alpha=alpha)
        encoded, kinds = self._halves(index)
        first, second = (module.represent(*half).cpu() for half in encoded)
        branches = calibrated(branches, first, second, labels, alpha=alpha)
        rng = np.random.default_rng(READ_OUT_SEED)
        n_nodes = len(tree.parent)
        separation, p_value = np.full(n_nodes, np.nan), np.full(n_nodes, np.nan)
        for node in tree.splits:
            left, right = (cells[child] for child in tree.children[node])
            separation[node], p_value[node] = split_test(kinds, left, right, rng=rng)
        paths = [
            tree.paths(branches.probability(module.assign_all(*half).cpu(), vectors, alpha).numpy())
            for half, vectors in zip(encoded, (first, second), strict=True)
        ]
        stability = np.array([jaccard(*(tree.below[node, path] for path in paths)) for node in range(n_nodes)])
        tree = tree.with_values(separation=separation, p_value=p_value, stability=stability)
        return Grown(tree, branches, tree.leaves)

    def _halves(self, index: np.ndarray) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[Any]]:
        """Encode both halves of the molecules of cells, and return the vectors on which splits are tested.

        The encoded halves are latent vectors and size factors. The vectors for the tests are depth-corrected latent
        vectors and components of both halves, each of shape (n_some, n).
        """
        generators = [cpu_generator(READ_OUT_SEED, 27) for _ in range(2)]
        encoded = self._vectors(self.module.encode, lambda batch: halves(batch, generators[0]), index)
        scores = self._vectors(self._scores, lambda batch: halves(batch, generators[1]), index)
        corrected = [self.module.depth(*half).cpu().numpy() for half in encoded]
        return encoded, [tuple(corrected), tuple(part.cpu().numpy() for part, _ in scores)]

    def _vectors(
        self,
        vectors: Callable[[BipartiteBatch], torch.Tensor],
        parts: Callable[[BipartiteBatch], tuple[BipartiteBatch, ...]],
        index: np.ndarray,
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the vectors (n_some, n) and size factors of some cells for each part of their molecules."""
        device = self.module.gene_mean.device
        found = [[part.to(device) for part in parts(batch)] for batch in self.splitter.batches(index)]
        return [
            (torch.cat([vectors(part) for part in each]), torch.cat([part.size_factor for part in each]))
            for each in zip(*found, strict=True)
        ]

    def _thinned(
        self,
        vectors: Callable[[BipartiteBatch], torch.Tensor],
        index: np.ndarray,
        generator: torch.Generator,
        low: float,
        high: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vectors (n_some, n) and size factors of cells thinned to log-uniform shares of their molecules."""
        z, size_factor = [], []
        device = self.module.gene_mean.device
        for batch in self.splitter.batches(index):
            share = high * (low / high) ** torch.rand(len(batch.cell_index), generator=generator)
            thin = thinned(batch, share, generator).to(device)
            z.append(vectors(thin))
            size_factor.append(thin.size_factor)
        return torch.cat(z), torch.cat(size_factor)

    @cached_property
    def _start(self) -> torch.Tensor:
        """Feature axes (n_axes, n_genes), independent of the network. A single axis of zeros if there are none."""
        found = self._axes.start
        device = self.module.gene_mean.device
        return (
            torch.zeros(1, self.module.n_genes, device=device) if found is None else torch.from_numpy(found).to(device)
        )

    def _scores(self, batch: BipartiteBatch) -> torch.Tensor:
        """Return the components of a batch along the axes, shape (n_cells, n_axes)."""
        return self.module.features(batch).project(self._start.to(batch.counts.device))[:, 0]


def sampled_positions(n_cells: int, most: int) -> np.ndarray:
    """Return the ascending positions of all cells, or of a sample of ``most`` cells if there are more, as int64."""
    if n_cells <= most:
        return np.arange(n_cells)
    rng = np.random.default_rng(READ_OUT_SEED)
    return np.sort(rng.choice(n_cells, most, replace=False))
