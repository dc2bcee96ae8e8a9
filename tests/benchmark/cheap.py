"""Methods that cost nothing, good and bad ones; each run imports this file in a process of its own."""

import os
import signal
import sys
import time

import numpy as np

from scgpcl.benchmark import Clustering, register


@register("svd")
def svd(adata, n_clusters, *, seed, batch_key):
    """Nearest of K cells drawn at random, in the space of two singular vectors."""
    u, s, _ = np.linalg.svd(np.log1p(adata.X.toarray()), full_matrices=False)
    z = (u * s)[:, :2]
    start = z[np.random.default_rng(seed).choice(len(z), n_clusters or 2, replace=False)]
    return Clustering(((z[:, None] - start) ** 2).sum(2).argmin(1), z)


@register("one")
def one(adata, n_clusters, *, seed, batch_key):
    return ["all"] * adata.n_obs


@register("batches")
def batches(adata, n_clusters, *, seed, batch_key):
    return adata.obs[batch_key]


@register("spy")
def spy(adata, n_clusters, *, seed, batch_key):
    """Fails with what it sees if that is more than counts, names of genes and batches."""
    seen = [
        *adata.uns, *adata.obsm, *adata.varm, *(name for name in adata.layers if name is not None), *adata.obsp, *adata.varp,
        *adata.var, *([] if adata.raw is None else ["raw"]), *(c for c in adata.obs if c != batch_key),
        *(name for name in adata.obs_names if not name.isdigit()),
    ]  # fmt: skip
    if seen:
        msg = f"seen: {seen}"
        raise ValueError(msg)
    adata.X.data[:] = 7
    return np.arange(adata.n_obs) % (n_clusters or 5)


@register("memory")
def memory(adata, n_clusters, *, seed, batch_key):
    """Needs 200 MB for a moment."""
    np.ones(25_000_000).sum()
    return np.zeros(adata.n_obs, dtype=int)


@register("threads")
def threads(adata, n_clusters, *, seed, batch_key):
    """As many clusters as the libraries may use threads; speaks."""
    from threadpoolctl import threadpool_info

    print("a method may print")
    print("and complain", file=sys.stderr)
    return np.arange(adata.n_obs) % max(pool["num_threads"] for pool in threadpool_info())


@register("fails")
def fails(adata, n_clusters, *, seed, batch_key):
    msg = "first line\nsecond | line"
    raise ValueError(msg)


@register("killed")
def killed(adata, n_clusters, *, seed, batch_key):
    os.kill(os.getpid(), signal.SIGKILL)


@register("leaves")
def leaves(adata, n_clusters, *, seed, batch_key):
    os._exit(3)


@register("slow")
def slow(adata, n_clusters, *, seed, batch_key):
    time.sleep(100)


@register("too-short")
def too_short(adata, n_clusters, *, seed, batch_key):
    return np.zeros(3)


@register("gaps")
def gaps(adata, n_clusters, *, seed, batch_key):
    return [None] + [0] * (adata.n_obs - 1)


@register("infinite")
def infinite(adata, n_clusters, *, seed, batch_key):
    return Clustering(np.zeros(adata.n_obs), np.full((adata.n_obs, 2), np.inf))
