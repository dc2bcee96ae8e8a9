"""`scgpcl benchmark`: what it writes and what it refuses."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scgpcl import benchmark
from scgpcl.benchmark import _plots, _scores, _tables

CHEAP = Path(__file__).with_name("cheap.py")
FILES = ["bars.png", "box.png", "results.csv", "settings.json", "summary.md", "time.png"]


def test_command_and_function_give_the_same(command, finished, data, tmp_path):
    out = tmp_path / "out"
    words = ("--methods", "pca-kmeans,svd,fails", "--seeds", 2, "--threads", 1, "--out", out)
    result = command(data, *words, "--register", CHEAP)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "runs"])
    ours, theirs = (pd.read_csv(folder / "results.csv") for folder in (out, finished[0]))
    cost = ["train_seconds", "peak_memory_mb"]
    pd.testing.assert_frame_equal(ours.drop(columns=cost), theirs.drop(columns=cost))
    assert (out / "settings.json").read_bytes() == (finished[0] / "settings.json").read_bytes()

    for row in ours[ours["error"].isna()].itertuples():
        assert f"{row.dataset} / {row.method} / seed {row.seed}: ARI {row.ari:.3f}" in result.stderr
    assert "two / fails / seed 1: ValueError: first line" in result.stderr
    assert f"{ours[ours['method'] == 'svd']['ari'].mean():.3f}" in result.stdout
    for name in FILES:
        assert str(out / name) in result.stdout


def test_files_sets_and_other_options(command, data, tmp_path):
    out = tmp_path / "out"
    words = ("--methods", "spy, batches", "--labels", "also", "--batch-key", "batch", "--n-clusters", "auto")
    result = command(data / "two.h5ad", data, *words, "--datasets", "two", "--seeds", 1, "--timeout", 60, "--out", out)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out / "results.csv")
    assert table["dataset"].tolist() == ["two", "two"]
    assert table["error"].isna().all()
    assert table["n_types"].tolist() == [2, 2]


# what it refuses


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--methods", "best"), "found 'best'"),
        (("--methods", ","), "at least one method"),
        (("--seeds", "0"), "at least one seed"),
        (("--seeds", "-2"), "found -2"),
        (("--datasets", "two,four"), "found four"),
        (("--n-clusters", "many"), "'known' or 'auto'"),
        (("--threads", "0"), "at least one thread"),
        (("--timeout", "0"), "timeout above 0"),
        (("--labels", "batch", "--batch-key", "batch"), "another column"),
        (("--register", "no.py"), "no.py"),
    ],
)
def test_wrong_arguments_are_one_line(command, data, tmp_path, words, expected):
    result = command(data, "--out", tmp_path / "out", *words)
    assert_refused(result, expected)
    assert not list(tmp_path.iterdir())


def assert_refused(result, expected):
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: Expected")
    assert expected in lines[0]
    assert result.stdout == ""


def test_wrong_paths_are_one_line(command, data, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "two.h5ad").write_bytes((data / "two.h5ad").read_bytes())
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name\n")
    assert_refused(command(tmp_path / "no", "--out", out), "Check the path")
    assert_refused(command(tmp_path / "empty", "--out", out), "at least one file")
    assert_refused(command(data, tmp_path / "two.h5ad", "--out", out), "a different name")
    assert_refused(command(data, "--out", data / "README.md"), "found a file")
    assert_refused(command(data, "--out", tmp_path / "no" / "out"), "Make it first")
    assert_refused(command(data, "--out", out, "--register", broken), "nothing_of_this_name")
    assert not out.exists()


def test_scib_without_its_package_is_refused(command, data, tmp_path, monkeypatch):
    monkeypatch.setattr(_scores, "find_spec", lambda name: None)
    result = command(data, "--methods", "svd", "--out", tmp_path / "out", "--scib")
    assert_refused(result, "pip install 'scgpcl[benchmark]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1, 2]])
def test_bad_lists_of_seeds(data, tmp_path, seeds):
    with pytest.raises(ValueError, match="different seeds"):
        benchmark.run(data, ["svd"], out=tmp_path / "out", seeds=seeds)
    assert not list(tmp_path.iterdir())


# summary and figures


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Runs of ten sets, five methods and three seeds; a method fails on one set, and one set has a single seed."""
    rng = np.random.default_rng(0)
    methods = ("scgpcl", "scgpcl-paper", "pca-kmeans", "pca-leiden", "scvi-kmeans")
    rows = []
    for i in range(10):
        for j, method in enumerate(methods):
            for seed in range(1 if i == 3 else 3):
                ari, nmi, acc = rng.uniform(0.1, 0.95, 3)
                rows.append({
                    "dataset": f"a set with a long name {i}", "method": method, "seed": seed, "ari": ari, "nmi": nmi,
                    "acc": acc, "train_seconds": 2.0 ** (j + rng.normal()), "peak_memory_mb": 50.0 * j, "error": "",
                })  # fmt: skip
    table = pd.DataFrame(rows)
    failed = (table["method"] == "pca-leiden") & (table["dataset"].str.endswith("5"))
    table.loc[failed, ["ari", "nmi", "acc", "train_seconds", "peak_memory_mb"]] = np.nan
    table.loc[failed, "error"] = "ValueError: a | b"
    return table


