"""How Sphinx makes the site (`make docs`) of pages in Markdown and of docstrings."""

from __future__ import annotations

from typing import Any

import torch.nn.utils.prune as upstream

import fastprune

project = "fastprune"
author = "the fastprune authors"
project_copyright = "the fastprune authors, MIT licence"
version = release = fastprune.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns: list[str] = []

# Every reference has to lead somewhere. Those to torch and numpy are names, not links: no inventory
# is fetched, so that the site builds without a network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|nn)(\..*)?"),
    ("py:.*", r"(Tensor|Optimizer|Module|Score|Any|Sequence|Mapping|Iterable|Iterator|optional)"),
    ("py:.*", r"(collections\.abc|contextlib|typing|weakref)\..*"),
    ("py:.*", r"(int|float|bool|str|None|tuple|list|dict|type|object)"),
    ("py:exc", r".*Error"),
    ("py:.*", r"fastprune\.[a-z_]+\.[A-Z_].*"),  # what is not public, in bases and annotations
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_param = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"fastprune {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options: dict[str, Any] = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"


def _public_bases(app: object, name: str, obj: type, options: object, bases: list[object]) -> None:
    """The nearest classes above one that have a name of their own, ours and upstream's."""
    public = {getattr(fastprune, name) for name in fastprune.__all__}
    above = obj.__mro__[1:]
    ours = next((base for base in above if base in public), None)
    theirs = next((base for base in above if base.__module__ == upstream.__name__), None)
    found: list[object] = [] if ours is None else [ours]
    if theirs is not None and (ours is None or not issubclass(ours, theirs)):
        found.append(f":class:`{theirs.__module__}.{theirs.__qualname__}`")
    bases[:] = found or [object]


def _links_of_the_readme(app: object, path: object, page: str, content: list[str]) -> None:
    """Where a page includes the README: the benchmarks are a page of the site."""
    content[0] = content[0].replace("](benchmarks/README.md", "](docs/benchmarks.md")


def _plain_types(
    app: object, what: str, name: str, obj: object, options: object, takes: str | None, gives: str
) -> tuple[str | None, str | None]:
    """Signatures say Module where the code has a type variable for any class of modules."""
    return takes and takes.replace("_Module", "Module"), gives and gives.replace(
        "_Module", "Module"
    )


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", _plain_types)
    app.connect("include-read", _links_of_the_readme)
    app.connect("autodoc-process-bases", _public_bases)
