"""The documentation site: `nox -s site`, or `python -m sphinx -W -E docs build/site`."""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

project = "lottery_jax"
author = "the authors of lottery_jax"
version = release = re.search(
    r'^__version__ = "(.*)"$', (DOCS.parent / "lottery_jax/__init__.py").read_text(), re.M
)[1]

extensions = ["myst_nb", "sphinx_copybutton", "_site.pages"]
exclude_patterns = ["_site", "results/**/runs"]

# Every link within the site is checked, anchors of headings too.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
# Notebooks are shown with the outputs that they were saved with.
nb_execution_mode = "off"

html_theme = "furo"
html_title = f"lottery_jax {release}"
html_theme_options = {"footer_icons": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_show_copyright = False
maximum_signature_line_length = 90
python_display_short_literal_types = True
highlight_language = "text"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
