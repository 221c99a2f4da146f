"""How Sphinx makes the site. It reads the tree that build.py puts together: see there."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import site_names
import site_roles

import keras_kd

project = "keras_kd"
author = "the authors of keras_kd"
version = release = keras_kd.__version__
html_title = f"keras_kd {release}"
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
root_doc = "index"
include_patterns = [
    "index.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**",
    "notebooks/*.ipynb",
    "examples/benchmarks/RESULTS.md",
]
exclude_patterns = ["docs/index.md", "docs/_build"]
nitpicky = True
# Their own sites are on other hosts; the types of signatures are no part of the interface.
nitpick_ignore_regex = [(r"py:.*", r"(collections|keras|numpy|pathlib|tensorflow|keras_kd\._types)\..*")]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

# Notebooks come executed, by run_notebooks.py.
nb_execution_mode = "off"
nb_output_stderr = "remove"
nb_code_prompt_show = "Show the solution"  # the only cells that are folded: tests/test_docs.py
nb_code_prompt_hide = "Hide the solution"
nb_ipywidgets_js = {}  # would be loaded from another host
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
myst_url_schemes = ["http", "https", "mailto"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say types and shapes; [source] shows the annotations
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "exclude-members": ", ".join(site_names.PLUMBING)}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "python_name"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_math_renderer = "mathml"  # by the browser itself: MathJax would come from another host
linkcheck_anchors = False
linkcheck_timeout = 20


def setup(app):
    """Let Sphinx take what is ours."""
    site_roles.setup(app)
