import pandas as pd
import pytest

from scgpcl import pl
from scgpcl.pl._style import DISTINCT


@pytest.fixture
def table():
    found = pd.DataFrame({"contribution": [3.0, 2.0, -1.0]}, index=["CD3D", "LYZ", "MS4A1"])
    found.attrs = {"cluster": "T", "neighbor": "B"}
    return found


def test_one_bar_per_gene_the_largest_at_the_top(table):
    ax = pl.gene_attributions(table, ["CD3D", "GNLY"], n_genes=2)
    assert [bar.get_width() for bar in ax.patches] == [2.0, 3.0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["LYZ", "CD3D"]
    assert [bar.get_facecolor()[:3] for bar in ax.patches] == [pytest.approx(rgb) for rgb in map(_rgb, DISTINCT[:2])]
    assert ax.get_title() == "cluster T: 1 of 2 are markers"
    assert "to B" in ax.get_xlabel()


def _rgb(color):
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_other_tables_are_refused(table):
    with pytest.raises(TypeError, match=r"table of `model.get_gene_attributions"):
        pl.gene_attributions(table.rename(columns={"contribution": "score"}))
    with pytest.raises(ValueError, match="n_genes"):
        pl.gene_attributions(table, n_genes=0)
