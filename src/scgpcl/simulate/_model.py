"""Generative model in numpyro.

jax and numpyro are imported inside the functions, because importing this package must not start jax in a training
process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scgpcl.simulate._parameters import SplatParameters


class Latents(NamedTuple):
    """Gene and cell variables that determine the distribution of the counts, as arrays.

    ``profiles`` are fractions of expected counts, shape (n_batches, n_groups, n_genes). ``bcv_noise`` (n_genes,) is the
    deviation of each gene from the trend of the squared coefficient of variation. ``batch``, ``group`` and ``lib_size``
    have shape (n_cells,).
    """

    profiles: Any
    bcv_noise: Any
    batch: Any
    group: Any
    lib_size: Any


def require_numpyro() -> None:
    """Check that jax and numpyro are installed."""
    try:
        import numpyro  # noqa: F401 (needs jax)
    except ImportError as error:
        error.add_note("Simulation needs jax and numpyro. Install them: pip install 'scgpcl[simulate]'.")
        raise


def splat_model(parameters: SplatParameters) -> Any:
    r"""Splatter's model of counts, implemented as a numpyro model.

    For genes g and cells i in batch b and group k, with factors as described in :class:`SplatParameters`:

    - gene means: :math:`m_g \sim \mathrm{Gamma}(\mathrm{shape}, \mathrm{rate})`, or for outliers the median of all means times a
      log-normal factor;
    - expected counts: :math:`\lambda_{ig} = l_i \, m_g\, \beta_{bg}\, \delta_{kg} / \sum_h m_h\, \beta_{bh}\, \delta_{kh}`
      with library size :math:`l_i \sim \mathrm{LogNormal}`, batch factors :math:`\beta` and group factors :math:`\delta`;
    - coefficient of variation: :math:`B_{ig}^2 = (\phi + \lambda_{ig}^{-1/2})^2\, d / c_g`,
      :math:`c_g \sim \chi^2_d`;
    - cell means: :math:`\mu_{ig} \sim \mathrm{Gamma}(1 / B_{ig}^2, 1 / (\lambda_{ig} B_{ig}^2))`;
    - true counts: :math:`y_{ig} \sim \mathrm{Poisson}(\mu_{ig})`;
    - dropout: a count is lost with probability :math:`1 / (1 + \exp(-s(\log \mu_{ig} - x_0)))`.

    Sites have one value per cell and gene, so the model is meant for small data sets. Use it to inspect its
    assumptions, to condition on some variables, or to check :func:`splatter`, which samples the same distribution in
    blocks of cells.

    Parameters
    ----------
    parameters
        Parameters of the model.

    Returns
    -------
    Counts, shape (n_cells, n_genes), which are also available as the site ``counts``.

    References
    ----------
    Zappia, Phipson and Oshlack (2017). Splatter: simulation of single-cell RNA sequencing data. Genome Biology 18, 174.

    Examples
    --------
    >>> import jax, numpyro
    >>> parameters = scgpcl.simulate.SplatParameters(n_genes=50, batch_cells=(20,), group_prob=(0.5, 0.5))
    >>> predictive = numpyro.infer.Predictive(scgpcl.simulate.splat_model, num_samples=1)
    >>> predictive(jax.random.key(0), parameters)["counts"].shape
    (1, 20, 50)
    """
    require_numpyro()
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    latents = latent_model(parameters)
    base = latents.lib_size[:, None] * latents.profiles[latents.batch, latents.group]
    shape, scale = gamma_shape_scale(base, latents.bcv_noise, parameters.bcv_common, xp=jnp)
    with numpyro.plate("cells", parameters.n_cells, dim=-2), numpyro.plate("genes", parameters.n_genes, dim=-1):
        mean = numpyro.sample("cell_mean", dist.Gamma(shape, 1 / scale))
        true = numpyro.sample("true_counts", dist.Poisson(mean))
        if parameters.dropout_mid is None:
            return numpyro.deterministic("counts", true)
        logit = dropout_logit(mean, parameters, xp=jnp)
        kept = numpyro.sample("kept", dist.Bernoulli(logits=-logit))
        return numpyro.deterministic("counts", true * kept)


def latent_model(parameters: SplatParameters) -> Latents:
    """Sample the part of the model that does not have one value per cell and gene."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    p = parameters
    with numpyro.plate("genes", p.n_genes, dim=-1):
        base = numpyro.sample("base_mean", dist.Gamma(p.mean_shape, p.mean_rate))
        outlier = _factors("outlier", p.out_prob, 0.0, p.out_fac_loc, p.out_fac_scale)
        mean = numpyro.deterministic("mean", jnp.where(outlier == 1, base, jnp.median(base) * outlier))
        chi2 = numpyro.sample("bcv_chi2", dist.Chi2(p.bcv_df))
        with numpyro.plate("groups", p.n_groups, dim=-2):
            de = _factors(
                "de", *(p.per_group(f"de_{n}")[:, None] for n in ("prob", "down_prob", "fac_loc", "fac_scale"))
            )
        batch_factor = jnp.ones((1, p.n_genes))
        if p.n_batches > 1:
            with numpyro.plate("batches", p.n_batches, dim=-2):
                loc, scale = (p.per_batch(f"batch_{n}")[:, None] for n in ("fac_loc", "fac_scale"))
                batch_factor = _factors("batch", 1.0, 0.5, loc, scale)
    profiles = mean * batch_factor[:, None] * de
    profiles = profiles / profiles.sum(-1, keepdims=True)
    prob = np.asarray(p.group_prob, dtype=np.float32)
    with numpyro.plate("cells", p.n_cells, dim=-2):
        group = numpyro.sample("group", dist.Categorical(prob / prob.sum()).expand([1]))[:, 0]
        lib_size = numpyro.sample("lib_size", dist.LogNormal(p.lib_loc, p.lib_scale).expand([1]))[:, 0]
    batch = jnp.repeat(jnp.arange(p.n_batches), jnp.asarray(p.batch_cells), total_repeat_length=p.n_cells)
    return Latents(profiles, p.bcv_df / chi2, batch, group, lib_size)


