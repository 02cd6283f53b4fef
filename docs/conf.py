"""How Sphinx builds these pages: `make docs`."""

project = "cryoflow"
author = "the cryoflow authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {"page_width": "1100px", "description": "Micrographs to maps, on Dask, Zarr and GPUs"}
suppress_warnings = ["docutils", "myst.header", "misc.highlighting_failure"]
