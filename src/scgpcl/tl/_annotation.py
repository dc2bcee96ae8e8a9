from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgpcl import _input as _checks
from scgpcl import _keys

if TYPE_CHECKING:
    from anndata import AnnData

#: Name of the format, which the page of :func:`scgpcl.report` writes at the top of the file it saves.
FORMAT = "scgpcl annotation"
VERSION = 1


def apply_annotation(
    adata: AnnData,
    path: str | Path,
    *,
    key: str | None = None,
    key_added: str = _keys.NAME,
    subset: bool = False,
) -> pd.DataFrame:
    """Apply the names, merges and comments that were saved on the page of :func:`scgpcl.report`.

    The whole file is first checked against the cells. If the names are from another clustering, an error is raised and
    nothing is changed. The cluster column is never changed. To undo the annotation, delete the column of names or
    apply another file.

    Parameters
    ----------
    adata
        Cells with the clusters from the page in ``adata.obs``.
    path
        File saved on the page, ``annotation.json``.
    key
        Column of ``adata.obs`` with the clusters. If ``None``, the name of the column is read from the file.
    key_added
        Column of ``adata.obs`` in which the names are stored, as a categorical in the order of the page. Cells without
        a cluster get no name.
    subset
        Whether to also accept a subset of the cells on the page, in which clusters may be smaller or missing. By
        default, each cluster must have as many cells as on the page.

    Returns
    -------
    A table with one row per name and the columns ``name``, ``clusters`` (the merged clusters, separated by commas),
    ``size`` (number of cells) and ``comment``. The table is also stored in ``adata.uns[f"{key_added}_annotation"]``,
    and the colours of the page are stored in ``adata.uns[f"{key_added}_colors"]``, where scanpy finds them.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    KeyError
        If ``adata`` lacks the cluster column.
    TypeError
        If an argument has the wrong type.
    ValueError
        If the file is not an annotation, is damaged or comes from a later version, if its clusters or their sizes do
        not match ``adata``, if ``key_added`` is the cluster column, or if another entry of ``adata.uns`` would be
        replaced.

    Examples
    --------
    >>> scgpcl.tl.apply_annotation(adata, "annotation.json")  # doctest: +SKIP
    >>> sc.pl.umap(adata, color="scgpcl_name")  # doctest: +SKIP
    """
    _checks.check_is_adata(adata)
    _checks.check_not_view(adata)
    _checks.check_key_added(key_added)
    stored_key, groups = _read(Path(path))
    key = stored_key if key is None else key
    if key not in adata.obs:
        msg = (
            f"Expected the clusters of the annotation in `adata.obs[{key!r}]`, found the columns "
            f"[{_checks.listed(adata.obs.columns)}]. Name the column with `key=`, or annotate the cells first."
        )
        raise KeyError(msg)
    if key_added == key:
        msg = f"Expected another column for the names than that of the clusters, found {key!r} for both. Change `key_added`."
        raise ValueError(msg)
    _checks.check_not_replaced(adata, f"{key_added}_annotation", ("name", "clusters", "size", "comment"))
    clusters = adata.obs[key].astype("category")
    clusters = clusters.cat.rename_categories([str(name) for name in clusters.cat.categories])
    found = clusters.value_counts()
    _check_clusters({name: n for group in groups for name, n in group["members"].items()}, found, key, subset=subset)

    name_of = {cluster: group["name"] for group in groups for cluster in group["members"]}
    names = list(dict.fromkeys(group["name"] for group in groups))
    rows = {name: [group for group in groups if group["name"] == name] for name in names}
    table = pd.DataFrame(
        {
            "name": names,
            "clusters": [", ".join(cluster for group in rows[name] for cluster in group["members"]) for name in names],
            "size": [sum(int(found.get(c, 0)) for group in rows[name] for c in group["members"]) for name in names],
            "comment": ["\n".join(group["comment"] for group in rows[name] if group["comment"]) for name in names],
        }
    )
    # the last entry is for cells without a cluster, whose code is -1
    of_code = np.array([*(name_of.get(name) for name in clusters.cat.categories), None], dtype=object)
    column = pd.Categorical(of_code[clusters.cat.codes], categories=names)
    adata.obs[key_added] = column
    adata.uns[f"{key_added}_annotation"] = table
    adata.uns[f"{key_added}_colors"] = [rows[name][0]["color"] for name in names]
    return table.copy()


