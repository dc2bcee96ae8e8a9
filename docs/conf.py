"""Sphinx configuration."""

import shutil
import sys
from importlib.metadata import files
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import public_names

HERE = Path(__file__).parent
# Pages must lie below this folder, notebooks are easier to find at the top.
shutil.copytree(
    HERE.parent / "tutorials",
    HERE / "tutorials",
    ignore=shutil.ignore_patterns("*.md", "*.py", ".*"),
    dirs_exist_ok=True,
)

# MathJax in one file, from its package: the pages load nothing from elsewhere.
_MATHJAX = HERE / "_mathjax" / "mathjax"
_MATHJAX.mkdir(parents=True, exist_ok=True)
for _file in files("sphinx-mathjax-offline") or ():
    if _file.name == "tex-svg.js":
        shutil.copy(_file.locate(), _MATHJAX)

project = "scgpcl"
author = "scgpcl developers"
copyright = f"2026, {author}"
release = version = installed_version("scgpcl")

extensions = [
    "prose_returns",
    "public_names",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",  # after napoleon, whose output it reads
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
default_role = "literal"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # they carry their outputs; `make tutorials` runs them

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_include_init_with_doc = False
napoleon_use_rtype = True
typehints_defaults = "braces"
typehints_formatter = public_names.array_like
always_use_bars_union = True
autodoc_mock_imports = ["huggingface_hub"]  # optional, and only in an annotation
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

#: Where the pages of other projects are. The names that these pages link to are listed in `_inventories`, so that a build
#: needs no network and does not change with theirs; `make links` checks that the links lead somewhere.
_PAGES = {
    "anndata": "https://anndata.readthedocs.io/en/stable/",
    "lightning": "https://lightning.ai/docs/pytorch/stable/",
    "matplotlib": "https://matplotlib.org/stable/",
    "mudata": "https://mudata.readthedocs.io/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "pandas": "https://pandas.pydata.org/docs/",
    "pyg": "https://pytorch-geometric.readthedocs.io/en/latest/",
    "python": "https://docs.python.org/3/",
    "scanpy": "https://scanpy.readthedocs.io/en/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
    "scvi-tools": "https://docs.scvi-tools.org/en/stable/",
    "sklearn": "https://scikit-learn.org/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}
intersphinx_mapping = {name: (page, f"_inventories/{name}.txt") for name, page in _PAGES.items()}

nitpicky = True
suppress_warnings = ["config.cache"]  # of the function among the values above
# The types behind `ArrayLike` are private to numpy, and some annotations name private classes of this package.
nitpick_ignore_regex = [("py:class", r"numpy\._typing\..*"), ("py:class", r"scgpcl\.\w+\._.*")]
nitpick_ignore = [
    ("py:class", "optional"),  # napoleon's word for a parameter with a default
    # In docstrings and annotations of scvi-tools' base class; documented nowhere.
    ("py:meth", "scvi.data.AnnDataManager.transfer_fields"),
    ("py:class", "sparse.numba_backend._compressed.compressed.GCXS"),
    # huggingface_hub has no inventory.
    ("py:class", "huggingface_hub.ModelCard"),
]

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static", "_mathjax"]
mathjax_path = "mathjax/tex-svg.js"
html_css_files = ["custom.css"]
html_theme_options = {
    "navbar_persistent": [],  # the sidebar has a field for searching
    "path_to_docs": "docs",
    "repository_branch": "main",
    "repository_url": "https://github.com/scgpcl/scgpcl",
    "use_repository_button": True,
}
