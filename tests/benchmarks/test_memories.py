"""What memories are worth: the arithmetic of readings, small runs from end to end, and what cannot be compared."""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from farfield.benchmarks.memories import cost, perplexity, recall
from farfield.benchmarks.memories.__main__ import main
from farfield.benchmarks.memories.perplexity import Read, bits, buckets, documents_of
from farfield.benchmarks.memories.plan import WHOLE, chosen, memory_of, variants
from farfield.benchmarks.memories.recall import Found
from farfield.benchmarks.memories.results import joined, write_rows
from farfield.compose import group_options
from farfield.config import ConfigError, DataError, read
from farfield.model import LanguageModel, ModelConfig
from farfield.tokenizers import BytesTokenizer


def model_of(memory: dict[str, Any] | None = None) -> LanguageModel:
    torch.manual_seed(0)
    layer = {"mixer": {"kind": "longformer", "heads": 2, "window": 7, "globals": 0}}
    architecture = {"width": 16, "depth": 1, "pattern": ["layer"], "layers": {"layer": layer}}
    mapping = {"architecture": architecture, "memory": memory, "vocabulary": 257}
    return LanguageModel(read(ModelConfig, mapping)).eval()


def test_bits_are_those_of_one_pass_over_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, with the state kept: in each bucket the mean cross entropy of the logits of one call, in bits."""
    model, tokens = model_of(), torch.randint(257, (2, 301))
    monkeypatch.setattr(perplexity, "PIECE", 37)
    edges = buckets(7, 300)
    assert edges == (0, 8, 16, 32, 64, 128, 256, 300)
    found = bits(model, tokens, edges)
    with torch.no_grad():
        logits, _ = model(tokens[:, :-1])
    nll = -logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0] / math.log(2)
    for row in range(2):
        expected = [float(nll[row, low:high].mean()) for low, high in itertools.pairwise(edges)]
        assert found[row] == pytest.approx(expected, abs=1e-5)


def test_gains_are_differences_of_the_same_documents() -> None:
    edges = (0, 10, 40)
    control = Read("none", "none", None, False, 0, edges, ((5.0, 4.0), (3.0, 2.0), (1.0, 1.0)))
    other = Read("knn", "knn", 9, False, 0, edges, ((5.0, 3.0), (3.0, 1.0), (1.0, 0.0)))
    assert other.mean() == pytest.approx(((50 + 90) / 40 + (30 + 30) / 40 + 10 / 40) / 3)
    assert other.gains(control) == pytest.approx([0.0, 1.0])
    assert other.gain(control, first=1) == pytest.approx((1.0, 0.0))
    mean, error = control.gain(Read("", "", None, False, 0, edges, ((6.0, 5.0), (3.0, 2.0), (1.0, 1.0))))
    assert mean == pytest.approx(1 / 3)
    assert error == pytest.approx(1 / 3)


def write_books(folder: Path, count: int, words: int, seed: int) -> Path:
    draw = random.Random(seed)
    folder.mkdir()
    for number in range(count):
        names = [f"{draw.choice('BCDFGKLM')}{draw.choice('aeiou')}{draw.choice('nrstl')}" for _ in range(4)]
        text = [draw.choice([*names, "stone", "river", "lamp"]) for _ in range(words)]
        (folder / f"{number}.txt").write_text(" ".join(text))
    return folder


def test_documents_are_read_from_their_beginning(tmp_path: Path) -> None:
    folder = write_books(tmp_path / "books", 3, 100, 1)
    (folder / "short.txt").write_text("too short")
    found = documents_of(folder, BytesTokenizer(), 120)
    assert found.shape == (3, 121)
    assert bytes(found[1].tolist()).decode() == (folder / "1.txt").read_text()[:121]
    with pytest.raises(DataError, match=r"no text of more than 9,000 tokens in it\. Take a shorter --length\.$"):
        documents_of(folder, BytesTokenizer(), 9000)


def test_every_memory_of_the_group_fits_a_window() -> None:
    """At each size, with settings that are read and that a model with such a window takes."""
    assert set(chosen([])) == set(group_options("memory")) - {"none"}
    for name in chosen([]):
        for variant in variants(name, [128, 2048], 63):
            memory = memory_of(variant)
            windows = {"mixer": {"kind": "longformer", "window": 63, "globals": 0}}
            layer = {"mixer": {"kind": "attention"}} if name in WHOLE else windows
            architecture = {"width": 64, "depth": 2, "pattern": ["layer"], "layers": {"layer": layer}}
            mapping = {"architecture": architecture, "memory": memory.mapping(), "vocabulary": 257}
            config = read(ModelConfig, mapping)
            assert config.memory_from() <= 257
            assert LanguageModel(config).start(1).bytes == config.state_bytes(0)
    with pytest.raises(ConfigError, match=r"^--memories: unknown memory 'knnn'\. Did you mean 'knn'\?"):
        chosen(["knnn"])


def test_perplexity_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, put on, trained with; a second call trains nothing and says the same."""
    books, documents = (write_books(tmp_path / name, 3, 400, seed) for seed, name in enumerate(("books", "held")))
    words = ["perplexity", "--books", str(books), "--documents", str(documents), "--memories", "knn", "--sizes", "16"]
    words += ["64", "--window", "7", "--length", "200", "--steps", "3", "--more", "2", "--threads", "1"]
    words += ["--width", "32", "--vocabulary", "300", "--row", "32", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "knn 64, trained" in said
    told = json.loads((tmp_path / "out/perplexity.json").read_text())
    rows = told["rows"]
    assert [row["label"] for row in rows] == [
        *("none", "knn 16", "knn 64"),
        *("none, trained", "knn 16, trained", "knn 64, trained"),
    ]
    assert all(len(row["bits"]) == 3 and len(row["bits"][0]) == len(rows[0]["edges"]) - 1 for row in rows)
    assert rows[1]["bits"] != rows[0]["bits"]
    assert rows[3]["bits"] != rows[0]["bits"]
    assert (tmp_path / "out/perplexity.png").stat().st_size > 1000
    logged = (tmp_path / "out/perplexity/none/metrics.csv").stat().st_mtime_ns
    assert main(words) == 0
    assert (tmp_path / "out/perplexity/none/metrics.csv").stat().st_mtime_ns == logged
    assert json.loads((tmp_path / "out/perplexity.json").read_text())["rows"] == rows


def test_recall_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "TIMES", (1, 2))
    task = recall.Task(("knn",), window=31, sizes=(32,), steps=2, width=32, depth=1, batch=2, samples=2)
    found = list(recall.compare(task, tmp_path))
    assert [one.label for one in found] == ["none", "knn 32"]
    for one in found:
        assert one.rates.keys() == {"needle", "recall"}
        assert all(rate is not None and 0 <= rate <= 1 for rates in one.rates.values() for rate in rates.values())


