"""Graph layers, likelihood and losses, as functions and modules that only use tensors."""

from scgpcl.nn._assignment import (
    DepthCorrection,
    clustering_loss,
    fit_centers,
    fit_temperature,
    matched_temperature,
    shrink_length,
    soft_assign,
    target_distribution,
)
from scgpcl.nn._contrast import Neighborhood, View, draw_view, instance_loss, neighborhood, prototype_loss
from scgpcl.nn._decoder import Decoder, Dispersion, HiddenLayer, ProjectionHead, ZINBParameters
from scgpcl.nn._encoder import BipartiteEncoder, BipartiteSAGEConv, NodeBatchNorm
from scgpcl.nn._graph import (
    CLIP,
    BatchLinks,
    Bipartite,
    Moments,
    StandardizedCounts,
    neighbor_mean,
    spmm,
    standardized_counts,
)
from scgpcl.nn._zinb import fused_zinb_loss, inverse_dispersion

__all__ = ["BipartiteSAGEConv"]
