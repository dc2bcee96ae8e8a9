"""Link a type to the page of its public name.

Annotations name a class by the private module that defines it (``anndata._core.anndata.AnnData``) or as its file spells it
(``np.ndarray``); inventories list the public name only.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

from numpy.typing import ArrayLike
from sphinx.ext.intersphinx import resolve_reference_any_inventory

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment

#: First words of a name as written, and what they stand for.
WRITTEN = {
    "np.": "numpy.",
    "pd.": "pandas.",
    "ad.": "anndata.",
    "anndata.experimental.multi_files._anncollection.": "anndata.experimental.",
    "sp.": "scipy.sparse.",
    "nn.": "torch.nn.",
    "numpy._typing.": "numpy.typing.",
    "pandas.core.frame.": "pandas.",
    "pandas.core.series.": "pandas.",
    "pandas.core.indexes.base.": "pandas.",
    "sparse.numba_backend._compressed.compressed.": "sparse.",
    "torch.nn.modules.module.": "torch.nn.",
    "torch.utils.data.dataloader.": "torch.utils.data.",
    "torch.utils.data.sampler.": "torch.utils.data.",
    "torch_geometric.data.hetero_data.": "torch_geometric.data.",
    "torch_geometric.nn.conv.message_passing.": "torch_geometric.nn.conv.",
    "torch_geometric.nn.SAGEConv": "torch_geometric.nn.conv.SAGEConv",
    "lightning.pytorch.callbacks.callback.": "lightning.pytorch.callbacks.",
    "lightning.pytorch.core.module.": "lightning.pytorch.core.",
    "lightning.pytorch.core.datamodule.": "lightning.pytorch.core.",
    "lightning.pytorch.Trainer": "lightning.pytorch.trainer.trainer.Trainer",
}
#: Names that files of the package import alone.
ALONE = {
    "AnnData": "anndata.AnnData",
    "ArrayLike": "numpy.typing.ArrayLike",
    "Axes": "matplotlib.axes.Axes",
    "Figure": "matplotlib.figure.Figure",
    "Tensor": "torch.Tensor",
    "History": "dict",
    "Path": "pathlib.Path",
}


def public_name(name: str) -> str:
    """Name without private modules."""
    for start, meaning in WRITTEN.items():
        if name.startswith(start):
            name = meaning + name.removeprefix(start)
            break
    name = ALONE.get(name, name)
    return re.sub(r"(\._\w+)(\.\w+)*(?=\.\w+$)", "", name)


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement) -> Any:
    if node.get("refdomain") != "py":
        return None
    target = public_name(node["reftarget"])
    if target == node["reftarget"]:
        return None
    node["reftarget"], node["reftype"] = target, "obj"
    own = env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)
    return own if own is not None else resolve_reference_any_inventory(env, False, node, contnode)


def array_like(annotation: Any, config: Config) -> str | None:
    """Name of `ArrayLike`, alone or beside other types, in place of the dozen types that it stands for."""
    members, expanded = get_args(annotation), get_args(ArrayLike)
    if not all(part in members for part in expanded):
        return None
    others = [other.__name__ for other in members if other not in expanded]
    return " | ".join([*(f":py:class:`{name}`" for name in others), ":py:data:`~numpy.typing.ArrayLike`"])


def _public_bases(bases: list[type]) -> list[type]:
    """Bases with the parts that this package does not export replaced by what they are made of."""
    found: list[type] = []
    for base in bases:
        public = base.__module__.rpartition("._")[0] if base.__module__.startswith("scgpcl.") else None
        if public is None or hasattr(import_module(public), base.__name__):
            found.append(base)
        else:
            found += _public_bases(list(base.__bases__))
    known = [base for base in dict.fromkeys(found) if base is not object]
    return [base for base in known if not any(other is not base and issubclass(other, base) for other in known)]


def _show_public_bases(app: Sphinx, name: str, obj: object, options: object, bases: list[type]) -> None:
    bases[:] = _public_bases(bases) or bases


def setup(app: Sphinx) -> dict[str, Any]:
    """Try the public name before intersphinx gives up, and show public bases only."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("missing-reference", _resolve, priority=400)
    app.connect("autodoc-process-bases", _show_public_bases)
    return {"parallel_read_safe": True}
