from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from filling import Ingest
from pdfs import pdf

from farfield.config import DataError
from farfield.retrieval import ChunkConfig, DatasetConfig, IngestConfig, cut, ingest, open_index
from farfield.retrieval.documents import Document, Skipped, read_documents
from farfield.retrieval.documents.hub import open_dataset
from farfield.retrieval.store import Store


def read(name: str, data: bytes | str, encoding: str = "auto") -> list[Document | Skipped]:
    return list(read_documents(Path("/d") / name, data if isinstance(data, bytes) else data.encode(), encoding))


def only(name: str, data: bytes | str, encoding: str = "auto") -> Document:
    (document,) = read(name, data, encoding)
    assert isinstance(document, Document), document
    return document


def refused(name: str, data: bytes) -> str:
    (skipped,) = read(name, data)
    assert isinstance(skipped, Skipped)
    return skipped.reason


TEXTS = {
    "French": ("iso8859-15", "Tous les êtres humains naissent libres et égaux en dignité. Le café était déjà fermé. "),
    "German": ("cp1252", "Über die Straße läuft ein großer Hund, sagte der Mann mit der grünen Mütze. "),
    "Polish": ("iso8859-2", "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. "),
    "Russian": ("cp1251", "Съешь же ещё этих мягких французских булок, да выпей чаю. "),
    "Russian, KOI8": ("koi8-r", "Широкая электрификация южных губерний даст мощный толчок. "),
    "Greek": ("iso8859-7", "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια. "),
    "Hebrew": ("cp1255", "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. "),
    "Arabic": ("cp1256", "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. "),
    "Japanese": ("shift_jis", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"),
    "Japanese, EUC": ("euc_jp", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"),
    "Chinese": ("gb18030", "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。"),
    "Korean": ("euc_kr", "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. "),
}


@pytest.mark.parametrize("language", TEXTS)
def test_other_encodings_are_told_by_their_letters(language: str, tmp_path: Path) -> None:
    encoding, text = TEXTS[language]
    file = tmp_path / "a.txt"
    file.write_bytes((text * 3).encode(encoding))
    document = only("a.txt", file.read_bytes())
    assert document.text == text * 3
    with file.open(encoding=str(document.metadata["encoding"]), newline="") as again:
        assert again.read() == document.text


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_read_by_its_mark_or_without(language: str, encoding: str, tmp_path: Path) -> None:
    text = TEXTS[language][1]
    file = tmp_path / "a.md"
    file.write_bytes(text.encode(encoding))
    document = only("a.md", file.read_bytes())
    assert document.text.removeprefix("\ufeff") == text
    with file.open(encoding=str(document.metadata.get("encoding", "utf-8")), newline="") as again:
        assert again.read() == document.text


@pytest.mark.parametrize("mark", ["utf-16-be", "utf-32-be"])
def test_big_ends_first(mark: str) -> None:
    assert only("a.txt", "\ufeffabc é".encode(mark)).text == "abc é"


@pytest.mark.parametrize(
    "data",
    [
        b"caf\xe9",
        b"\xff",
        bytes(range(256)) * 20,
        bytes((7 * i * i + i) % 251 for i in range(5000)),
        b"abc\x00\xff" * 9,
    ],
)
def test_what_could_be_anything_is_refused(data: bytes) -> None:
    assert refused("a.txt", data).startswith("not UTF-8 (byte 0x")
    assert refused("a.txt", data).endswith("too little speaks for any other encoding; name it, as in encoding=latin-1")


def test_a_named_encoding_is_taken_at_its_word() -> None:
    document = only("a.txt", b"caf\xe9", "latin-1")
    assert (document.text, document.metadata) == ("café", {"encoding": "latin-1"})
    (skipped,) = read("a.txt", b"caf\xe9", "ascii")
    assert str(skipped) == "/d/a.txt: not ascii (byte 0xe9 at 3)"
    assert only("a.jsonl", '{"text": "café"}'.encode("latin-1"), "latin-1").text == "café"


def test_half_a_pair_of_utf16_is_refused() -> None:
    assert refused("a.txt", b"\xff\xfea\x00\x00").startswith("not utf-16 (byte 0x00 at 4)")


def test_front_matter_becomes_metadata_and_stays_in_the_text() -> None:
    text = (
        "---\ntitle: A title\nlang: de\nyear: 1999\ntags: [a, b]\ndate: 2020-01-31\nnested: {a: 1}\n---\n\n# Heading\n"
    )
    document = only("a.md", text)
    assert (document.text, document.title, document.kind) == (text, "A title", "markdown")
    assert document.metadata == {"year": 1999, "tags": ["a", "b"], "date": "2020-01-31", "language": "de"}
    for broken in ("---\na: [\n---\n# B\n", "---\n" + "[" * 5000 + "\n---\n# B\n", "--- \n- a\n---\n# B\n"):
        assert (only("a.md", broken).title, only("a.md", broken).metadata) == ("B", {})


def test_fields_of_a_line_become_metadata() -> None:
    entry = {
        "text": "t",
        "id": 3,
        "year": 1999,
        "rate": 0.5,
        "draft": True,
        "tags": ["a"],
        "deep": {"a": 1},
        "no": None,
    }
    document = only("a.jsonl", json.dumps(entry))
    assert (document.key, document.kind) == ("3", "json")
    assert document.metadata == {"year": 1999, "rate": 0.5, "draft": True, "tags": ["a"]}


PAGE = """<!doctype html><html lang="en"><head><title> The  page </title><meta name="author" content="Ann">
<style>p {}</style></head><body><nav>Menu</nav><h1>First <b>one</b></h1>
<p>A paragraph
 of <i>two</i> lines.<br>And a third.</p><ul><li>tent<li>lamp</ul>
<h2>Sub</h2><div>Text &amp; more&nbsp;x<script>no()</script></div><pre>  kept
   as is</pre><table><tr><td>1<td>2</table><h1></h1></body></html>"""


def test_html_is_what_a_reader_sees() -> None:
    document = only("a.html", PAGE)
    assert document.text == (
        "Menu\n\nFirst one\n\nA paragraph of two lines.\nAnd a third.\n\ntent\nlamp\n\nSub\n\n"
        "Text & more\xa0x\n\n  kept\n   as is\n\n1\t2"
    )
    assert (document.title, document.kind) == ("The page", "html")
    assert document.metadata == {"language": "en", "author": "Ann"}
    assert [(one.level, one.title) for one in document.headings] == [(1, "First one"), (2, "Sub")]
    assert [document.text[one.start : one.end] for one in document.headings] == ["First one", "Sub"]


def test_headings_of_html_become_the_context_of_chunks() -> None:
    document = only("a.htm", PAGE)
    chunks = cut(document.text, ChunkConfig(), document.headings)
    assert [chunk.heading for chunk in chunks] == ["", "First one", "First one > Sub"]
    assert all(document.text[chunk.start : chunk.end] == chunk.text for chunk in chunks)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ('<meta charset="shift_jis"><p>吾輩'.encode("shift_jis"), "吾輩"),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1"><p>\x93caf\xe9\x94', "“café”"),
        ('<meta charset="utf-8"><p>é'.encode("utf-16"), "é"),
        ('<meta charset="nonsense"><p>é'.encode(), "é"),
        (b"<p>one<p>two</i></b></p></div>three", "one\n\ntwo\n\nthree"),
        (b"plain <", "plain <"),
        (b"<p>a<br><br>b<br/>c", "a\n\nb\nc"),
        (b"<p>a\x00b", "ab"),
    ],
)
def test_html_in_any_state(data: bytes, text: str) -> None:
    assert only("a.html", data).text == text


