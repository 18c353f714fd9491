"""How Sphinx builds this documentation: ``sphinx-build docs docs/_build/html``."""

from __future__ import annotations

import configparser
import pathlib

_setup = configparser.ConfigParser()
_setup.read(pathlib.Path(__file__).parent.parent / "setup.cfg")

project = _setup["metadata"]["name"]
author = _setup["metadata"]["author"]
release = _setup["metadata"]["version"]
copyright = f"2026, {author}"
extensions = ["sphinx.ext.autodoc"]
autodoc_typehints = "description"
exclude_patterns = ["_build", "newsfragments"]
html_theme = "alabaster"
html_theme_options = {"description": _setup["metadata"]["description"], "fixed_sidebar": True}
html_show_sourcelink = False