def test_method_table_is_that_of_a_slow_loop(table):
    result = _tables.method_table(table)
    good = table[table["error"] == ""]
    sets = sorted(set(table["dataset"]))
    of = lambda d, m, c="ari": good[(good["dataset"] == d) & (good["method"] == m)][c].tolist()
    for method in result.index:
        own = [d for d in sets if of(d, method)]
        row = result.loc[method]
        assert row["sets"] == len(own)
        for column in ("ari", "nmi", "acc"):
            assert row[column] == pytest.approx(np.mean([np.mean(of(d, method, column)) for d in own]))
        spreads = [np.std(of(d, method), ddof=1) for d in own if len(of(d, method)) > 1]
        assert row["seed_sd"] == pytest.approx(np.mean(spreads))
        best = lambda d: max(np.mean(of(d, m)) for m in result.index if of(d, m))
        assert row["wins"] == sum(np.mean(of(d, method)) == best(d) for d in own)
        differences = {d: np.mean(of(d, method)) - np.mean(of(d, "pca-kmeans")) for d in own}
        if method != "pca-kmeans":
            assert row["worst"] == pytest.approx(min(differences.values()))
            assert row["worst_set"] == min(differences, key=differences.get)
        assert row["seconds"] == pytest.approx(np.mean([np.mean(of(d, method, "train_seconds")) for d in own]))
        assert row["failed"] == (3 if method == "pca-leiden" else 0)
    assert result["wins"].sum() == 10


def test_summary_shows_each_mean_and_spread(table):
    text = _tables.summary(table, {"labels": "cell_type", "batch_key": None})
    assert "labels: cell_type." in text
    section = dict(zip(*[iter(re.split(r"^## (.+)\n", text, flags=re.M)[1:])] * 2, strict=True))
    assert list(section) == ["Methods", "ARI", "NMI", "ACC", "Failed runs"]
    for title, column in (("ARI", "ari"), ("NMI", "nmi"), ("ACC", "acc")):
        lines = [line.strip("| ").split(" | ") for line in section[title].splitlines() if line.startswith("|")]
        methods, rows = lines[0][1:], {line[0]: line[1:] for line in lines[2:]}
        assert len(rows) == 11
        for (name, method), group in table.groupby(["dataset", "method"])[column]:
            shown = rows[name][methods.index(method)].strip("* ")
            if group.isna().all():
                assert shown == ""
            elif len(group) == 1:
                assert shown == f"{group.mean():.3f}"
            else:
                assert shown == f"{group.mean():.3f} ± {np.std(group, ddof=1):.3f}"
        assert "(9 of 10 sets)" in rows["**mean**"][methods.index("pca-leiden")]
    assert "a set with a long name 5 / pca-leiden / seed 1: ValueError: a | b" in section["Failed runs"]


def test_summary_without_any_result(table):
    failed = table[table["error"] != ""]
    text = _tables.summary(failed, {})
    assert "pca-leiden" in text
    assert "nan" not in text


def test_bars(table):
    figure = _plots.draw_bars(table)
    (ax,) = figure.axes
    mean = table.groupby(["dataset", "method"])["ari"].mean().unstack()
    assert len(ax.patches) == 49
    assert sorted(bar.get_height() for bar in ax.patches) == pytest.approx(sorted(mean.stack().dropna()))
    assert len(ax.containers) == 10  # bars and error bars of five methods
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(mean.index)
    assert_legible(figure)


def test_box(table):
    figure = _plots.draw_box(table)
    assert [ax.get_title() for ax in figure.axes] == ["ARI over sets", "NMI over sets", "ACC over sets"]
    for ax, column in zip(figure.axes, ("ari", "nmi", "acc"), strict=True):
        assert len(ax.patches) == 5
        points = np.concatenate([np.ma.compressed(np.ma.masked_invalid(c.get_offsets()[:, 1])) for c in ax.collections])
        mean = table.groupby(["dataset", "method"])[column].mean().dropna()
        assert sorted(points) == pytest.approx(sorted(mean))
    assert_legible(figure)


def test_time(table):
    figure = _plots.draw_time(table)
    (ax,) = figure.axes
    assert ax.get_xscale() == "log"
    assert len(ax.collections) == 10
    means = [c.get_offsets()[0] for c in ax.collections[1::2]]
    expected = _tables.method_table(table)[["seconds", "ari"]].to_numpy()
    np.testing.assert_allclose(means, expected)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(_tables.method_table(table).index)
    assert_legible(figure)


def assert_legible(figure):
    """All text lies inside the figure, and the legend on no axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    whole = figure.bbox
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert box.x0 >= whole.x0 - 1
        assert box.x1 <= whole.x1 + 1
        assert box.y0 >= whole.y0 - 1
        assert box.y1 <= whole.y1 + 1
        for legend in figure.legends:
            assert not legend.get_window_extent().overlaps(ax.get_window_extent())


def test_figures_are_the_same_each_time(table, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _plots.write_figures(table, tmp_path / name)
    for name in ("bars.png", "box.png", "time.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("shape", ["one set", "one method", "one run"])
def test_small_benchmarks_are_drawn_too(table, tmp_path, shape):
    small = table[table["seed"] == 0]
    if shape != "one method":
        small = small[small["dataset"].str.endswith("0")]
    if shape != "one set":
        small = small[small["method"] == "scgpcl"]
    _plots.write_figures(small, tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 3
    assert "nan" not in _tables.summary(small, {})


def test_nothing_to_draw(table, tmp_path):
    _plots.write_figures(table[table["error"] != ""], tmp_path)
    assert not list(tmp_path.iterdir())
