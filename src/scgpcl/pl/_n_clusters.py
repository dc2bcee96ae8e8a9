from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from scgpcl.model import SCGPCL

_COLUMNS = ("K", "stability", "spread", "agreement", "silhouette")


def n_clusters(model: SCGPCL | pd.DataFrame, *, n_clusters: int | None = None, ax: Axes | None = None) -> Axes:
    """Stability of the clusterings against their number of clusters, with the number that was taken.

    Parameters
    ----------
    model
        A model that estimated its number of clusters, or the curve of
        :func:`scgpcl.cluster.estimate_n_clusters`; not changed.
    n_clusters
        Number to mark; `None` is the model's, and none for a curve.
    ax
        Axes to draw on; a new figure by default.

    Returns
    -------
    The axes: stability of the weakest cluster with a band of one spread, agreement and silhouette, and a dashed line at
    the number taken.

    Raises
    ------
    ValueError
        If the model did not estimate its number of clusters, or columns of the curve are missing.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    curve: Any = getattr(model, "n_clusters_curve_", model if hasattr(model, "columns") else None)
    if curve is None:
        msg = (
            "Expected a model that has estimated its number of clusters, found none. Make it with `n_clusters=None` "
            "and train it, or pass the curve of `scgpcl.cluster.estimate_n_clusters`."
        )
        raise ValueError(msg)
    missing = [name for name in _COLUMNS if name not in curve]
    if missing:
        msg = f"Expected a curve with the columns {list(_COLUMNS)}, found one that lacks {missing}."
        raise ValueError(msg)
    number = n_clusters if n_clusters is not None else getattr(model, "n_clusters_", None)
    if ax is None:
        _, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    k, stability, spread = (curve[name].to_numpy(dtype=float) for name in ("K", "stability", "spread"))
    ax.fill_between(k, stability - spread, (stability + spread).clip(max=1.0), color="C0", alpha=0.2, lw=0)
    ax.plot(k, stability, color="C0", marker=".", label="stability (weakest cluster)")
    ax.plot(k, curve["agreement"], color="C1", lw=1, label="agreement (ARI)")
    ax.plot(k, curve["silhouette"], color="C2", lw=1, label="silhouette")
    if number is not None:
        ax.axvline(number, color="0.4", ls="--", lw=1)
        ax.text(number, 1.01, f"{number}", ha="center", va="bottom", transform=ax.get_xaxis_transform(), fontsize=9)
    ax.set(xlabel="number of clusters", ylabel="score")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
