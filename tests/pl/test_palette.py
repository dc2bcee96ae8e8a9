"""Default colours under simulated colour vision, against those of scanpy."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from scanpy.plotting import palettes

from scgpcl.pl._style import DISTINCT

#: Severity 1.0 of table 1 in Machado, Oliveira and Fernandes (2009), on linear sRGB.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colors, kind):
    """CIE 1976 coordinates (D65) of sRGB colours as somebody sees them, shape (n, 3)."""
    rgb = np.array([to_rgb(color) for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.asarray(VISION[kind]).T, 0, 1)
    relative = seen @ TO_XYZ.T / (TO_XYZ @ np.ones(3))
    f = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def smallest_distance(colors, kind):
    x = lab(colors, kind)
    distance = np.linalg.norm(x[:, None] - x[None], axis=-1)
    return distance[np.triu_indices(len(x), 1)].min()


def test_coordinates_are_right():
    np.testing.assert_allclose(lab(["white", "red"], "normal"), [[100, 0, 0], [53.24, 80.09, 67.2]], atol=0.02)


@pytest.mark.parametrize("n", [6, 9, 12, 16, 20, 28])
def test_groups_are_told_apart_with_any_colour_vision(n):
    theirs = palettes.default_20 if n <= 20 else palettes.default_28
    worst = min(smallest_distance(DISTINCT[:n], kind) for kind in VISION)
    assert worst > min(smallest_distance(theirs[:n], kind) for kind in VISION)
    assert worst > (15 if n <= 20 else 12)  # about 2 can just be seen side by side


def test_no_colour_is_lost_on_white_or_taken_for_a_cell_without_a_value():
    for ground in ("white", "lightgrey"):
        assert min(smallest_distance([ground, color], "normal") for color in DISTINCT) > 20
