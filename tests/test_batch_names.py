"""The names of batches: one rule, whatever became of the type of the column."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from scgpcl._batch_names import ambiguous_names, batch_name, batch_names, combined_names, shared_names

DAY = datetime.date(2024, 1, 2)
#: Values of one batch each, as they are before and after a join, a file, or another library.
SAME = {
    "1": [
        1,
        1.0,
        "1",
        "1.0",
        np.int8(1),
        np.uint64(1),
        np.float32(1),
        np.str_("1"),
        b"1",
        Decimal("1"),
        np.bytes_(b"1"),
    ],
    "-3": [-3, -3.0, "-3", "-3.0", np.float16(-3)],
    "0": [0, 0.0, -0.0, "0", "0.0", np.int64(0)],
    "1.5": [1.5, "1.5", np.float32(1.5), Decimal("1.5")],
    "True": [True, np.True_, "True", b"True"],
    "2024-01-02": [
        DAY,
        datetime.datetime(2024, 1, 2),
        pd.Timestamp("2024-01-02"),
        np.datetime64("2024-01-02"),
        np.datetime64("2024-01-02T00:00:00.000000000"),
        "2024-01-02",
        "2024-01-02 00:00:00",
        "2024-01-02T00:00:00.000000000",
    ],
    "2024-01-02 10:30:00": [
        datetime.datetime(2024, 1, 2, 10, 30),
        pd.Timestamp("2024-01-02 10:30"),
        np.datetime64("2024-01-02T10:30"),
        "2024-01-02 10:30:00",
        "2024-01-02T10:30",
    ],
    "2024-01-01 23:00:00+00:00": [
        pd.Timestamp("2024-01-02 00:00", tz="Europe/Paris"),
        pd.Timestamp("2024-01-01 23:00", tz="UTC"),
        "2024-01-02 00:00:00+01:00",
        "2024-01-01T23:00:00Z",
    ],
    "1 days 00:00:00": [pd.Timedelta(days=1), np.timedelta64(1, "D"), datetime.timedelta(days=1), "1 days 00:00:00"],
    "2024-01": [pd.Period("2024-01"), "2024-01"],
    # what is no number and no date is kept as it is
    "01": ["01", b"01"],
    "v1.0": ["v1.0"],
    "1.00": ["1.00"],
    "1.0.0": ["1.0.0"],
    "2024-13-45": ["2024-13-45"],
    "": [""],
    " 1": [" 1"],
    "inf": [np.inf, "inf"],
    "10x v3/rep1": ["10x v3/rep1"],
}


@pytest.mark.parametrize("name", SAME)
def test_one_name_for_one_batch(name):
    def found(value):
        # pandas makes a time span of the one of the standard library when it holds it
        return batch_name(pd.Timedelta(value) if isinstance(value, datetime.timedelta) else value)

    assert {found(value) for value in SAME[name]} == {name}
    assert batch_name(name) == name  # a name is its own name


COLUMNS = {
    "integers": [1, 2, 10, 2],
    "floats": [1.0, 2.0, 10.0, 2.0],
    "objects": pd.Series([1, 2.0, np.int8(10), 2], dtype=object),
    "nullable": pd.Series([1, 2, 10, 2], dtype="Int8"),
    "nullable floats": pd.Series([1, 2, 10, 2], dtype="Float32"),
    "categories": pd.Categorical([1, 2, 10, 2]),
    "categories of floats": pd.Categorical([1.0, 2.0, 10.0, 2.0]),
    "unused levels": pd.Categorical([1, 2, 10, 2], categories=[0, 1, 2, 3, 10]),
    "unsigned": np.array([1, 2, 10, 2], dtype=np.uint8),
    "big-endian": pd.Series(np.array([1, 2, 10, 2], dtype=">i4").astype("<i4")),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_numbers_keep_the_order_of_numbers(kind):
    names = batch_names(pd.Series(COLUMNS[kind]))
    assert names.tolist() == ["1", "2", "10", "2"]
    assert names.categories.tolist() == ["1", "2", "10"]


def test_order_of_categories_is_kept_and_text_is_sorted():
    assert batch_names(pd.Series(pd.Categorical(["b", "a"], categories=["c", "b", "a"]))).categories.tolist() == [
        "b",
        "a",
    ]
    for dtype in (object, "string", "category"):
        assert batch_names(pd.Series(["b", "a", "10", "2"], dtype=dtype)).categories.tolist() == ["10", "2", "a", "b"]


def test_mixed_types_are_in_the_order_of_their_names_and_true_is_not_one():
    column = pd.Series(["b", 2, True, 1, 1.0, DAY, False], dtype=object)
    names = batch_names(column)
    assert names.tolist() == ["b", "2", "True", "1", "1", "2024-01-02", "False"]
    assert names.categories.tolist() == sorted(names.categories)
    assert shared_names(column) == []


def test_different_values_of_one_name_are_found():
    assert shared_names(pd.Series([1, "1", "b", DAY, "2024-01-02"], dtype=object)) == ["1", "2024-01-02"]
    assert shared_names(pd.Series(["1", "1.0", "1.5"])) == ["1"]
    assert shared_names(pd.Series([1, 1.0, 2], dtype=object)) == []


def test_time_stamps_with_a_zone():
    column = pd.Series(pd.to_datetime(["2024-01-02", "2024-01-03"]).tz_localize("Asia/Tokyo"))
    assert batch_names(column).tolist() == batch_names(column.dt.tz_convert("UTC")).tolist()
    assert batch_names(column.astype(str)).tolist() == batch_names(column).tolist()


def test_combined_names_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "study": pd.Categorical(rng.choice(["z", "a"], 60), categories=["z", "unused", "a"]),
            "donor": rng.integers(1, 4, 60).astype(float),
            "day": rng.choice(["2024-01-02", "2024-01-03"], 60),
        }
    )
    obs = obs[~((obs["study"] == "z") & (obs["donor"] == 2.0))]
    names = combined_names(obs, ["study", "donor", "day"])
    assert list(names) == [f"{study} / {int(donor)} / {day}" for study, donor, day in obs.itertuples(index=False)]
    # the combinations that occur, in the order of the columns' values
    rank = {"z": 0, "a": 1}
    expected = sorted({tuple(name.split(" / ")) for name in names}, key=lambda name: (rank[name[0]], *name[1:]))
    assert [tuple(name.split(" / ")) for name in names.categories] == expected
    assert list(combined_names(obs, ["donor"]).categories) == ["1", "2", "3"]


def test_combinations_of_one_name_are_found():
    obs = pd.DataFrame({"study": ["s", "s / a", "t"], "donor": ["a / b", "b", "b"]})
    assert ambiguous_names(obs, ["study", "donor"]) == ["s / a / b"]
    assert ambiguous_names(obs.iloc[1:], ["study", "donor"]) == []
