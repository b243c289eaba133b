"""Convert the LaTeX of a page to MathML when the site is built, so that no page loads a script from the network."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\s*\\[(\[](?P<latex>.*?)\\[)\]]\s*</(?P=tag)>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Return the HTML of a page with MathML; MkDocs calls this, and `pymdownx.arithmatex` has marked the formulas."""
    return FORMULA.sub(mathml, content)


def mathml(found: re.Match[str]) -> str:
    """Return the formula as MathML, on its own line if it was a block."""
    display = "block" if found["tag"] == "div" else "inline"
    return convert(html.unescape(found["latex"]), display=display)
