"""Zero-aware reconstruction losses, fused with the decoder's output layer.

At a zero count the negative log-likelihood has no gamma functions, and in single-cell data nine entries of ten are
zeros. So every entry is first treated as a zero, and the few non-zero entries are then corrected. The output layer,
the loss and their gradients are computed together, a slice of cells at a time: no array of size cells x genes is ever
kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgpcl.nn._aggregate import Bipartite

#: Entries of one slice of output (rows x output columns) that stay in the processor's cache.
SLICE_ENTRIES = 1 << 19
#: The dispersion is ``softplus(raw) + THETA_MIN``.
THETA_MIN = 1e-4
#: The log of the mean before the size factor stays within these bounds (1e-5 to 1e6, as published).
LOG_MEAN_BOUNDS = (-11.5, 13.8)


def inverse_dispersion(raw: Tensor) -> Tensor:
    """Positive inverse dispersion theta from the decoder's raw output."""
    return functional.softplus(raw) + THETA_MIN


def _zinb_zero(m: Tensor, pi: Tensor, log_theta: Tensor, theta: Tensor, with_grad: bool) -> tuple[Tensor, ...]:
    """NLL summed as if all counts were zero, and its gradients to m, pi and theta (all of the shape of m)."""
    u = m - log_theta
    soft = functional.softplus(u)
    v = -theta * soft - pi  # log of (1 - p) NB(0) over p, up to the common 1 - p
    nll = functional.softplus(-pi).sum() - functional.softplus(v).sum()
    if not with_grad:
        return (nll,)
    keep = torch.sigmoid(v)
    ratio = torch.sigmoid_(u)  # mu / (mu + theta)
    d_pi = keep - torch.sigmoid(-pi)
    d_theta = keep * (soft - ratio)
    return nll, keep.mul_(ratio).mul_(theta), d_pi, d_theta


def _zinb_nonzero(x: Tensor, m: Tensor, pi: Tensor, theta: Tensor, with_grad: bool) -> tuple[Tensor, ...]:
    """NLL at non-zero counts minus the NLL that ``_zinb_zero`` took there, and gradients of the difference."""
    log_theta = theta.log()
    u = m - log_theta
    soft = functional.softplus(u)
    v = -theta * soft - pi
    nll = pi + functional.softplus(v) + theta * soft + x * functional.softplus(-u)
    nll = nll - torch.lgamma(x + theta) + torch.lgamma(theta) + torch.lgamma(x + 1.0)
    if not with_grad:
        return (nll.sum(),)
    keep, ratio = torch.sigmoid(v), torch.sigmoid(u)
    rest = x * torch.sigmoid(-u)
    d_m = theta * ratio * (1.0 - keep) - rest
    d_pi = 1.0 - keep
    d_theta = (1.0 - keep) * (soft - ratio) + rest / theta - torch.digamma(x + theta) + torch.digamma(theta)
    return nll.sum(), d_m, d_pi, d_theta


class _Slice(NamedTuple):
    """A run of cells whose output fits the cache."""

    cells: slice
    edges: slice
    hidden: Tensor  # (cells x views, n_hidden)
    rows: Tensor  # row of ``hidden`` of each edge in each view, (edges, n_views)