def test_settings_can_be_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory around full attention is put on a model that was trained without, once for all of its settings."""
    monkeypatch.setattr(recall, "TIMES", (1, 2))
    words = ["recall", "--memories", "camelot", "--sizes", "16", "--window", "15", "--steps", "2", "--width", "32"]
    words += ["--depth", "1", "--batch", "2", "--samples", "2", "--out", str(tmp_path)]
    for threshold in ("0.5", "0.9"):
        assert main([*words, "--set", f"threshold={threshold}", "--json", str(tmp_path / f"{threshold}.json")]) == 0
        rows = json.loads((tmp_path / f"{threshold}.json").read_text())["rows"]
        assert [row["label"] for row in rows] == ["none", f"camelot 16 threshold={threshold}"]
    assert sorted(path.name for path in (tmp_path / "recall/runs").iterdir()) == ["attention", "none"]


def test_results_of_several_processes_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The control that both have once, what was trained last; nothing that differs, nothing of another comparison."""
    rows = [
        Read(name, name.split(",")[0], size, "trained" in name, 8, (0, 10, 40), ((bits, 4.0), (3.0, 2.0)))
        for name, size, bits in [("none", None, 5.0), ("none, trained", None, 4.5), ("knn 9", 9, 4.0), ("xl 9", 9, 3.0)]
    ]
    task = recall.Task(())
    files = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for file, kept in zip(files, (rows[:3], [*rows[:2], rows[3]], [replace(rows[0], state_bytes=9)]), strict=True):
        write_rows(file, task, kept)
    assert joined(files[:2]) == [rows[0], rows[2], rows[3], rows[1]]
    assert main(["show", *map(str, files[:2])]) == 0
    assert "perplexity-joined.png" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "perplexity-joined.json").read_text())["parts"]) == 2
    assert joined([tmp_path / "perplexity-joined.json"]) == joined(files[:2])
    found = Found("none", "none", None, 5, {"needle": {1: 0.5, 4: None}, "recall": {1: 1.0, 4: 0.0}})
    write_rows(tmp_path / "recall.json", task, [found])
    assert joined([tmp_path / "recall.json"]) == [found]
    (tmp_path / "no.json").write_text("{}")
    (tmp_path / "odd.json").write_text('{"rows": [1]}')
    for wrong, message in (
        (files[::2], f"{files[2]}: has another figure for none than a file before it. Join one of them."),
        ([files[0], tmp_path / "recall.json"], "files of one comparison can be joined; "),
        ([tmp_path / "no.json"], f"{tmp_path}/no.json: has no rows."),
        ([tmp_path / "absent.json"], f"{tmp_path}/absent.json: cannot be read: "),
        ([tmp_path / "odd.json"], f"{tmp_path}/odd.json: has rows of no comparison of memories."),
    ):
        assert main(["show", *map(str, wrong)]) == 2
        assert capsys.readouterr().err.startswith(f"farfield: {message}")


