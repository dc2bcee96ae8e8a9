"""Graph layers, likelihood and losses: functions and modules on tensors only."""

from scgpcl.nn._aggregate import Bipartite, neighbor_mean, spmm
from scgpcl.nn._assignment import clustering_loss, soft_assign, target_distribution
from scgpcl.nn._contrast import Neighborhood, instance_loss, prototype_loss
from scgpcl.nn._conv import BipartiteSAGEConv
from scgpcl.nn._decoder import Decoder, HiddenLayer, ProjectionHead, ZINBParameters
from scgpcl.nn._encoder import BipartiteEncoder
from scgpcl.nn._features import BatchLinks, StandardizedCounts, standardized_counts
from scgpcl.nn._mse import fused_mse_loss
from scgpcl.nn._norm import NodeBatchNorm, shrink_length
from scgpcl.nn._views import View, draw_view
from scgpcl.nn._zinb import fused_zinb_loss, inverse_dispersion

__all__ = [
    "BatchLinks",
    "Bipartite",
    "BipartiteEncoder",
    "BipartiteSAGEConv",
    "Decoder",
    "HiddenLayer",
    "Neighborhood",
    "NodeBatchNorm",
    "ProjectionHead",
    "StandardizedCounts",
    "View",
    "ZINBParameters",
    "clustering_loss",
    "draw_view",
    "fused_mse_loss",
    "fused_zinb_loss",
    "instance_loss",
    "inverse_dispersion",
    "neighbor_mean",
    "prototype_loss",
    "shrink_length",
    "soft_assign",
    "spmm",
    "standardized_counts",
    "target_distribution",
]