@pytest.mark.parametrize("data", [b"<html></html>", b"<script>x</script>", b"<!-- c -->", b"<title>only</title>"])
def test_html_without_text_is_empty(data: bytes) -> None:
    assert refused("a.html", data) == "empty"


def test_deep_html_needs_no_deep_stack() -> None:
    assert only("a.html", "<div>" * 4_999 + "deep").text == "deep"
    assert only("a.html", "<b>" * 50_000 + "deep").text == "deep"
    assert only("a.html", "<div>a</div>" * 50_000).text.count("a") == 50_000
    assert refused("a.html", b"<div>" * 50_000) == "HTML with more than 5000 blocks within blocks"


PAGES = [["Chapter one", "Lions sleep."], ["More of lions.", "Chapter two", "Zebras stand."], ["The end."]]


def test_pages_and_bookmarks_of_a_pdf() -> None:
    outline = [(1, "Chapter one", 0), (2, "Nowhere written", 1), (1, "Chapter two", 1)]
    document = only("a.pdf", pdf(PAGES, outline, title="On animals"))
    assert document.text == "Chapter one\nLions sleep.\n\nMore of lions.\nChapter two\nZebras stand.\n\nThe end."
    assert (document.title, document.kind) == ("On animals", "pdf")
    assert document.metadata == {"author": "A. Writer", "pages": 3}
    assert document.pages == (0, 26, 68)
    chunks = cut(document.text, ChunkConfig(), document.headings, document.pages)
    assert [(chunk.page, chunk.heading) for chunk in chunks] == [
        (1, "Chapter one"),
        (2, "Chapter one > Nowhere written"),
        (2, "Chapter two"),
    ]
    small = cut(document.text, ChunkConfig(size=20, overlap=0), document.headings, document.pages)
    assert [chunk.page for chunk in small] == sorted(chunk.page or 0 for chunk in small)
    assert small[-1].page == 3


def test_titles_of_pdfs() -> None:
    assert only("a.pdf", pdf(PAGES, [(1, "A mark", 2)])).title == "A mark"
    assert only("paper.pdf", pdf(PAGES)).title == "paper"


