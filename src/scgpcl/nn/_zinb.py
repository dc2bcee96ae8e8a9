"""Zero-aware ZINB likelihood, fused with the output layer of the decoder.

At a zero count, the negative log-likelihood contains no gamma functions, and in single-cell data nine out of ten
entries are zeros. Every entry is therefore first treated as a zero, and the few non-zero entries are then corrected.
The output layer, the loss and their gradients are computed together, one slice of cells at a time, so that no array of
size cells x genes is ever kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from scgpcl.nn._graph import in_single_precision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgpcl.nn._graph import Bipartite

#: The dispersion is ``softplus(raw) + THETA_MIN``.
THETA_MIN = 1e-4
#: Bounds for the log of the mean before the size factor is applied (1e-5 to 1e6, as published).
LOG_MEAN_BOUNDS = (-11.5, 13.8)
#: Number of output entries (rows x output columns) per slice, such that a slice stays in the processor's cache.
SLICE_ENTRIES = 1 << 20


def inverse_dispersion(raw: Tensor) -> Tensor:
    """Compute the positive inverse dispersion theta from the raw output of the decoder."""
    return functional.softplus(raw) + THETA_MIN


class OutputSlice(NamedTuple):
    """Consecutive cells whose output fits in the cache."""

    cells: slice
    edges: slice
    hidden: Tensor  # (cells x views, n_hidden)
    out: Tensor  # of the output layer, (cells x views, n_out); overwritten by the next slice
    at: Tensor  # position of each edge in each view in the flattened ``out``, (edges x views,)


def slice_size(hidden: Tensor, n_out: int) -> int:
    """Return the number of cells per slice. On an accelerator, all cells form one slice."""
    n_cells, n_views, _ = hidden.shape
    if hidden.device.type != "cpu":
        return n_cells
    return min(n_cells, max(1, SLICE_ENTRIES // (n_views * n_out)))


def output_slices(hidden: Tensor, weight: Tensor, bias: Tensor, graph: Bipartite) -> Iterator[OutputSlice]:
    """Apply the output layer to one slice of cells at a time."""
    n_cells, n_views, n_hidden = hidden.shape
    n_out = weight.shape[0]
    step = slice_size(hidden, n_out)
    edge_starts = graph.indptr[::step].tolist() if step < n_cells else [0]
    edge_starts.append(graph.indices.shape[0])
    views = torch.arange(n_views, device=hidden.device)
    at = (graph.rows.unsqueeze(1) * n_views + views) * n_out + graph.indices.unsqueeze(1)
    buffer = hidden.new_empty(step * n_views, n_out)
    for i, start in enumerate(range(0, n_cells, step)):
        cells = slice(start, min(start + step, n_cells))
        edges = slice(edge_starts[i], edge_starts[i + 1])
        rows = hidden[cells].reshape(-1, n_hidden)
        out = torch.addmm(bias, rows, weight.t(), out=buffer[: rows.shape[0]])
        yield OutputSlice(cells, edges, rows, out, (at[edges] - start * n_views * n_out).flatten())


class OutputGradients(NamedTuple):
    """Gradients with respect to the arguments of the output layer, accumulated slice by slice."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor

    def add(self, part: OutputSlice, weight: Tensor) -> None:
        """Add the gradients of a slice whose output has been overwritten by its own gradient."""
        torch.mm(part.out, weight, out=self.hidden[part.cells].view(-1, weight.shape[1]))
        self.weight.addmm_(part.out.t(), part.hidden)
        self.bias.add_(part.out.sum(0))


class _Entries(NamedTuple):
    """Parameters of all entries of a slice, or of only the non-zero entries."""

    mean: Tensor  # log of the mean before the size factor
    pi: Tensor
    theta: Tensor
    log_size: Tensor


