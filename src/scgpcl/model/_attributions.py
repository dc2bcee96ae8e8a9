"""Why a cell is in one cluster and not in another: the exact contribution of every gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scgpcl.data import BipartiteBatch
    from scgpcl.module import SCGPCLModule


def gene_parts(module: SCGPCLModule, batch: BipartiteBatch, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Contributions of genes to the product of the cells' vectors with a direction (n_latent,), in double precision.

    A cell's encoded vector is affine in its features and in its shares of the genes' messages. The correction for depth is
    affine given the size factor, and the length is reduced by one factor, so that with :math:`t = \min(\log s, 0)`

    .. math:: v \cdot r (z + t (A_1^\top z + b_1) + t^2 (A_2^\top z + b_2)) = r (u \cdot z + t\, v \cdot b_1 + t^2\, v \cdot b_2),
              \quad u = v + t A_1 v + t^2 A_2 v.

    Returns
    -------
    Contributions by expression and by messages, each of shape (n_cells, n_genes), and the rest (n_cells,).
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
    z = module.encode(batch).double()
    t = batch.size_factor.to(z).log().clamp(max=0.0).unsqueeze(1)
    first, first_shift, second, second_shift = module.depth.weight.double().split([len(direction), 1] * 2)
    u = direction + t * (first @ direction) + t**2 * (second @ direction)
    represented = module.represent(module.encode(batch), batch.size_factor.to(z.device)).double()
    deep = module.depth(module.encode(batch), batch.size_factor.to(z.device)).double()
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
        share -= features.links.share.double()[features.links.batch]
    return expression, share * (u @ encoder.state_message.double().t()), rest