def test_a_pdf_that_anybody_may_read_is_read() -> None:
    assert "Lions sleep." in only("a.pdf", pdf(PAGES, owner="secret")).text


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "text")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (zipped(), "not a PDF (a zip archive)"),
        (b"text", "not a PDF"),
        (b"", "not a PDF"),
        (pdf(PAGES, password="secret"), "an encrypted PDF. Store a copy without a password"),
        (pdf([[], []]), "a PDF of 2 pages without text (a scan?)"),
    ],
    ids=["zip", "text", "nothing", "encrypted", "scan"],
)
def test_pdfs_that_cannot_be_used_are_named(data: bytes, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert refused("a.pdf", data) == reason
    assert capfd.readouterr() == ("", "")


def test_no_cut_or_flipped_pdf_ends_in_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    whole = pdf(PAGES, [(1, "Chapter one", 0)], title="t")
    for place in range(10, len(whole), 61):
        flipped = whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :]
        for data in (whole[:place], flipped):
            (item,) = read("a.pdf", data)
            assert isinstance(item, Document) or "\n" not in item.reason
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "package"), [("a.pdf", "pypdf"), ("a.html", "selectolax")])
def test_a_parser_that_is_missing_is_one_line(
    name: str, package: str, tmp_path: Path, fill: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(pdf(PAGES) if package == "pypdf" else PAGE.encode())
    for module in [one for one in sys.modules if one.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError) as error:
        fill(tmp_path / name)
    kinds = ".pdf" if package == "pypdf" else ".html, .htm"
    assert str(error.value).startswith(f"path: {kinds} cannot be read without {package} (")
    assert str(error.value).endswith(") Install it with: pip install 'farfield[documents]'") or str(
        error.value
    ).endswith("). Install it with: pip install 'farfield[documents]'")


def test_all_kinds_are_stored_and_found_with_page_and_metadata(tmp_path: Path, fill: Ingest, root: str) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    (folder / "a.html").write_text(PAGE)
    (folder / "b.pdf").write_bytes(pdf(PAGES, title="On animals"))
    (folder / "c.txt").write_bytes(TEXTS["Russian"][1].encode("cp1251"))
    result = fill(folder)
    assert (result.documents, result.skipped) == (3, ())
    with open_index("test", root) as index:
        assert index.search("lamp")[0].title == "The page"
        assert index.search("французских булок")[0].path.endswith("c.txt")
    store = Store(Path(root, "test"), "test")
    with store.reading() as snapshot:
        pages = [one.page for one in snapshot.passages(snapshot.matching({"kind": "pdf"}).tolist())]
        assert (pages[0], None in pages) == (1, False)
        assert snapshot.meant({"encoding": "cp1251"}) == [((folder / "c.txt").as_posix(), "")]
        assert snapshot.meant({"pages": 3, "title": "On animals"}) == [((folder / "b.pdf").as_posix(), "")]
    store.close()
    assert fill(folder).unchanged == 3


ROWS = [
    {"context": "Lions sleep.", "name": 1, "year": 1999},
    {"context": "Zebras stand.", "name": "z", "year": 2000},
    {"context": " ", "name": "empty", "year": 2000},
]


class Split(list[dict[str, object]]):
    """What a split of a data set shows of itself."""

    column_names = ["context", "name", "year"]
    _fingerprint = "f1"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for `datasets`, which needs a network, or a folder that it wrote."""
    module = ModuleType("datasets")

    def load_dataset(name: str, subset: str | None) -> Mapping[str, Split]:
        if name != "someone/animals":
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist\non the Hub")
        return {"train": Split(ROWS), "test": Split(ROWS[:1])}

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.load_from_disk = lambda folder: Split(ROWS)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def from_hub(root: str, path: str = "someone/animals", **dataset: str) -> IngestConfig:
    columns = DatasetConfig(**({"text": "context", "id": "name"} | dataset))  # type: ignore[arg-type]
    return IngestConfig(path=path, index="test", root=root, source="dataset", dataset=columns)


@pytest.mark.usefixtures("hub")
def test_rows_of_a_data_set_are_documents(root: str) -> None:
    result = ingest(from_hub(root))
    assert (result.added, result.documents) == (2, 2)
    assert [str(one) for one in result.skipped] == ["hub:someone/animals/train:3: 'text' is empty"]
    again = ingest(from_hub(root))
    assert (again.added, again.unchanged) == (0, 2)
    with open_index("test", root) as index:
        hit = index.search("zebras")[0]
        assert (hit.path, hit.key, hit.text) == ("hub:someone/animals/train", "z", "Zebras stand.")


@pytest.mark.usefixtures("hub")
def test_a_data_set_on_the_disk(root: str, tmp_path: Path) -> None:
    assert ingest(from_hub(root, str(tmp_path))).documents == 2


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"path": "someone/cars"}, "path: the data set 'someone/cars' cannot be had (Dataset 'someone/cars' doesn't"),
        ({"split": "tain"}, "dataset.split 'tain'. Did you mean 'train'? Known: test, train."),
        ({"text": "text"}, "dataset.text 'text'."),
    ],
)
def test_mistakes_about_data_sets_are_one_line(change: dict[str, str], line: str, root: str) -> None:
    with pytest.raises(DataError) as error:
        ingest(from_hub(root, **change))
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_data_set_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"Install what they need with: pip install 'farfield\[hf\]'$"):
        open_dataset("someone/animals", DatasetConfig())