def _softplus(x: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.softplus.out(x, out=out)


def _zero_nll(entries: _Entries, work: Tensor, with_grad: bool) -> tuple[Tensor, Tensor | None]:
    """Compute the summed NLL as if all counts were zero.

    Parameters
    ----------
    entries
        Parameters of the entries. Mean and pi are overwritten, with their gradients if gradients are requested.
    work
        Scratch buffer for three arrays with the shape of the entries.
    with_grad
        Whether to compute gradients.

    Returns
    -------
    The sum, and the gradient with respect to theta for each entry.
    """
    u, soft, v = work
    mean, pi, theta, log_size = entries
    torch.sub(mean, theta.log(), out=u).add_(log_size)
    _softplus(u, soft)
    minus_pi = pi.neg_()
    torch.addcmul(minus_pi, theta, soft, value=-1.0, out=v)  # log of (1 - p) NB(0) over p, up to the common 1 - p
    nll = _softplus(minus_pi, mean).sum() - _softplus(v, mean).sum()
    if not with_grad:
        return nll, None
    keep, ratio = v.sigmoid_(), u.sigmoid_()  # ratio: mu / (mu + theta)
    torch.sub(keep, minus_pi.sigmoid_(), out=pi)
    d_theta = soft.sub_(ratio).mul_(keep)
    torch.mul(keep.mul_(ratio), theta, out=mean)
    return nll, d_theta


def _nonzero_nll(x: Tensor, entries: _Entries, with_grad: bool) -> tuple[Tensor, ...]:
    """Compute the NLL at non-zero counts minus the value of ``_zero_nll`` there, without the gamma functions.

    Returns
    -------
    The sum and, if requested, the gradients with respect to mean, pi and theta for each entry.
    """
    mean, pi, theta, log_size = entries
    u = mean - theta.log() + log_size
    soft = functional.softplus(u)
    v = -theta * soft - pi
    nll = (pi + functional.softplus(v) + theta * soft + x * functional.softplus(-u)).sum()
    if not with_grad:
        return (nll,)
    lost, ratio = torch.sigmoid(-v), torch.sigmoid(u)
    rest = x * torch.sigmoid(-u)
    return nll, theta * ratio * lost - rest, lost, lost * (soft - ratio) + rest / theta


def _gamma_nll(x: Tensor, theta: Tensor, with_grad: bool, genes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Sum the gamma functions of theta in the NLL at non-zero counts.

    Also returns the gradient with respect to each theta. If ``genes``, the gene of each count, is given, theta is
    gene-wise.
    """

    def at(values: Tensor) -> Tensor:
        return values if genes is None else values[genes]

    total = x + at(theta)
    nll = (at(torch.lgamma(theta)) - torch.lgamma(total)).sum()
    return nll, at(torch.digamma(theta)) - torch.digamma(total) if with_grad else None


def _inside(mean: Tensor) -> Tensor | None:
    """Return where the log mean is within its bounds, or ``None`` if it is within them everywhere."""
    low, high = LOG_MEAN_BOUNDS
    if mean.device.type == "cpu":  # an accelerator would have to wait for the answer
        if mean.amin() >= low and mean.amax() <= high:
            return None
    return (mean >= low) & (mean <= high)


class _Edges(NamedTuple):
    """Non-zero entries in the order of ``graph.indices``."""

    counts: Tensor
    genes: Tensor
    log_size: Tensor

    def of(self, part: OutputSlice) -> _Edges:
        """Return the entries of a slice in every view."""
        n_views = part.hidden.shape[0] // (part.cells.stop - part.cells.start)
        return _Edges(*(values[part.edges].repeat_interleave(n_views) for values in self))


def _zinb_slice(
    part: OutputSlice, theta: Tensor | None, log_size: Tensor, edges: _Edges, work: Tensor, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute the loss of one slice and its gradient with respect to a gene-wise theta.

    The gamma functions of a gene-wise theta are not included. The gradient with respect to the output of the layer
    overwrites the output itself.
    """
    n_genes = work.shape[-1]
    flat = part.out.view(-1)
    mean, pi = part.out[:, :n_genes], part.out[:, n_genes : 2 * n_genes]
    inside = _inside(mean) if with_grad else None
    mean.clamp_(*LOG_MEAN_BOUNDS)
    mean_at, pi_at = (flat.index_select(0, part.at + head * n_genes) for head in range(2))
    if theta is not None:
        every, theta_at = theta, theta[edges.genes]
    else:
        raw = part.out[:, 2 * n_genes :]
        every = inverse_dispersion(raw)
        theta_at = inverse_dispersion(flat.index_select(0, part.at + 2 * n_genes))
    nll_at, *d_at = _nonzero_nll(edges.counts, _Entries(mean_at, pi_at, theta_at, edges.log_size), with_grad)
    nll, d_theta = _zero_nll(_Entries(mean, pi, every, log_size), work, with_grad)
    nll = nll.double() + nll_at.double()
    if theta is None:
        gamma, d_gamma = _gamma_nll(edges.counts, theta_at, with_grad)
        nll += gamma.double()
        if d_gamma is not None:
            d_at[2] += d_gamma
    if d_theta is None:
        return nll, None
    if theta is not None:
        d_theta = d_theta.sum(0).index_add_(0, edges.genes, d_at.pop())
    else:
        slope = torch.sigmoid(raw)
        raw.copy_(d_theta)
    for head, d in enumerate(d_at):
        flat.index_add_(0, part.at + head * n_genes, d)
    if inside is not None:
        mean.mul_(inside)
    if theta is None:
        raw.mul_(slope)
        return nll, None
    return nll, d_theta


class _FusedZINB(torch.autograd.Function):
    """Output layer, ZINB negative log-likelihood and all gradients, computed one slice of cells at a time."""

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
        n_genes = len(bias) // (3 if raw_theta is None else 2)
        edges = _Edges(counts, graph.indices.long(), log_size[graph.rows])
        loss = n_views * torch.lgamma(counts + 1.0).sum().double()
        theta, d_raw = None, None
        if raw_theta is not None:
            theta, d_raw = inverse_dispersion(raw_theta), torch.zeros_like(raw_theta)
            gamma, d_gamma = _gamma_nll(counts, theta, with_grad, edges.genes)
            loss += n_views * gamma.double()
            if d_gamma is not None:
                d_raw.index_add_(0, edges.genes, d_gamma, alpha=n_views)
        grads = OutputGradients(torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias))
        work = hidden.new_empty(3, slice_size(hidden, weight.shape[0]) * n_views, n_genes)
        for part in output_slices(hidden, weight, bias, graph):
            sizes = log_size[part.cells].repeat_interleave(n_views).unsqueeze(1)
            nll, d_theta = _zinb_slice(part, theta, sizes, edges.of(part), work[:, : len(sizes)], with_grad)
            loss += nll
            if with_grad:
                grads.add(part, weight)
            if d_raw is not None and d_theta is not None:
                d_raw += d_theta
        if raw_theta is not None and d_raw is not None:
            d_raw *= torch.sigmoid(raw_theta)
        ctx.n_entries = n_cells * n_views * n_genes
        ctx.save_for_backward(*grads, d_raw)
        return (loss / ctx.n_entries).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad / ctx.n_entries
        grads = tuple(None if saved is None else saved * scale for saved in ctx.saved_tensors)
        return (*grads, None, None, None, None)


@in_single_precision
def fused_zinb_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    raw_theta: Tensor | None,
    counts: Tensor,
    graph: Bipartite,
    log_size: Tensor,
) -> Tensor:
    r"""Compute the mean ZINB negative log-likelihood of a mini-batch for a linear output layer.

    With mean :math:`\mu = s \exp(m)`, inverse dispersion :math:`\theta` and dropout logits :math:`\pi`, each entry has
    the same value as in :class:`scvi.distributions.ZeroInflatedNegativeBinomial`.

    Parameters
    ----------
    hidden
        Last hidden layer of the decoder, shape (n_cells, n_views, n_hidden).
    weight, bias
        Output layer. Its rows are the log means, the dropout logits and, if ``raw_theta=None``, the raw dispersions.
        The shapes are (2 or 3 times n_genes, n_hidden) and (2 or 3 times n_genes,).
    raw_theta
        Raw gene-wise dispersion, shape (n_genes,), or ``None`` for one dispersion per cell and gene.
    counts
        Non-zero counts in the order of ``graph.indices``, shape (n_edges,).
    graph
        Sparsity pattern of the counts.
    log_size
        Log size factors, shape (n_cells,).

    Returns
    -------
    Mean loss over cells, views and genes, a scalar.
    """
    return _FusedZINB.apply(hidden, weight, bias, raw_theta, counts, graph, log_size, torch.is_grad_enabled())
