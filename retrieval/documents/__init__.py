"""Files become documents: texts with what is known about them.

    kind       files               text                                    structure                  metadata
    text       .txt                as in the file
    markdown   .md, .markdown      as in the file                          headings                   front matter
    json       .jsonl              `text` of each line                                                all other fields
    html       .html, .htm         what a reader sees                      h1 to h6                   lang, author, ...
    pdf        .pdf                of each page, one after another         bookmarks, pages           author, language

Texts, Markdown and JSON lines are kept exactly: no character is dropped, no line end translated, and a span points
into `open(path, encoding=..., newline="").read()` (the encoding is in the metadata where it is not UTF-8), or into the
`text` of a line. Spans of html and pdf point into the text that was taken from them, not into the file:
`read_documents` gives it again, the database keeps its length and digest, and of a pdf each chunk its page.

What cannot be used is named (`Skipped`) and never stops the rest.
"""

from farfield.retrieval.documents.document import Document, Skipped, UnreadableError, check_parsers
from farfield.retrieval.documents.found import Found, find, require_files
from farfield.retrieval.documents.lines import read_lines
from farfield.retrieval.documents.reading import read_documents

__all__ = [
    "Document",
    "Found",
    "Skipped",
    "UnreadableError",
    "check_parsers",
    "find",
    "read_documents",
    "read_lines",
    "require_files",
]