def _read(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Read the name of the cluster column and the groups from a file.

    A group has ``name``, ``members`` (cells by cluster), ``comment`` and ``color``.
    """
    from matplotlib.colors import is_color_like

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        msg = f"Expected the annotation that a report has saved, found no JSON in {path}: {error}."
        raise ValueError(msg) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        what = content.get("format") if isinstance(content, dict) else type(content).__name__
        msg = f"Expected a file of the format {FORMAT!r}, found {what!r} in {path}. Save one from the page of `scgpcl.report`."
        raise ValueError(msg)
    if content.get("version") != VERSION:
        msg = (
            f"Expected version {VERSION} of the format {FORMAT!r}, found {content.get('version')!r} in {path}. "
            "If the page was written by a later version of scgpcl, update scgpcl."
        )
        raise ValueError(msg)
    groups = content.get("clusters")
    if not isinstance(content.get("key"), str) or not isinstance(groups, list) or not groups:
        msg = f"Expected `key` and a list of `clusters` in {path}, found the fields [{_checks.listed(content)}]. Save it again."
        raise ValueError(msg)
    checked: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, group in enumerate(groups, 1):
        fault = None
        group = group if isinstance(group, dict) else {}
        members: Any = group.get("members")
        if not isinstance(group.get("name"), str) or not group["name"].strip():
            fault = f"the name {group.get('name')!r}"
        elif not isinstance(group.get("comment", ""), str):
            fault = f"the comment {group['comment']!r}"
        elif not is_color_like(group.get("color")):
            fault = f"the colour {group.get('color')!r}"
        elif not isinstance(members, list) or not members or not all(map(_is_member, members)):
            fault = f"the members {members!r}"
        elif seen & set(own := [member["cluster"] for member in members]) or len(set(own)) < len(own):
            fault = f"a cluster twice among {own}"
        if fault is not None:
            msg = f"Expected a name, a colour and clusters in each group of {path}, found {fault} in group {number}. Save it again."
            raise ValueError(msg)
        seen |= {member["cluster"] for member in members}
        checked.append(
            {
                "name": group["name"].strip(),
                "comment": group.get("comment", "").strip(),
                "color": group["color"],
                "members": {member["cluster"]: member["cells"] for member in members},
            }
        )
    return content["key"], checked


def _is_member(member: Any) -> bool:
    return (
        isinstance(member, dict)
        and isinstance(member.get("cluster"), str)
        and isinstance(member.get("cells"), int)
        and not isinstance(member["cells"], bool)
        and member["cells"] >= 0
    )


def _check_clusters(expected: dict[str, int], found: pd.Series, key: str, *, subset: bool) -> None:
    """Check that the clusters and their sizes match the annotation. A subset may lack cells."""
    sizes = {str(name): int(n) for name, n in found.items() if n > 0}
    unknown = [name for name in sizes if name not in expected]
    missing = [name for name, n in expected.items() if name not in sizes and n > 0]
    other = [name for name, n in sizes.items() if n > expected.get(name, 0) or (n < expected[name] and not subset)]
    hint = "This annotation belongs to another clustering; write a report of this one and annotate that."
    if unknown or (missing and not subset):
        what = f"also [{_checks.listed(unknown)}]" if unknown else f"none called [{_checks.listed(missing)}]"
        msg = f"Expected the clusters of the annotation in `adata.obs[{key!r}]`, found {what}. {hint}"
        raise ValueError(msg)
    if other:
        part = "" if subset else " If these cells are a part of those on the page, pass `subset=True`."
        msg = (
            f"Expected {expected[other[0]]} cells in cluster {other[0]!r} of `adata.obs[{key!r}]`, as on the page, "
            f"found {sizes[other[0]]}. {hint}{part}"
        )
        raise ValueError(msg)