def _slices(hidden: Tensor, graph: Bipartite, n_out: int) -> Iterator[_Slice]:
    """Cut a mini-batch into slices of cells; on an accelerator one slice holds all."""
    n_cells, n_views, n_hidden = hidden.shape
    step = max(1, SLICE_ENTRIES // (n_views * n_out)) if hidden.device.type == "cpu" else n_cells
    edge_starts = graph.indptr[::step].tolist() if step < n_cells else [0]
    edge_starts.append(graph.indices.shape[0])
    views = torch.arange(n_views, device=hidden.device)
    rows = graph.rows.unsqueeze(1) * n_views + views
    for i, start in enumerate(range(0, n_cells, step)):
        cells = slice(start, min(start + step, n_cells))
        edges = slice(edge_starts[i], edge_starts[i + 1])
        yield _Slice(cells, edges, hidden[cells].reshape(-1, n_hidden), rows[edges] - start * n_views)


class _FusedZINB(torch.autograd.Function):
    """Output layer, ZINB negative log-likelihood and all gradients, a slice of cells at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        raw_theta: Tensor | None,
        counts: Tensor,
        graph: Bipartite,
        log_size: Tensor,
        with_grad: bool,
    ) -> Tensor:
        n_cells, n_views, _ = hidden.shape
        d_weight, d_bias, d_hidden = torch.zeros_like(weight), torch.zeros_like(bias), torch.empty_like(hidden)
        d_raw = None if raw_theta is None else torch.zeros_like(raw_theta)
        loss = hidden.new_zeros((), dtype=torch.float64)
        genes = graph.indices.long()
        for part in _slices(hidden, graph, weight.shape[0]):
            out = torch.addmm(bias, part.hidden, weight.t())
            at = (part.rows, genes[part.edges].unsqueeze(1).expand_as(part.rows))
            sizes = log_size[part.cells].repeat_interleave(n_views).unsqueeze(1)
            nll, d_out, d_theta = _zinb_slice(out, raw_theta, sizes, counts[part.edges], at, with_grad)
            loss += nll
            if d_out is None:
                continue
            d_hidden[part.cells] = (d_out @ weight).view(-1, n_views, weight.shape[1])
            d_weight.addmm_(d_out.t(), part.hidden)
            d_bias += d_out.sum(0)
            if d_raw is not None and d_theta is not None:
                d_raw += d_theta
        n_entries = n_cells * n_views * graph.n_genes
        ctx.save_for_backward(d_hidden, d_weight, d_bias, d_raw)
        ctx.n_entries = n_entries
        return (loss / n_entries).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad / ctx.n_entries
        grads = tuple(None if saved is None else saved * scale for saved in ctx.saved_tensors)
        return (*grads, None, None, None, None)


def _zinb_slice(
    out: Tensor,
    raw_theta: Tensor | None,
    log_size: Tensor,
    counts: Tensor,
    at: tuple[Tensor, Tensor],
    with_grad: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Loss of one slice; the gradient to the layer's output is written over the output itself."""
    n_genes = out.shape[1] // (2 if raw_theta is not None else 3)
    raw = raw_theta if raw_theta is not None else out[:, 2 * n_genes :]
    theta = inverse_dispersion(raw)
    log_theta = theta.log()
    low, high = LOG_MEAN_BOUNDS
    mean_out, pi = out[:, :n_genes], out[:, n_genes : 2 * n_genes]
    inside = (mean_out >= low) & (mean_out <= high)
    m = mean_out.clamp(low, high).add_(log_size)
    theta_at = theta[at] if raw_theta is None else theta[at[1]]
    x = counts.unsqueeze(1).expand_as(at[0])
    extra = _zinb_nonzero(x, m[at], pi[at], theta_at, with_grad)
    base = _zinb_zero(m, pi, log_theta, theta, with_grad)
    nll = base[0].double() + extra[0].double()
    if not with_grad:
        return nll, None, None
    d_m, d_pi, d_theta = (d.index_put_(at, e, accumulate=True) for d, e in zip(base[1:], extra[1:], strict=True))
    out[:, :n_genes] = d_m.mul_(inside)
    out[:, n_genes : 2 * n_genes] = d_pi
    if raw_theta is not None:
        return nll, out, d_theta.sum(0) * torch.sigmoid(raw_theta)
    out[:, 2 * n_genes :] = d_theta * torch.sigmoid(raw)
    return nll, out, None


def fused_zinb_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    raw_theta: Tensor | None,
    counts: Tensor,
    graph: Bipartite,
    log_size: Tensor,
) -> Tensor:
    r"""Mean ZINB negative log-likelihood of a mini-batch under a linear output layer.

    With mean :math:`\mu = s \exp(m)`, inverse dispersion :math:`\theta` and dropout logits :math:`\pi`, the value of
    each entry is that of :class:`scvi.distributions.ZeroInflatedNegativeBinomial`.

    Parameters
    ----------
    hidden
        Last hidden layer of the decoder, shape (n_cells, n_views, n_hidden).
    weight, bias
        Output layer. Its rows are the log means, the dropout logits and, with ``raw_theta=None``, the raw
        dispersions: shapes (2 or 3 times n_genes, n_hidden) and (2 or 3 times n_genes,).
    raw_theta
        Raw gene-wise dispersion, shape (n_genes,), or ``None`` for one per cell and gene.
    counts
        Non-zero counts in the order of ``graph.indices``, shape (n_edges,).
    graph
        Pattern of the counts.
    log_size
        Log size factors, shape (n_cells,).

    Returns
    -------
    Mean over cells, views and genes, a scalar.
    """
    return _FusedZINB.apply(hidden, weight, bias, raw_theta, counts, graph, log_size, torch.is_grad_enabled())


class _FusedMSE(torch.autograd.Function):
    """Output layer and squared error against ``F = S + 1 o^T``, a slice of cells at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        values: Tensor,
        offset: Tensor,
        graph: Bipartite,
        with_grad: bool,
    ) -> Tensor:
        n_cells, n_views, n_hidden = hidden.shape
        d_weight, d_bias, d_hidden = torch.zeros_like(weight), torch.zeros_like(bias), torch.empty_like(hidden)
        loss = hidden.new_zeros((), dtype=torch.float64)
        genes = graph.indices.long()
        for part in _slices(hidden, graph, weight.shape[0]):
            error = torch.addmm(bias - offset, part.hidden, weight.t())
            at = (part.rows, genes[part.edges].unsqueeze(1).expand_as(part.rows))
            target = values[part.edges].unsqueeze(1).expand_as(part.rows)
            error.index_put_(at, -target, accumulate=True)
            loss += error.square().sum().double()
            if with_grad:
                d_hidden[part.cells] = (error @ weight).view(-1, n_views, n_hidden)
                d_weight.addmm_(error.t(), part.hidden)
                d_bias += error.sum(0)
        n_entries = n_cells * n_views * graph.n_genes
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.scale = 2.0 / n_entries
        return (loss / n_entries).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*(saved * (grad * ctx.scale) for saved in ctx.saved_tensors), None, None, None, None)


def fused_mse_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, values: Tensor, offset: Tensor, graph: Bipartite
) -> Tensor:
    """Mean squared error between a linear output layer and the standardised features.

    Parameters
    ----------
    hidden
        Last hidden layer of the decoder, shape (n_cells, n_views, n_hidden).
    weight, bias
        Output layer, shapes (n_genes, n_hidden) and (n_genes,).
    values, offset, graph
        The features, see :class:`~scgpcl.nn.StandardizedCounts`.

    Returns
    -------
    Mean over cells, views and genes, a scalar.
    """
    return _FusedMSE.apply(hidden, weight, bias, values, offset, graph, torch.is_grad_enabled())
