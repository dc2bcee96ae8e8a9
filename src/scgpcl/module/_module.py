"""Neural network with an encoder, a decoder, a projection head and cluster centres."""

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
    DepthCorrection,
    Moments,
    ProjectionHead,
    StandardizedCounts,
    View,
    shrink_length,
    soft_assign,
    standardized_counts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scgpcl.data import BipartiteBatch
    from scgpcl.nn import Dispersion


#: Number of latent vectors assigned to clusters at a time.
ASSIGNED_ROWS = 1 << 13


class SCGPCLModule(BaseModuleClass):
    """Neural network with a graph encoder, a ZINB decoder, a projection head and Student-t cluster centres.

    Parameters
    ----------
    n_genes
        Number of selected genes.
    n_clusters
        Number of cluster centres; ``None`` until it is known.
    n_hidden
        Width of the hidden layers in the encoder and decoder.
    n_latent
        Dimensionality of the latent space and of the gene embedding.
    dispersion
        One of ``"gene"`` (one inverse dispersion per gene) or ``"gene-cell"`` (one inverse dispersion per cell and
        gene).
    use_graph
        Whether genes send messages; ``False`` is intended for ablations.
    n_batch
        Number of experimental batches to correct for, at least 2; 0 means no correction.
    """

    gene_mean: Tensor
    gene_std: Tensor
    feature_scale: Tensor
    link_share: Tensor | None
    shrinkage: Tensor
    alpha: Tensor
    temperature: Tensor
    centers: nn.Parameter | None

    def __init__(
        self,
        n_genes: int,
        n_clusters: int | None = None,
        *,
        n_hidden: int,
        n_latent: int,
        dispersion: Dispersion,
        use_graph: bool,
        n_batch: int,
    ) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.n_latent = n_latent
        self.n_batch = n_batch
        self.encoder = BipartiteEncoder(n_genes, n_hidden=n_hidden, n_latent=n_latent, use_graph=use_graph)
        self.decoder = Decoder(n_genes, n_latent=n_latent, n_hidden=n_hidden, dispersion=dispersion, n_batch=n_batch)
        self.projection = ProjectionHead(n_latent)
        self.depth = DepthCorrection(n_latent)
        moments = (n_batch, n_genes) if n_batch else (n_genes,)
        self.register_buffer("gene_mean", torch.zeros(moments))
        self.register_buffer("gene_std", torch.ones(moments))
        self.register_buffer("link_share", torch.zeros(moments) if n_batch else None)
        self.register_buffer("feature_scale", torch.ones(()))
        self.register_buffer("shrinkage", torch.zeros(()))
        self.register_buffer("alpha", torch.ones(()))
        self.register_buffer("temperature", torch.ones(()))
        self.register_parameter("centers", None)
        if n_clusters is not None:
            self.set_n_clusters(n_clusters)

    @property
    def moments(self) -> Moments:
        """Moments used to standardise the features, on the CPU."""
        return Moments(self.gene_mean.cpu().numpy(), self.gene_std.cpu().numpy(), self.feature_scale.item())

    def set_moments(self, moments: Moments, link_share: Any = None) -> None:
        """Set the moments of the features.

        If there are batches, ``link_share`` sets the gene proportions per batch that are used to centre the messages,
        shape (n_batch, n_genes).
        """
        self.feature_scale.fill_(moments.scale)
        self.gene_mean.copy_(torch.from_numpy(moments.mean))
        self.gene_std.copy_(torch.from_numpy(moments.std))
        if self.link_share is not None and link_share is not None:
            self.link_share.copy_(torch.from_numpy(link_share))

    @torch.no_grad()
    def set_centers(self, centers: Tensor) -> None:
        """Set the cluster centres, shape (n_clusters, n_latent)."""
        cast("nn.Parameter", self.centers).copy_(centers)

    def set_n_clusters(self, n_clusters: int) -> None:
        """Allocate the centres for ``n_clusters`` clusters."""
        self.centers = nn.Parameter(torch.zeros(n_clusters, self.n_latent, device=self.gene_mean.device))

    def on_load(self, model: Any, **kwargs: Any) -> None:
        """Allocate the cluster centres if their number was estimated in training."""
        if model.n_clusters_ is not None:
            self.set_n_clusters(model.n_clusters_)

    def features(self, batch: BipartiteBatch) -> StandardizedCounts:
        """Compute the standardised features of a batch.

        Genes that were not measured are set to the training mean, which is zero.
        """
        return standardized_counts(
            batch.graph,
            batch.counts,
            batch.size_factor,
            self.gene_mean,
            self.gene_std,
            scale=self.feature_scale,
            links=None if self.link_share is None else BatchLinks(cast("Tensor", batch.batch_index), self.link_share),
            mask=None if batch.measured is None else batch.measured.unsqueeze(1),
        )

    def represent(self, z: Tensor, size_factor: Tensor) -> Tensor:
        """Convert encoded latent vectors to the vectors used for clustering and returned to the user.

        The vectors are corrected for depth, given the size factors (n_cells,), and their length is reduced.
        """
        # in double precision, so that the result for a cell does not depend on which other cells are shortened with it
        return shrink_length(self.depth(z, size_factor).double(), self.shrinkage).to(z)

    def soft_assign(self, z: Tensor) -> Tensor:
        """Compute the assignment probabilities of latent vectors from ``represent``, shape (n_cells, n_clusters)."""
        centers = cast("Tensor", self.centers)
        return soft_assign(z, centers, alpha=self.alpha, temperature=self.temperature)

    @torch.no_grad()
    def assign_all(self, z: Tensor, size_factor: Tensor) -> Tensor:
        """Compute the assignment probabilities of any number of latent vectors from ``encode``.

        The result has shape (n_cells, n_clusters).
        """
        parts = zip(z.split(ASSIGNED_ROWS), size_factor.to(z.device).split(ASSIGNED_ROWS), strict=True)
        return torch.cat([self.soft_assign(self.represent(*part)) for part in parts])

    @torch.no_grad()
    def probabilities(self, z: Tensor) -> Tensor:
        """Compute the assignment probabilities of any number of latent vectors from ``represent``.

        The result is on the CPU and has shape (n_cells, n_clusters).
        """
        centers = cast("Tensor", self.centers).double()
        values = {"alpha": self.alpha, "temperature": self.temperature}
        # in double precision, so that the result for a cell does not depend on which other cells are assigned with it
        parts = [soft_assign(rows.to(centers), centers, **values).float().cpu() for rows in z.split(ASSIGNED_ROWS)]
        return torch.cat(parts)

    @auto_move_data
    @torch.no_grad()
    def encode(self, batch: BipartiteBatch) -> Tensor:
        """Compute the exact latent vectors of any cells at full length, shape (n_cells, n_latent)."""
        return self.encoder.encode(self.features(batch))

    @torch.no_grad()
    def refresh(self, batches: Callable[[], Iterable[BipartiteBatch]]) -> Tensor:
        """Compute the statistics and gene states for inference from all training cells.

        Parameters
        ----------
        batches
            Function that returns the batches of all training cells, on the device of the network.

        Returns
        -------
        Latent vectors of the training cells, at full length, shape (n_cells, n_latent).
        """
        features = lambda: (self.features(batch) for batch in batches())
        n_cells = self.encoder.fit_states(features)
        z = self.gene_mean.new_empty(n_cells, self.n_latent)
        batch_index = torch.empty(n_cells, dtype=torch.int64, device=z.device) if self.n_batch else None
        start = 0
        for part in features():
            rows = slice(start, start + part.graph.n_cells)
            z[rows] = self.encoder.encode(part)
            if batch_index is not None:
                batch_index[rows] = cast("BatchLinks", part.links).batch
            start = rows.stop
        self.decoder.fit_statistics(z, batch_index)
        self.projection.hidden.fit_statistics(z)
        return z

    def _get_inference_input(self, tensors: BipartiteBatch, **kwargs: Any) -> dict[str, Any]:
        return {"batch": tensors}

    @auto_move_data
    def inference(self, batch: BipartiteBatch, view: View | None = None) -> dict[str, Any]:
        """Encode a batch whose cells provide context for each other.

        Returns ``z`` of shape (n_cells, n_views, n_latent).
        """
        return {"z": self.encoder(self.features(batch), view)}

    def _get_generative_input(
        self, tensors: BipartiteBatch, inference_outputs: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Tensor]:
        values = {"z": inference_outputs["z"][:, 0], "size_factor": tensors.size_factor}
        return values if tensors.batch_index is None else values | {"batch_index": tensors.batch_index}

    @auto_move_data
    def generative(
        self, z: Tensor, size_factor: Tensor, batch_index: Tensor | None = None
    ) -> dict[str, ZeroInflatedNegativeBinomial]:
        """Return the count distribution of cells, given their latent vectors of shape (n_cells, n_latent)."""
        mu, theta, zi_logits = self.decoder(z, size_factor, batch_index)
        return {"px": ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=zi_logits)}

    def reconstruction_loss(self, batch: BipartiteBatch, z: Tensor, genes: Tensor | None = None) -> Tensor:
        """Compute the mean negative log-likelihood of a batch; see ``Decoder.loss``.

        ``z`` has shape (n_cells, n_views, n_latent).
        """
        return self.decoder.loss(z, batch.graph, batch.counts, batch.size_factor, batch.batch_index, genes)

    def loss(
        self, tensors: BipartiteBatch, inference_outputs: dict[str, Any], generative_outputs: Any, **kwargs: Any
    ) -> LossOutput:
        """Compute the reconstruction loss of a batch.

        The training plan of each stage composes its own loss.
        """
        loss = self.reconstruction_loss(tensors, inference_outputs["z"])
        return LossOutput(loss=loss, n_obs_minibatch=len(tensors.cell_index))

    @torch.no_grad()
    def sample(self, batch: BipartiteBatch, *, n_samples: int = 1) -> Tensor:
        """Draw counts from the denoised distribution, shape (n_samples, n_cells, n_genes)."""
        px = self.generative(self.encode(batch), batch.size_factor, batch.batch_index)["px"]
        return px.sample((n_samples,))
