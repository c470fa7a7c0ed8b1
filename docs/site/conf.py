"""Sphinx's settings for the site; tools/site/build_site.py puts the sources together and starts Sphinx on them."""

from importlib import metadata

project = "PEFT Lessons"
author = "the authors of PEFT Lessons"
project_copyright = "prose and figures: CC BY 4.0; code: MIT"
version = release = metadata.version("peft-lessons")
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a lesson may go from a title to a smaller heading
nb_execution_mode = "off"  # the notebooks are shown as they are stored
nb_merge_streams = True
nb_render_markdown_format = "myst"  # an exercise may have formulas
# A quiz's text form comes last: what it is for is nbval. Its Markdown has the options, with the answers folded.
nb_mime_priority_overrides = [("html", "text/html", 1), ("html", "text/markdown", 2), ("html", "text/plain", 3)]

default_role = "code"  # docstrings write `code` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "__init__, __new__"}
napoleon_google_docstring = True
napoleon_use_ivar = True
viewcode_line_numbers = True

html_theme = "sphinx_book_theme"
html_title = "PEFT Lessons"
html_context = {"default_mode": "auto"}
html_sidebars = {"**": ["course-name.html", "search-button-field.html", "sbt-sidebar-nav.html"]}
html_static_path = ["_static"]
templates_path = ["_templates"]
html_favicon = "_static/favicon.svg"
html_css_files = ["course.css", "site.css"]
html_js_files = [("course.js", {"async": "async"}), "terms.js"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search field stands in the side bar already
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
mathjax_path = "mathjax.js"  # a copy from npm: nothing is asked of another host


def formulas_as_written(_app, _kind, _name, _object, _options, lines):
    """An indented block of a docstring is a formula or a table, aligned by hand: shown as it stands."""
    shown, indented = [], False
    for line in lines:
        if line.strip():
            if line.startswith("    ") and not indented and shown and not shown[-1].strip():
                shown += ["::", ""]
            indented = line.startswith("    ")
        shown.append(line)
    lines[:] = shown


def source_that_exists(_app, env):
    """An alias of a type, such as `Batch`, says that it comes from builtins, of which viewcode has no page."""
    modules = getattr(env, "_viewcode_modules", {})
    for name in [name for name, source in modules.items() if not source]:
        del modules[name]


def setup(app):
    app.connect("autodoc-process-docstring", formulas_as_written, priority=400)  # before napoleon's, which is at 500
    app.connect("env-updated", source_that_exists)
