"""How Sphinx builds the site: `make docs`. Pages are MyST Markdown, which GitHub renders too."""

import gc
import logging
import sys
from functools import cache
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.builders import Builder
from sphinx.search.en import SearchEnglish

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import settings_tables  # noqa: E402

for library in ("absl", "OpenGL"):
    logging.getLogger(library).setLevel(logging.WARNING)  # simulators print on import
gc.set_threshold(100_000, 50, 1000)  # pages are many small objects: to look for garbage took a tenth of the time

project, author, copyright = "pbrl", "The pbrl authors", "the pbrl authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.apidoc", "sphinx.ext.viewcode"]
exclude_patterns = ["api/*/modules.rst"]  # pages of packages hold the same
html_theme = "furo"
html_title = "pbrl"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

myst_heading_anchors = 4  # the anchors that GitHub gives headings
myst_enable_extensions = ["colon_fence"]

apidoc_modules = [
    {"path": f"../{package}", "destination": f"api/{package}", "separate_modules": True, "module_first": True,
     "exclude_patterns": ["../pbrl/feedback/store/migrations"]}
    for package in ("pbrl", "sim", "robots", "real")
]  # fmt: skip
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource",
                           "ignore-module-all": True, "exclude-members": "metadata, registry"}  # fmt: skip
autodoc_mock_imports = ["rospy", "rclpy", "franky", "rosgraph"]  # libraries of robots, which few machines have
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
maximum_signature_line_length = 100
add_module_names = False
default_role = "code"  # docstrings write `names` as Markdown does
highlight_language = "none"  # of blocks that name no language: commands, and diagrams


def setup(app: Sphinx) -> None:
    app.connect("source-read", settings_tables.fill)
    app.connect("autodoc-process-docstring", loosen)
    app.connect("write-started", remember_names)
    SearchEnglish.stem = cache(SearchEnglish.stem)  # the same few thousand words on every page


def remember_names(app: Sphinx, builder: Builder) -> None:
    """Looks a name up once, and only where an object is called so.

    Sphinx compares a type like `Tensor` to all objects wherever a signature names it.
    """
    domain = app.env.domains.python_domain
    known = {name.rpartition(".")[2] for name in domain.objects}
    find = cache(domain.find_obj)

    def find_known(env: Any, module: str, owner: str, name: str, *more: Any) -> list[tuple[str, Any]]:
        return find(env, module, owner, name, *more) if name.removesuffix("()").rpartition(".")[2] in known else []

    domain.find_obj = find_known


def loosen(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring that was written to be read: lists and indented blocks stand apart.

    A block that is indented and belongs to no list is code.
    """
    loose: list[str] = []
    inside = ""  # list, code, or neither
    for line in lines:
        before = loose[-1] if loose else ""
        starts_item, indented = line.startswith("- "), line.startswith(" ")
        if not line:
            inside = inside if inside == "code" else ""
        elif starts_item or indented and inside == "list":
            if inside != "list" and before:
                loose.append("")
            inside = "list"
        elif indented and inside != "code":
            loose += ["", "::", ""]
            inside = "code"
        elif not indented and inside:
            if before:
                loose.append("")
            inside = ""
        loose.append(line)
    lines[:] = loose