def _factors(name: str, prob: Any, down_prob: Any, loc: Any, scale: Any) -> Any:
    """Sample a site of factors.

    Each factor is one or, with probability ``prob``, log-normal. Log-normal factors are above one or, with probability
    ``down_prob``, below one.
    """
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    selected = numpyro.sample(f"{name}_selected", dist.Bernoulli(prob))
    down = numpyro.sample(f"{name}_down", dist.Bernoulli(down_prob))
    log_size = jnp.abs(numpyro.sample(f"{name}_log_size", dist.Normal(loc, scale)))
    return numpyro.deterministic(f"{name}_factor", jnp.where(selected == 1, jnp.exp((1 - 2 * down) * log_size), 1.0))


def gamma_shape_scale(base: Any, bcv_noise: Any, bcv_common: float, *, xp: Any) -> tuple[Any, Any]:
    r"""Return the shape and scale of the gamma distribution of cell means.

    These are Splatter's shape :math:`1 / B^2` and scale :math:`\lambda B^2` for expected counts :math:`\lambda` of
    shape (n_cells, n_genes). There is no division by :math:`\lambda`, so that genes may have a mean of zero. ``xp`` is
    numpy or ``jax.numpy``.
    """
    scale = (bcv_common * xp.sqrt(base) + 1) ** 2 * bcv_noise
    return base / scale, scale


def dropout_logit(mean: Any, parameters: SplatParameters, *, xp: Any) -> Any:
    """Return the logit of the dropout probability for positive cell means of any shape.

    ``xp`` is numpy or ``jax.numpy``.
    """
    return parameters.dropout_shape * (xp.log(mean) - parameters.dropout_mid)
