"""The site: `make docs` builds it from the repository's Markdown, and fails on a link within the repository that leads nowhere."""

project = "linepipe"
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "benchmarks/README.md", "ilcs_model/weights/*.md"]
extensions = ["myst_parser"]
myst_heading_anchors = 3  # the anchors that GitHub makes
html_theme = "furo"
html_title = "linepipe"
suppress_warnings = ["toc.not_included"]  # decisions/README.md lists the decisions