def test_cost_counts_what_a_token_moves(tmp_path: Path) -> None:
    """A larger bank is read further; no call writes as much as a bank holds."""
    small, large = cost.compare(cost.Task(("knn",), sizes=(256, 4096), width=64, window=15, repeats=1))
    assert 3 * small.read < large.read
    assert large.written < large.state / 2
    assert large.state > 10 * small.state
    assert min(large.decode, large.prefill, large.plain_decode, large.plain_prefill) > 0


@pytest.mark.parametrize("name", chosen([]))
def test_no_memory_copies_its_bank_for_a_token(name: str) -> None:
    """Of what a larger bank holds more, a decoded token writes less than a half more: keys alone would be a half."""
    found = []
    for size in (256, 1024):
        counted, state = cost.moved(variants(name, [size], 63)[0], size, cost.Task((name,), width=128))
        found.append((counted.written / cost.DECODED, state))
    (few, small), (many, large) = found
    assert many - few <= (large - small) / 2.5 + 0.05 * few


def test_the_search_is_timed_beside_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "--sizes", "128", "256", "--repeats", "1", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "product and top-k" in capsys.readouterr().out
    rows = json.loads((tmp_path / "search.json").read_text())["rows"]
    assert [row["size"] for row in rows] == ([128] * 4 + [256] * 4) * 3
    assert [row["layout"] for row in rows] == ["alone"] * 8 + ["window"] * 8 + ["ragged"] * 8
    assert all(row["seconds"] > 0 and row["plain"] > 0 for row in rows)
    assert (tmp_path / "search.png").stat().st_size > 1000


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--memories", "kn"]) == 2
    assert capsys.readouterr().err.startswith("farfield: --memories: unknown memory 'kn'. Did you mean 'knn'?")
    knn = ["--memories", "knn"]
    for words, message in (
        (["search", "--sizes", "16"], "--sizes: 16 tokens given, and the best 32 are to be found. At least 32."),
        (["search", "--repeats", "0"], "--repeats: 0 given. At least 1."),
        (["cost", "--memories", "xl", "--sizes", "-5"], "--sizes: -5 given. At least 1."),
        (["recall", *knn, "--set", "top"], "--set: 'top' given, KEY=VALUE is needed."),
        (["recall", *knn, "--set", "capacity=5"], "--set: capacity is set by the comparison. Use --sizes or --window."),
        (["recall", *knn, "--set", "topp=3"], "--set: unknown setting of memory 'knn' 'topp'. Did you"),
        (["recall", "--memories", "landmark", "--sizes", "70"], "landmark 70: memory.capacity: 70 is no multiple of"),
        (["cost", "--memories", "landmark", "--sizes", "70"], "landmark 70: memory.capacity: 70 is no multiple of"),
    ):
        assert main([*words, "--out", str(tmp_path / "untouched")]) == 2
        assert capsys.readouterr().err.startswith(f"farfield: {message}")
    assert not (tmp_path / "untouched").exists()
    words = ["perplexity", *knn, "--books", str(tmp_path / "no"), "--documents", str(tmp_path), "--out", str(tmp_path)]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"farfield: data.path: '{tmp_path}/no' does not exist.")
