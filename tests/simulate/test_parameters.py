import numpy as np
import pytest

from scgpcl.simulate import SplatParameters, imbalance, splatter


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"n_genes": 0}, "`n_genes` to be whole numbers above 0, found 0"),
        ({"batch_cells": (10, 2.5)}, "`batch_cells` to be whole numbers"),
        ({"batch_cells": ()}, "`batch_cells`"),
        ({"group_prob": (0.5, 0.6)}, "sum to one"),
        ({"group_prob": (1.5, -0.5)}, "sum to one"),
        ({"de_prob": 1.1}, "`de_prob` to be between 0 and 1, found 1.1"),
        ({"de_prob": "all"}, "`de_prob`"),
        ({"out_prob": (0.1,)}, "`out_prob` to be one number"),
        ({"mean_shape": 0.0}, "`mean_shape` to be above 0"),
        ({"lib_scale": np.nan}, "`lib_scale` to be above 0"),
        ({"lib_loc": np.inf}, "`lib_loc` to be finite"),
        ({"bcv_common": -0.1}, "`bcv_common` to be 0 or more"),
        ({"bcv_df": np.inf}, "`bcv_df`"),
        ({"dropout_mid": np.nan}, "`dropout_mid` to be finite, or None"),
        ({"group_prob": (0.5, 0.5), "de_fac_scale": (0.1, 0.2, 0.3)}, "`de_fac_scale` to be one number or 2 of them"),
        ({"batch_cells": (5, 5), "batch_fac_scale": (0.1,)}, "`batch_fac_scale` to be one number or 2 of them"),
    ],
)
def test_values_outside_their_range_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        SplatParameters(**wrong)


def test_one_number_stands_for_all_groups_and_batches():
    parameters = SplatParameters(
        batch_cells=(2, 3), group_prob=(0.2, 0.3, 0.5), de_prob=0.25, de_fac_scale=(1, 2, 3), batch_fac_loc=(4, 5)
    )
    np.testing.assert_array_equal(parameters.per_group("de_prob"), [0.25] * 3)
    np.testing.assert_array_equal(parameters.per_group("de_fac_scale"), [1, 2, 3])
    np.testing.assert_array_equal(parameters.per_batch("batch_fac_loc"), [4, 5])
    assert (parameters.n_cells, parameters.n_groups, parameters.n_batches) == (5, 3, 2)


def test_wrong_arguments_are_refused_before_anything_is_drawn():
    with pytest.raises(ValueError, match="found both: 10 and 20"):
        splatter(10, batch_cells=20)
    with pytest.raises(TypeError, match=r"found \['dropout'\]"):
        splatter(10, dropout=1.0)
    with pytest.raises(ValueError, match="`seed`"):
        splatter(10, seed=-1)
    with pytest.raises(ValueError, match="`retention` to be above 0 and at most 1, found 0"):
        imbalance(0)
    with pytest.raises(ValueError, match="`n_groups` to be 1 or more, found 0"):
        imbalance(n_groups=0)
