"""One run of training: pre-train, place the centres, cluster; its state is complete even if a stage fails."""

from __future__ import annotations

import logging
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch

from scgpcl._random import cpu_generator, derived_seed
from scgpcl.cluster import (
    Evidence,
    Grown,
    also_stable,
    any_apart,
    calibrated,
    estimate_n_clusters,
    fit_branches,
    grow,
    jaccard,
    kmeans,
    most_leaves,
    named_support,
    runners_up,
    split_test,
    support_of,
    targets,
)
from scgpcl.data import halves, thinned
from scgpcl.nn import fit_centers, fit_temperature, matched_temperature, neighborhood, shrink_length
from scgpcl.train._callbacks import (
    PUBLISHED_KMEANS_INIT,
    LabelWatch,
    PrototypeUpdate,
    TargetUpdate,
    encode_all,
    from_first,
)
from scgpcl.train._checkpoint import EpochCheckpoint
from scgpcl.train._fit import fit_stage, shows_progress
from scgpcl.train._plans import DistillationPlan
from scgpcl.train._progress import shown
from scgpcl.train._statistics import reference_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import lightning.pytorch as pl

    from scgpcl.data import BipartiteBatch, BipartiteSplitter
    from scgpcl.module import SCGPCLModule
    from scgpcl.train._checkpoint import RunState
    from scgpcl.train._fit import Devices, History
    from scgpcl.train._plans import ClusterPlan, PretrainPlan, StagePlan

logger = logging.getLogger(__name__)


#: Number of cells that pre-training sees in all epochs together, and the minimum and maximum number of epochs.
PRETRAIN_CELLS, PRETRAIN_EPOCHS = 25_000, (6, 20)
#: Maximum number of cells used for clustering and distillation; larger data sets are sampled.
MAX_CLUSTERED_CELLS = 10_000
#: Draws of the molecules on which partitions must agree, besides the whole cells, and the share of molecules in each.
N_DRAWS = 5
DRAWN_SHARE = 0.7
#: Draws of the molecules to which the correction for depth is fitted.
N_DEPTH_DRAWS = 4
#: Seed of the draws and partitions, independent of the model's seed: runs with different seeds differ only by training.
READ_OUT_SEED = 0
#: Maximum number of cells used to test whether there are any groups.
MAX_TESTED_CELLS = 3000


class Placed(NamedTuple):
    """Number of clusters, the curve behind its estimate, the centres (n_clusters, n_latent), and the data to distil.

    The latter are the cells that were clustered (n_some,), their targets (n_some, n_clusters) and their latent vectors
    (n_some, n_latent). With labels, also the accuracy of the types of cells whose labels were left out, if it is known.
    """

    n_clusters: int
    curve: pd.DataFrame | None
    centers: torch.Tensor
    distilled: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None
    accuracy: float = np.nan


