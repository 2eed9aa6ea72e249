"""The HTML page of a report: one file that needs nothing else.

The results are JSON in a script element of a type that is not run, and the script of the page draws them. It makes text
nodes only, so that nothing a model wrote can become markup; beside that, the page's policy lets no other script run and
nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from farfield.benchmarks.reports.page.content import content
from farfield.benchmarks.reports.table import Table
from farfield.benchmarks.running.results import Result
from farfield.config import printable

__all__ = ["page"]

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title><style>{style}</style></head>
<body><noscript><p>This page draws its tables by a script of its own. report.md holds the same tables.</p></noscript>
<main id="page"></main>
"""


def page(results: Sequence[Result], tables: Sequence[Table]) -> str:
    """The page of `results`, with `tables` as they stand in the terminal."""
    style, script = _asset("page.css"), _asset("charts.js") + _asset("page.js")
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    suites = ", ".join(dict.fromkeys(str(result.head["suite"]) for result in results))
    head = HEAD.format(policy=escape(policy), title=escape(f"Farfield results: {printable(suites)}"), style=style)
    data = f'<script type="application/json" id="data">{_json(content(results, tables))}</script>'
    return f"{head}{data}\n<script>{script}</script>\n</body></html>\n"


def _asset(name: str) -> str:
    return files("farfield.benchmarks.reports.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: Mapping[str, object]) -> str:
    """`data` without a sign that could end the element or begin a comment, and without halves of pairs."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
