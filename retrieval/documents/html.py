"""HTML files: what a reader sees, parsed as browsers do.

White space is one space, as on the screen, but where it is preformatted; blocks are paragraphs, rows, items and `<br>`
end lines, cells are set apart by tabs. Headings (h1 to h6) are kept with their places. Scripts, styles and the like are
left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from farfield.retrieval.documents.decoding import decode
from farfield.retrieval.documents.document import Document, UnreadableError, parser
from farfield.retrieval.filters import Scalar
from farfield.retrieval.headings import Heading

__all__ = ["read_html"]

CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
DECLARED_WITHIN = 4096
HIDDEN = frozenset("head script style template noscript iframe object svg math canvas audio video".split())
PARAGRAPHS = frozenset(
    "address article aside blockquote body details dialog div dl fieldset figcaption figure footer form h1 h2 h3 h4 h5"
    " h6 header hr main nav ol p pre section summary table ul".split()
)
NESTED = re.compile(
    r"<(/?)(?:address|article|aside|blockquote|center|details|div|dl|fieldset|figure|footer|form|header|main|nav|ol"
    r"|section|table|ul)\b",
    re.IGNORECASE,
)
DEEPEST = 5_000
"""Of blocks within blocks. By the rules of HTML a parser looks at all that are open whenever another begins."""
LINES = frozenset("br caption dd dt li option tr".split())
CELLS = frozenset(("td", "th"))
LEVELS = {f"h{level}": level for level in range(1, 7)}
SPACE = re.compile(r"[ \t\n\r\f]+")
META = {"author": "author", "description": "description", "keywords": "keywords", "date": "date"}


def read_html(path: Path, data: bytes, encoding: str) -> Document:
    """The document in an HTML file. Its title is that of the head, else its first heading, else the file's name.

    Raises:
        UnreadableError: its encoding cannot be told, or its blocks are nested without end.
    """
    lexbor = parser("selectolax.lexbor")
    source, name = decode(data, _declared(data) if encoding == "auto" else encoding)
    _check_depth(source)
    tree = lexbor.LexborHTMLParser(source)
    seen = _Seen()
    for node, leaves in _walk(tree.body):
        seen.leave(node.tag) if leaves else seen.enter(node)
    title = tree.css_first("head > title")
    shown = SPACE.sub(" ", title.text()).strip() if title else ""
    shown = shown or next((one.title for one in seen.headings if one.title), path.stem)
    metadata = _metadata(tree) | ({} if name == "utf-8" else {"encoding": name})
    return Document("", shown, "".join(seen.parts), "html", metadata, tuple(seen.headings))


def _check_depth(source: str) -> None:
    """Raises an UnreadableError for what would take a parser hours."""
    depth = 0
    for tag in NESTED.finditer(source):
        depth = max(depth - 1, 0) if tag[1] else depth + 1
        if depth > DEEPEST:
            raise UnreadableError(f"HTML with more than {DEEPEST} blocks within blocks")


def _declared(data: bytes) -> str:
    """The encoding that a file without a byte order mark declares, where Python knows it and it fits; else `auto`."""
    found = CHARSET.search(data, 0, DECLARED_WITHIN)
    if found is None or data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\0\0\xfe\xff")):
        return "auto"
    name = found[1].decode().lower()
    name = "cp1252" if name in ("latin1", "iso-8859-1", "ascii", "us-ascii") else name
    try:
        data.decode(name)
    except (LookupError, UnicodeDecodeError):
        return "auto"
    return name


def _metadata(tree: Any) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    language = tree.root.attributes.get("lang") if tree.root else None
    if language:
        found["language"] = language
    for node in tree.css("head > meta"):
        name, content = (node.attributes.get("name") or "").lower(), node.attributes.get("content")
        if name in META and content:
            found.setdefault(META[name], content)
    return found


def _walk(root: Any) -> Iterator[tuple[Any, bool]]:
    """Every node in document order, once when it is entered and once (True) when it is left; without recursion."""
    node = root
    while node is not None:
        yield node, False
        if node.first_child is not None and node.tag not in HIDDEN:
            node = node.first_child
            continue
        yield node, True
        while node.next is None:
            node = node.parent
            if node is None:
                return
            yield node, True
            if node.mem_id == root.mem_id:
                return
        if node.mem_id == root.mem_id:
            return
        node = node.next


class _Seen:
    """The text as it grows. `gap` is what stands between what was written and what comes next."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.headings: list[Heading] = []
        self._length = 0
        self._gap = ""
        self._preformatted = 0
        self._heading: tuple[int, int] | None = None

    def enter(self, node: Any) -> None:
        """A node begins."""
        tag = node.tag
        if tag == "-text":
            self._text(node.text_content or "")
        self._apart(tag)
        if tag in ("pre", "textarea"):
            self._preformatted += 1
        if tag in LEVELS and self._heading is None:
            self._heading = (LEVELS[tag], len(self.parts))

    def leave(self, tag: str) -> None:
        """A node ends."""
        if tag in LEVELS and self._heading and self._heading[0] == LEVELS[tag]:
            self._end_heading(*self._heading)
        if tag in ("pre", "textarea"):
            self._preformatted -= 1
        if tag != "br":
            self._apart(tag)

    def _end_heading(self, level: int, first: int) -> None:
        self._heading = None
        words = "".join(self.parts[first:])
        title = SPACE.sub(" ", words).strip()
        if title:
            leading = len(words) - len(words.lstrip())
            self.headings.append(Heading(self._length - len(words) + leading, self._length, level, title))

    def _apart(self, tag: str) -> None:
        wanted = "\n\n" if tag in PARAGRAPHS else "\n" if tag in LINES else "\t" if tag in CELLS else ""
        if tag == "br" and self._gap == "\n":
            wanted = "\n\n"
        self._gap = max(self._gap, wanted, key=("", " ", "\t", "\n", "\n\n").index)

    def _text(self, text: str) -> None:
        if self._preformatted:
            self._write(text)
            return
        words = SPACE.sub(" ", text)
        if words.startswith(" ") and not self._gap:
            self._gap = " "
        if words.strip(" "):
            self._write(words.strip(" "))
            self._gap = " " if words.endswith(" ") else ""

    def _write(self, text: str) -> None:
        gap = self._gap if self._length else ""
        for part in (gap, text):
            if part:
                self.parts.append(part)
                self._length += len(part)
        self._gap = ""
