"""Small PDF files with real text, made in tests."""

from __future__ import annotations

import io
from collections.abc import Sequence

from pypdf import PdfReader, PdfWriter

__all__ = ["pdf"]


def pdf(
    pages: Sequence[Sequence[str]],
    outline: Sequence[tuple[int, str, int]] = (),
    title: str | None = None,
    password: str | None = None,
    owner: str | None = None,
) -> bytes:
    """A file with these pages of lines; bookmarks are (level, title, page from 0)."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(_plain(pages))))
    parents: dict[int, object] = {}
    for level, name, page in outline:
        parents[level] = writer.add_outline_item(title=name, page_number=page, parent=parents.get(level - 1))  # type: ignore[arg-type]
    if title is not None:
        writer.add_metadata({"/Title": title, "/Author": "A. Writer"})
    if password is not None or owner is not None:
        writer.encrypt(password or "", owner, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _plain(pages: Sequence[Sequence[str]]) -> bytes:
    """The objects one after another, then the table of where they begin."""
    bodies = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    bodies.append(f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>")
    bodies.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, lines in enumerate(pages):
        shown = " ".join(f"({line}) Tj T*" for line in lines)
        stream = f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET"
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        box = "/MediaBox [0 0 612 792]"
        bodies.append(f"<< /Type /Page /Parent 2 0 R {box} {resources} /Contents {5 + 2 * number} 0 R >>")
        bodies.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    begin = len(out)
    out += f"xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n{table}".encode()
    return out + f"trailer\n<< /Size {len(bodies) + 1} /Root 1 0 R >>\nstartxref\n{begin}\n%%EOF\n".encode()
