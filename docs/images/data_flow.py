"""Draw data_flow.svg, the way of the counts through the model: ``python docs/images/data_flow.py``."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, GREEN, ORANGE, GREY = "#dcebf5", "#d9efe6", "#fae8cc", "#eeeeee"
INK = "#222222"


def box(ax: Axes, x: float, y: float, width: float, height: float, title: str, text: str, color: str) -> None:
    """Box with its centre at (x, y)."""
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=.12", fc=color, ec=INK, lw=0.8)
    )
    ax.text(x, y + height / 2 - 0.13, title, ha="center", va="top", fontsize=9, fontweight="bold", color=INK)
    ax.text(x, y + height / 2 - 0.42, text, ha="center", va="top", fontsize=8, color=INK, linespacing=1.35)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], *, label: str = "", bend: float = 0) -> None:
    """Arrow with an optional label to the right of its middle."""
    style = f"arc3,rad={bend}"
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, lw=0.9, color=INK, connectionstyle=style)
    )
    if label:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        ax.text(x + 0.12, y, label, ha="left", va="center", fontsize=8, color=INK)


def graph(ax: Axes, x: float, y: float) -> None:
    """A small graph of cells (left) and genes (right)."""
    cells, genes = [y + d for d in (0.3, 0, -0.3)], [y + d for d in (0.42, 0.14, -0.14, -0.42)]
    for i, j in ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (0, 3)):
        ax.plot([x - 0.35, x + 0.35], [cells[i], genes[j]], color="0.55", lw=0.8, zorder=1)
    ax.scatter([x - 0.35] * 3, cells, s=26, color="#0072B2", zorder=2)
    ax.scatter([x + 0.35] * 4, genes, s=22, marker="s", color="#D55E00", zorder=2)


def draw() -> mpl.figure.Figure:
    """The whole figure."""
    figure, ax = plt.subplots(figsize=(5.6, 7.7))
    ax.set(xlim=(0, 7.2), ylim=(0, 9.9), aspect="equal")
    ax.axis("off")
    box(ax, 3.6, 9.35, 6.6, 0.95, "AnnData", "counts $x$ (cells × genes), in memory or on disk", GREY)
    arrow(ax, (3.6, 8.87), (3.6, 8.5), label="mini-batches of cells")
    box(ax, 3.6, 7.82, 6.6, 1.35, "Bipartite graph of the mini-batch", "", BLUE)
    graph(ax, 1.15, 7.68)
    words = "edges $A$ where a count is above zero,\nfeatures $F$: log counts, scaled, kept sparse;\ntwo views: random genes and columns left out"
    ax.text(1.85, 7.68, words, ha="left", va="center", fontsize=8, color=INK, linespacing=1.35)
    arrow(ax, (3.6, 7.13), (3.6, 6.76))
    box(ax, 3.6, 6.27, 6.6, 0.95, "Encoder", "two GraphSAGE layers, gene embedding $E$ → one vector $z$ per cell", BLUE)
    arrow(ax, (1.9, 5.78), (1.9, 5.32), label="stage 1")
    arrow(ax, (5.3, 5.78), (5.3, 5.32), label="stage 2")
    first = "contrast of two views of a cell\n+ contrast of groups of cells\n+ ZINB reconstruction"
    box(ax, 1.9, 4.62, 3.3, 1.38, "Pre-training", first, ORANGE)
    second = "centres learn to assign cells of\nfew molecules like whole ones;\nlatent vectors stay as they are"
    box(ax, 5.3, 4.62, 3.3, 1.38, "Distillation", second, ORANGE)
    middle = "partitions by $k$-means and Leiden of several draws of the molecules;\nwhat most of them agree on is taken, no labels enter"
    arrow(ax, (1.9, 3.92), (1.9, 3.55))
    box(ax, 3.6, 2.95, 6.6, 1.15, "Consensus of partitions (and their number, if not given)", middle, ORANGE)
    arrow(ax, (5.3, 3.55), (5.3, 3.92))
    arrow(ax, (6.95, 4.2), (6.9, 1.9), bend=-0.12)
    exact = (
        "gene states of all training cells are stored; a cell is then\nencoded on its own: one affine map of its counts"
    )
    box(ax, 3.6, 1.5, 6.6, 1.15, "Exact inference", exact, GREEN)
    arrow(ax, (1.9, 0.92), (1.9, 0.62))
    arrow(ax, (5.3, 0.92), (5.3, 0.62))
    ax.text(
        1.9,
        0.55,
        'obsm["X_scgpcl"], obs["scgpcl_cluster"],\nprobabilities and confidence',
        ha="center",
        va="top",
        fontsize=8,
    )
    ax.text(5.3, 0.55, "labels of new cells,\ndenoised expression", ha="center", va="top", fontsize=8)
    return figure


def main() -> None:
    """Write the file beside this one."""
    with mpl.rc_context({"svg.hashsalt": "scgpcl", "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}):
        figure = draw()
        path = Path(__file__).with_suffix(".svg")
        figure.savefig(path, bbox_inches="tight", pad_inches=0.05, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