class Run:
    """Stages of one network on one split of the cells.

    Parameters
    ----------
    module
        The network.
    splitter
        Source of the cells.
    where
        Devices and arguments of the trainer.
    seed
        Seed of everything random.
    find_axes
        Computes the principal axes of the features, if there are any; called when they are needed.
    find_principal
        The same for the principal axes, on which the number of clusters is estimated.
    n_clusters, curve
        Number of clusters, ``None`` to estimate it, and the curve that an earlier estimate is based on.
    history
        Metrics of earlier runs.
    trainer
        Trainer of the last earlier stage.
    checkpoint
        File to write the state to after every epoch.
    resumed
        Checkpoint to resume from.
    identity
        Plain values that identify the model in checkpoints.

    Attributes
    ----------
    history, trainer, n_clusters, curve
        As above, updated by every stage, even if it fails.
    begun, fitted
        Whether a stage has begun, so the network may have changed; and whether all stages are completed.
    grown
        State of the tree over all numbers of clusters, see :class:`scgpcl.cluster.Grown`, once the clusters are found.
    """

    def __init__(
        self,
        module: SCGPCLModule,
        splitter: BipartiteSplitter,
        where: Devices,
        *,
        seed: int,
        find_axes: Callable[[], np.ndarray | None],
        find_principal: Callable[[], np.ndarray | None],
        n_clusters: int | None,
        curve: pd.DataFrame | None = None,
        history: History | None = None,
        trainer: pl.Trainer | None = None,
        checkpoint: Path | None = None,
        resumed: RunState | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.module = module
        self.splitter = splitter
        self.where = where
        self.seed = seed
        self._find_axes = find_axes
        self._find_principal = find_principal
        self.n_clusters, self.curve = n_clusters, curve
        self.history: History = dict(history or {})
        self.trainer = trainer
        self.begun = self.fitted = False
        self.grown: dict[str, Any] | None = None
        self._checkpoint = checkpoint
        self._resumed = resumed
        self._identity = identity or {}
        label_index = splitter.source.label_index
        #: Type of each labelled cell, -1 for the others, (n_cells,), and the number of types; without labels ``None`` and 0.
        self.known = None if label_index is None else torch.from_numpy(label_index)
        self.n_types = 0 if self.known is None else int(self.known.max()) + 1
        self._encoded: tuple[list[torch.Tensor], torch.Tensor] | None = None
        self._evidence: Evidence | None = None

    def pretrain(
        self,
        plan: PretrainPlan,
        *,
        max_epochs: int | None,
        max_cells: int | None,
        agreement: float | None,
        patience: int,
    ) -> None:
        """Contrastive pre-training on at most ``max_cells`` cells, unless the run resumes after it.

        Without ``max_epochs``, the number of epochs depends on the number of cells.
        """
        if max_epochs == 0 or (self._resumed is not None and self._resumed.stage > plan.stage):
            return
        splitter = self.splitter
        if max_cells is not None and len(splitter.source) > max_cells:
            splitter = splitter.sampled(max_cells, seed=derived_seed(self.seed, 27))
            logger.info("Pre-training on %d of %d cells.", len(splitter.source), len(self.splitter.source))
        if max_epochs is None:
            max_epochs = int(np.clip(round(PRETRAIN_CELLS / len(splitter.source)), *PRETRAIN_EPOCHS))
        if plan.n_neighbors > 0:
            components = self._components(splitter)
            plan.neighborhood = neighborhood(components, plan.n_neighbors, seed=derived_seed(self.seed, 23))
        label_index = splitter.source.label_index
        plan.known = None if label_index is None else torch.from_numpy(label_index)
        seed, k = derived_seed(self.seed, 20), min(plan.n_clusters, len(splitter.source))
        update = PrototypeUpdate(splitter, n_clusters=k, agreement=agreement, patience=patience, seed=seed)
        self.fit(plan, [update], max_epochs, splitter)

    def place_centers(self, plan: ClusterPlan | DistillationPlan) -> None:
        """Find the number of clusters and place their centres, the largest first, unless the run resumes after this."""
        self.begun = True
        resumed = self._resumed_at(plan)
        if resumed is not None:
            curve = resumed.model["curve"]
            self._take_clusters(resumed.model["n_clusters"], None if curve is None else pd.DataFrame(curve))
            return
        placed = from_first(self.trainer, self.module, lambda: self._place(plan))
        self._take_clusters(placed.n_clusters, placed.curve)
        self.module.set_centers(placed.centers)
        if isinstance(plan, DistillationPlan) and placed.distilled is not None:
            plan.cells, plan.target, plan.latent = placed.distilled
            plan.accuracy = torch.tensor(placed.accuracy)

    def cluster(self, plan: ClusterPlan | DistillationPlan, *, max_epochs: int, label_tol: float) -> None:
        """Cluster from the placed centres, or resume, and order the clusters by size."""
        if max_epochs > 0 and isinstance(plan, DistillationPlan):
            self.fit(plan, [LabelWatch(tol=label_tol)], max_epochs, self.splitter.restricted(self._clustered()))
        elif max_epochs > 0:
            self.fit(plan, [TargetUpdate(self.splitter, tol=label_tol)], max_epochs)
        if max_epochs > 0 or self._resumed_at(plan) is not None:
            sort = lambda: self._sort_centers(self._encode_all())
            self.module.set_centers(from_first(self.trainer, self.module, sort))
        if isinstance(plan, DistillationPlan):
            from_first(self.trainer, self.module, lambda: self._calibrate(float(plan.accuracy)))
        self.module.eval()
        self.fitted = True
        self.grown = from_first(self.trainer, self.module, lambda: self._grow().state())

    @torch.no_grad()
    def _grow(self) -> Grown:
        """Grow the tree from the evidence of the linked cells, and test each split on halves of their molecules."""
        module, alpha = self.module, self.module.alpha.item()
        evidence = self._gather(len(cast("torch.Tensor", module.centers)))
        index = self._clustered()[evidence.linked.numpy()]
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
        """Latent vectors and size factors of both halves of the molecules of cells, and the vectors to test splits on.

        The latter are, for both halves, depth-corrected latent vectors and components, (n_some, n).
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
        """Vectors (n_some, n) and size factors of each part of the molecules of some cells."""
        device = self.module.gene_mean.device
        found = [[part.to(device) for part in parts(batch)] for batch in self.splitter.batches(index)]
        return [
            (torch.cat([vectors(part) for part in each]), torch.cat([part.size_factor for part in each]))
            for each in zip(*found, strict=True)
        ]

    @torch.no_grad()
    def _calibrate(self, accuracy: float) -> None:
        """Set the temperature at which one half of a cell's molecules predicts the cluster found from the other half.

        If the accuracy of the names is known and lower than the confidence, the temperature is raised to match it.
        """
        self.module.temperature.fill_(1.0)
        generator = cpu_generator(READ_OUT_SEED, 26)
        q: list[list[torch.Tensor]] = [[], []]
        for batch in self.splitter.batches(self._clustered()):
            for found, half in zip(q, halves(batch, generator), strict=True):
                half = half.to(self.module.gene_mean.device)
                found.append(self.module.assign_all(self.module.encode(half), half.size_factor))
        first, second = (torch.cat(found) for found in q)
        labels = torch.cat([second.argmax(1), first.argmax(1)])
        temperature = fit_temperature(torch.cat([first, second]), labels)
        if not np.isnan(accuracy):
            batches = self.splitter.batches(self._clustered(), device=self.module.gene_mean.device)
            whole = [self.module.assign_all(self.module.encode(batch), batch.size_factor) for batch in batches]
            temperature = max(temperature, matched_temperature(torch.cat(whole), accuracy))
        self.module.temperature.fill_(temperature)

    def fit(
        self, plan: StagePlan, callbacks: list[pl.Callback], max_epochs: int, splitter: BipartiteSplitter | None = None
    ) -> None:
        """Fit a stage from its start or from one of its checkpoints, and write checkpoints if requested."""
        self.begun = True
        first: dict[str, Any] = {}
        resumed = self._resumed_at(plan)
        if resumed is not None:
            self.history = resumed.history
            if resumed.stopped or resumed.epochs >= max_epochs:
                self.module.load_state_dict(resumed.weights)
                self.module.eval()
                return
            first = {"resume_from": resumed.path, "first_epoch": resumed.epochs}
        if self._checkpoint is not None:
            curve = None if self.curve is None else {name: self.curve[name].tolist() for name in self.curve}
            values = {**self._identity, "n_clusters": self.n_clusters, "curve": curve}
            callbacks = [*callbacks, EpochCheckpoint(self._checkpoint, history=self.history, model=values)]
        self.trainer = fit_stage(
            plan,
            splitter or self.splitter,
            callbacks,
            max_epochs=max_epochs,
            where=self.where,
            history=self.history,
            **first,
        )

    def _resumed_at(self, plan: StagePlan) -> RunState | None:
        return self._resumed if self._resumed is not None and self._resumed.stage == plan.stage else None

    def _take_clusters(self, n_clusters: int, curve: pd.DataFrame | None) -> None:
        self.n_clusters, self.curve = n_clusters, curve
        if self.module.centers is None or len(self.module.centers) != n_clusters:
            self.module.set_n_clusters(n_clusters)

    def _encode_all(self) -> torch.Tensor:
        """Latent vectors of all cells, (n_cells, n_latent), recomputed only if the encoder has changed."""
        weights = [weight.detach().cpu().clone() for weight in self.module.encoder.parameters()]
        if self._encoded is None or not all(map(torch.equal, weights, self._encoded[0])):
            self._encoded = weights, encode_all(self.module, self.splitter)
        return self._encoded[1]

    @torch.no_grad()
    def _place(self, plan: ClusterPlan | DistillationPlan) -> Placed:
        """Encode all cells, estimate the number of clusters if it is not known, and place the centres."""
        z = self._encode_all()
        size_factor = torch.from_numpy(self.splitter.source.size_factor).to(z.device)
        index = self._clustered()
        cells = torch.from_numpy(index).to(z.device)
        if isinstance(plan, DistillationPlan):
            self._fit_depth(z[cells], index, plan.depth)
        else:
            self.module.depth.weight.zero_()
        given, curve = self.n_clusters, self.curve
        k = given
        if k is None:
            k, curve = self._estimate()
        self.module.shrinkage.fill_(plan.shrinkage)
        self.module.alpha.fill_(plan.alpha)
        self.module.temperature.fill_(1.0)
        if not isinstance(plan, DistillationPlan):
            self._take_clusters(k, curve)
            seed = derived_seed(self.seed, 21)
            self.module.set_centers(
                kmeans(shrink_length(z, plan.shrinkage), k, n_init=PUBLISHED_KMEANS_INIT, seed=seed).centers
            )
            return Placed(k, curve, self._sort_centers(z), None)
        if self.known is None:
            target, accuracy = targets(self._gather(k).support(k).to(z.device)), np.nan
        else:
            kept = list(self._draws(k))
            n_new = None if given is None else given - self.n_types
            evidence = Evidence.of(kept, k, seed=READ_OUT_SEED, only=True)
            named = named_support(evidence, kept[:2], self.known[index], self.n_types, k, n_new=n_new)
            target, k, accuracy = named.support.to(z.device), self.n_types + named.n_new, named.accuracy
            self._evidence = Evidence.of(kept, k, seed=READ_OUT_SEED)
            logger.info("Found %d groups of cells in addition to the %d labelled types.", named.n_new, self.n_types)
        self._take_clusters(k, curve)
        rows = self.module.represent(z[cells], size_factor[cells])
        means = target.t() @ rows / target.sum(0).unsqueeze(1)
        return Placed(k, curve, fit_centers(rows, target, means, alpha=plan.alpha), (cells, target, rows), accuracy)

    def statistics(self) -> dict[str, np.ndarray] | None:
        """Statistics of the training cells once the run has ended; ``None`` in all processes but the first."""
        if self.trainer is not None and not self.trainer.is_global_zero:
            return None
        return reference_statistics(self.module, self.splitter, self._clustered())

    def _clustered(self) -> np.ndarray:
        """Ascending positions of the cells used for clustering and distillation, including labelled cells."""
        index = clustered_cells(len(self.splitter.source), MAX_CLUSTERED_CELLS)
        if self.known is None:
            return index
        labelled = np.flatnonzero(self.known.numpy() >= 0)
        return np.union1d(index, labelled[clustered_cells(len(labelled), MAX_CLUSTERED_CELLS)])

    def _gather(self, n_clusters: int) -> Evidence:
        """Partitions of the clustered cells, computed once."""
        if self._evidence is None:
            self._evidence = Evidence.of(self._draws(n_clusters), n_clusters, seed=READ_OUT_SEED)
        return self._evidence

    def _draws(self, n_clusters: int) -> Iterator[torch.Tensor]:
        """Vectors of the clustered cells to partition, each (n_some, n), with a progress bar."""
        visible = shows_progress(self.where.trainer_kwargs)
        yield from shown(
            self._vectors_of_draws(), f"Consensus of {n_clusters} clusters", total=N_DRAWS + 2, visible=visible
        )

    def _vectors_of_draws(self) -> Iterator[torch.Tensor]:
        """Trained latent vectors of the clustered cells, their components, and those of draws of their molecules."""
        index = self._clustered()
        z = self._encode_all()[torch.from_numpy(index)]
        yield self.module.depth(z, torch.from_numpy(self.splitter.source.size_factor[index]).to(z.device))
        yield self._components(self.splitter, index)
        for draw in range(N_DRAWS):
            scores = self._thinned(
                self._scores, index, cpu_generator(READ_OUT_SEED, 24, draw), DRAWN_SHARE, DRAWN_SHARE
            )[0]
            yield scores - scores.mean(0)

    @cached_property
    def _axes(self) -> torch.Tensor:
        """Principal axes of the features, independent of the network, (n_axes, n_genes); one of zeros if none."""
        found = self._find_axes()
        device = self.module.gene_mean.device
        return (
            torch.zeros(1, self.module.n_genes, device=device) if found is None else torch.from_numpy(found).to(device)
        )

    def _scores(self, batch: BipartiteBatch) -> torch.Tensor:
        """Components of a batch along the axes, (n_cells, n_axes)."""
        return self.module.features(batch).project(self._axes.to(batch.counts.device))[:, 0]

    @torch.no_grad()
    def _components(self, splitter: BipartiteSplitter, index: np.ndarray | None = None) -> torch.Tensor:
        """Centred components of some cells of a splitter, or of all, (n_some, n_axes)."""
        device = self.module.gene_mean.device
        scores = torch.cat([self._scores(batch) for batch in splitter.batches(index, device=device)])
        return scores - scores.mean(0)

    def _estimate(self) -> tuple[int, pd.DataFrame]:
        """Number of clusters from the principal components, 1 if no groups of cells are apart, and the curve."""
        found = self._find_principal()
        device = self.module.gene_mean.device
        axes = torch.zeros(1, self.module.n_genes) if found is None else torch.from_numpy(found)
        scores = lambda batch: self.module.features(batch).project(axes.to(device))[:, 0]
        whole = centred(self._vectors(scores, lambda batch: (batch,), np.arange(len(self.splitter.source)))[0][0])
        with warnings.catch_warnings(record=True) as caught:  # about no number being stable, which one group explains
            warnings.simplefilter("always")
            k, curve = estimate_n_clusters(whole, seed=derived_seed(self.seed, 22))
        if self.known is None and not self._any_apart(whole, scores, k):
            logger.info("The cells form one group without clear gaps. To divide it anyway: model.cut(%d).", k)
            return 1, curve
        for warning in caught:
            warnings.warn(warning.message, warning.category, stacklevel=2)
        logger.info("Estimated %d clusters from the principal components.", k)
        more = also_stable(runners_up(curve, k))
        if more:
            logger.info("%s.", more)
        return k, curve

    def _any_apart(
        self, whole: torch.Tensor, scores: Callable[[BipartiteBatch], torch.Tensor], n_clusters: int
    ) -> bool:
        """Whether any groups of cells are apart on held-out molecules, given the scores (n_cells, n) of whole cells."""
        index = clustered_cells(len(whole), MAX_TESTED_CELLS)
        generator = cpu_generator(READ_OUT_SEED, 28)
        parts = self._vectors(scores, lambda batch: halves(batch, generator), index)
        first, second = (centred(part).numpy() for part, _ in parts)
        return any_apart(whole[index].numpy(), (first, second), n_clusters, seed=READ_OUT_SEED)

    def _fit_depth(self, whole: torch.Tensor, index: np.ndarray, depth: float) -> None:
        """Fit the correction for depth to thinned cells, down to the share ``depth`` of their molecules."""
        encode = self.module.encode
        draws = (
            self._thinned(encode, index, cpu_generator(READ_OUT_SEED, 25, i), depth, 1.0) for i in range(N_DEPTH_DRAWS)
        )
        self.module.depth.fit(draws, whole)

    def _thinned(
        self,
        vectors: Callable[[BipartiteBatch], torch.Tensor],
        index: np.ndarray,
        generator: torch.Generator,
        low: float,
        high: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (n_some, n) and size factors of cells thinned to log-uniform shares of their molecules."""
        z, size_factor = [], []
        device = self.module.gene_mean.device
        for batch in self.splitter.batches(index):
            share = high * (low / high) ** torch.rand(len(batch.cell_index), generator=generator)
            thin = thinned(batch, share, generator).to(device)
            z.append(vectors(thin))
            size_factor.append(thin.size_factor)
        return torch.cat(z), torch.cat(size_factor)

    @torch.no_grad()
    def _sort_centers(self, z: torch.Tensor) -> torch.Tensor:
        """Sort the centres by number of cells, the largest first; those of labelled types keep their positions."""
        q = self.module.assign_all(z, torch.from_numpy(self.splitter.source.size_factor))
        sizes = torch.bincount(q.argmax(1), minlength=q.shape[1])
        sizes[: self.n_types] = len(z) + 1
        centers = cast("torch.Tensor", self.module.centers)
        self.module.set_centers(centers[sizes.argsort(descending=True, stable=True)])
        return centers.detach()


def centred(rows: torch.Tensor) -> torch.Tensor:
    """Rows (n_rows, n) minus their mean, on the CPU."""
    return (rows - rows.mean(0)).cpu()


def clustered_cells(n_cells: int, most: int) -> np.ndarray:
    """Ascending positions of the cells used for clustering and distillation, or fewer, shape (at most ``most``,)."""
    if n_cells <= most:
        return np.arange(n_cells)
    rng = np.random.default_rng(READ_OUT_SEED)
    return np.sort(rng.choice(n_cells, most, replace=False))
