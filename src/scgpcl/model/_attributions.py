"""Exact contribution of every gene to the assignment of a cell to one cluster rather than another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scgpcl.data import BipartiteBatch
    from scgpcl.module import SCGPCLModule


def gene_parts(module: SCGPCLModule, batch: BipartiteBatch, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Compute the contribution of each gene to the dot product of the latent vectors with a direction.

    The direction has shape (n_latent,), and all computations are in double precision.

    The encoded vector :math:`z` of a cell is an affine function of its features and of the share of each gene in its
    messages. For a given size factor :math:`s`, the depth correction is also affine, and the length of the vector is
    reduced by a single factor :math:`r`. With :math:`t = \min(\log s, 0)`, this gives

    .. math:: v \cdot r (z + t (A_1^\top z + b_1) + t^2 (A_2^\top z + b_2)) = r (u \cdot z + t\, v \cdot b_1 + t^2\, v \cdot b_2),
              \quad u = v + t A_1 v + t^2 A_2 v.

    Returns
    -------
    Contributions of expression and of messages, each of shape (n_cells, n_genes), and the remainder, shape (n_cells,).
    """
    encoder = module.encoder
    features = module.features(batch)
    graph, n_genes = features.graph, module.n_genes
    rows, columns = graph.rows, graph.indices.long()
    own = torch.zeros(graph.n_cells, n_genes, dtype=torch.float64, device=direction.device)
    own[rows, columns] = features.values.double()
    own += (features.offset if features.links is None else features.offset[features.links.batch]).double()
    if features.mask is not None:
        own *= features.mask[:, 0].double()
    z = module.encode(batch)
    size_factor = batch.size_factor.to(z.device)
    deep, represented = module.depth(z, size_factor).double(), module.represent(z, size_factor).double()
    t = size_factor.double().log().clamp(max=0.0).unsqueeze(1)
    first, first_shift, second, second_shift = module.depth.weight.double().split([len(direction), 1] * 2)
    u = direction + t * (first @ direction) + t**2 * (second @ direction)
    length = (represented * deep).sum(1, keepdim=True) / deep.square().sum(1, keepdim=True).clamp(min=1e-300)
    u = length * u
    rest = u @ encoder.state_shift.double()
    rest = rest + (length * (t * (first_shift @ direction) + t**2 * (second_shift @ direction)))[:, 0]
    expression = own * (u @ encoder.state_weight.double().t())
    if not encoder.use_graph:
        return expression, torch.zeros_like(expression), rest
    share = torch.zeros_like(own)
    degree = graph.indptr.diff().double().clamp(min=1.0)
    share[rows, columns] = 1.0 / degree[rows]
    if features.links is not None:
        typical = features.links.share.double()
        if features.mask is not None:
            typical = typical * features.mask[:, 0].double()
            typical = typical / typical.sum(1, keepdim=True).clamp(min=1e-300)
        share -= typical[features.links.batch]
    return expression, share * (u @ encoder.state_message.double().t()), rest
