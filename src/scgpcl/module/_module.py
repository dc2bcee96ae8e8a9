"""The network: encoder, decoder, projection head and cluster centres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from scvi.distributions import ZeroInflatedNegativeBinomial
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from scgpcl.nn import (
    BatchLinks,
    BipartiteEncoder,
    Decoder,
    ProjectionHead,
    StandardizedCounts,
    View,
    draw_view,
    shrink_length,
    soft_assign,
    standardized_counts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scgpcl.data import BipartiteBatch
    from scgpcl.nn._decoder import Dispersion, Reconstruction


#: Latent vectors that are assigned to clusters at a time.
ASSIGNED_ROWS = 1 << 16


class SCGPCLModule(BaseModuleClass):
    """Graph encoder, ZINB decoder and Student-t cluster centres.

    Parameters
    ----------
    n_genes
        Number of selected genes.
    n_clusters
        Number of centres; ``None`` until it is known.
    n_hidden
        Width of the hidden layers of encoder and decoder.
    n_latent
        Width of the latent cell vector and of the gene embedding.
    n_layers
        Graph layers.
    dispersion, reconstruction
        See :class:`scgpcl.nn.Decoder`.
    projection
        Contrast on a projection of the latent vector (thrown away after pre-training) instead of on itself.
    use_graph
        See :class:`scgpcl.nn.BipartiteEncoder`.
    tau
        Temperature of both contrastive losses.
    neighbor_keep, feature_drop
        See :func:`scgpcl.nn.draw_view`.
    clip
        Largest standardised feature.
    alpha
        Degrees of freedom of the Student-t assignment.
    n_batch
        Experimental batches to correct for, at least 2; 0 corrects for none.
    """

    gene_mean: Tensor
    gene_std: Tensor
    feature_scale: Tensor
    link_share: Tensor | None
    shrinkage: Tensor
    centers: nn.Parameter | None

    def __init__(
        self,
        n_genes: int,
        n_clusters: int | None = None,
        *,
        n_hidden: int = 256,
        n_latent: int = 64,
        n_layers: int = 2,
        dispersion: Dispersion = "gene",
        reconstruction: Reconstruction = "zinb",
        projection: bool = True,
        use_graph: bool = True,
        tau: float = 0.25,
        neighbor_keep: float = 0.8,
        feature_drop: float = 0.2,
        clip: float = 10.0,
        alpha: float = 1.0,
        n_batch: int = 0,
    ) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.n_latent = n_latent
        self.n_batch = n_batch
        self.tau = tau
        self.neighbor_keep = neighbor_keep
        self.feature_drop = feature_drop
        self.clip = clip
        self.alpha = alpha
        self.encoder = BipartiteEncoder(
            n_genes, n_hidden=n_hidden, n_latent=n_latent, n_layers=n_layers, use_graph=use_graph
        )
        self.decoder = Decoder(
            n_genes,
            n_latent=n_latent,
            n_hidden=n_hidden,
            dispersion=dispersion,
            reconstruction=reconstruction,
            n_batch=n_batch,
        )
        self.projection = ProjectionHead(n_latent) if projection else None
        moments = (n_batch, n_genes) if n_batch else (n_genes,)
        self.register_buffer("gene_mean", torch.zeros(moments))
        self.register_buffer("gene_std", torch.ones(moments))
        self.register_buffer("link_share", torch.zeros(moments) if n_batch else None)
        self.register_buffer("feature_scale", torch.ones(()))
        self.register_buffer("shrinkage", torch.zeros(()))
        self.register_parameter("centers", None)
        if n_clusters is not None:
            self.set_n_clusters(n_clusters)

    @torch.no_grad()
    def set_centers(self, centers: Tensor, *, shrinkage: float | None = None) -> None:
        """Move the cluster centres, shape (n_clusters, n_latent), and set the power that their space goes with."""
        cast("nn.Parameter", self.centers).copy_(centers)
        if shrinkage is not None:
            self.shrinkage.fill_(shrinkage)

    def set_n_clusters(self, n_clusters: int) -> None:
        """Make room for the centres of ``n_clusters`` clusters."""
        self.centers = nn.Parameter(torch.zeros(n_clusters, self.n_latent, device=self.gene_mean.device))

    def on_load(self, model: Any, **kwargs: Any) -> None:
        """Make room for centres whose number was found in training."""
        if model.n_clusters_ is not None:
            self.set_n_clusters(model.n_clusters_)

    def features(self, batch: BipartiteBatch) -> StandardizedCounts:
        """Standardised features of a batch; a gene that was not measured has the training mean, which is zero."""
        return standardized_counts(
            batch.graph,
            batch.counts,
            batch.size_factor,
            self.gene_mean,
            self.gene_std,
            scale=self.feature_scale,
            clip=self.clip,
            links=None if self.link_share is None else BatchLinks(cast("Tensor", batch.batch_index), self.link_share),
            mask=None if batch.measured is None else batch.measured.unsqueeze(1),
        )

    def draw_view(self, generator: torch.Generator) -> View:
        """Two random views for one mini-batch."""
        return draw_view(
            self.n_genes,
            self.n_latent,
            neighbor_keep=self.neighbor_keep,
            feature_drop=self.feature_drop,
            generator=generator,
            device=self.gene_mean.device,
        )

    def project(self, z: Tensor) -> Tensor:
        """Vectors that the contrastive losses compare, shape of ``z``: (n_cells, n_views, n_latent)."""
        return z if self.projection is None else self.projection(z)

    def shorten(self, z: Tensor) -> Tensor:
        """Latent vectors as they are clustered and reported, see :func:`scgpcl.nn.shrink_length`."""
        return shrink_length(z, self.shrinkage)

    def soft_assign(self, z: Tensor) -> Tensor:
        """Assignment probabilities of shortened latent vectors, shape (n_cells, n_clusters)."""
        return soft_assign(z, cast("Tensor", self.centers), alpha=self.alpha)

    @torch.no_grad()
    def assign_all(self, z: Tensor) -> Tensor:
        """Assignment probabilities of any number of latent vectors of whole length, shape (n_cells, n_clusters)."""
        return torch.cat([self.soft_assign(self.shorten(rows)) for rows in z.split(ASSIGNED_ROWS)])

    @auto_move_data
    @torch.no_grad()
    def encode(self, batch: BipartiteBatch) -> Tensor:
        """Exact latent vectors of any cells, of whole length, shape (n_cells, n_latent)."""
        return self.encoder.encode(self.features(batch))

    @torch.no_grad()
    def refresh(self, batches: Callable[[], Iterable[BipartiteBatch]]) -> Tensor:
        """Compute the statistics and gene states of inference from all training cells.

        Parameters
        ----------
        batches
            Gives the batches of all training cells each time it is called.

        Returns
        -------
        Latent vectors of the training cells, of whole length, shape (n_cells, n_latent).
        """
        device = self.gene_mean.device

        def features() -> Iterable[StandardizedCounts]:
            return (self.features(_to(batch, device)) for batch in batches())

        n_cells = self.encoder.fit_states(features)
        z = self.gene_mean.new_empty(n_cells, self.n_latent)
        batch_index = torch.empty(n_cells, dtype=torch.int64, device=device) if self.n_batch else None
        start = 0
        for part in features():
            rows = slice(start, start + part.graph.n_cells)
            z[rows] = self.encoder.encode(part)
            if batch_index is not None:
                batch_index[rows] = cast("BatchLinks", part.links).batch
            start = rows.stop
        self.decoder.fit_statistics(z, batch_index)
        if self.projection is not None:
            self.projection.hidden.fit_statistics(z)
        return z

    def _get_inference_input(self, tensors: BipartiteBatch, **kwargs: Any) -> dict[str, Any]:
        return {"batch": tensors}

    @auto_move_data
    def inference(self, batch: BipartiteBatch, view: View | None = None) -> dict[str, Any]:
        """Encode a batch whose cells are each other's context.

        Returns
        -------
        ``z`` of shape (n_cells, n_views, n_latent), and the ``features`` that it was encoded from.
        """
        features = self.features(batch)
        return {"z": self.encoder(features, view), "features": features}

    def _get_generative_input(
        self, tensors: BipartiteBatch, inference_outputs: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Tensor]:
        values = {"z": inference_outputs["z"][:, 0], "size_factor": tensors.size_factor}
        return values if tensors.batch_index is None else values | {"batch_index": tensors.batch_index}

    @auto_move_data
    def generative(
        self, z: Tensor, size_factor: Tensor, batch_index: Tensor | None = None
    ) -> dict[str, ZeroInflatedNegativeBinomial]:
        """Distribution of the counts of cells given their latent vectors of shape (n_cells, n_latent)."""
        mu, theta, zi_logits = self.decoder(z, size_factor, batch_index)
        return {"px": ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=zi_logits)}

    def reconstruction_loss(
        self,
        batch: BipartiteBatch,
        z: Tensor,
        features: StandardizedCounts | None = None,
        genes: Tensor | None = None,
    ) -> Tensor:
        """Mean reconstruction loss of a batch.

        Parameters
        ----------
        batch
            The cells.
        z
            Their views, shape (n_cells, n_views, n_latent).
        features
            Their features; ``None`` computes them.
        genes
            See :meth:`scgpcl.nn.Decoder.loss`.
        """
        features = self.features(batch) if features is None else features
        return self.decoder.loss(z, features, batch.counts, batch.size_factor, genes)

    def loss(
        self, tensors: BipartiteBatch, inference_outputs: dict[str, Any], generative_outputs: Any, **kwargs: Any
    ) -> LossOutput:
        """Reconstruction loss of a batch; the stages' own losses are composed in their training plans."""
        loss = self.reconstruction_loss(tensors, inference_outputs["z"], inference_outputs.get("features"))
        return LossOutput(loss=loss, n_obs_minibatch=len(tensors.cell_index))

    @torch.no_grad()
    def sample(self, batch: BipartiteBatch, *, n_samples: int = 1) -> Tensor:
        """Draw counts from the denoised distribution, shape (n_samples, n_cells, n_genes)."""
        px = self.generative(self.encode(batch), batch.size_factor, batch.batch_index)["px"]
        return px.sample((n_samples,))


def _to(batch: BipartiteBatch, device: torch.device) -> BipartiteBatch:
    graph = type(batch.graph)(*(t.to(device, non_blocking=True) for t in batch.graph))
    moved = {
        name: value.to(device, non_blocking=True)
        for name, value in batch._asdict().items()
        if isinstance(value, torch.Tensor)
    }
    return batch._replace(graph=graph, **moved)
