"""What `model=` names, opened: a Hugging Face folder from the command line, and mistakes with the nearest path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hf_models import save

from farfield import cli

GRID = ["suite.lengths=[512]", "suite.depths=2", "suite.samples=1"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_hugging_face_folder_is_evaluated(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By our layers, which cover the family, and by those of transformers: the answers are the same."""
    save(place / "models" / "tiny", "Llama", begin=True)
    for layers in ("farfield", "transformers"):
        assert cli.main(["evaluate", "model=models/tiny", f"hf.layers={layers}", f"name={layers}", *GRID]) == 0
    ours, lines = (
        [json.loads(line) for line in (place / f"results/{layers}/needle.jsonl").read_text().splitlines()]
        for layers in ("farfield", "transformers")
    )
    model = ours[0]["model"]
    assert (model["architecture"], model["dtype"], model["begin"]) == ("attention", "float32", 257)
    model = lines[0]["model"]
    assert (model["architecture"], model["precision"], model["added_tokens"]) == ("LlamaForCausalLM", "float32", 1)
    answers = [[one["answers"] for one in file if one["record"] == "cell"] for file in (ours, lines)]
    assert answers[0] == answers[1]
    assert model["capabilities"] == ["generate", "read", "score", "state"]
    cells = [line for line in lines if line["record"] == "cell" and line["condition"] == "full"]
    assert len(cells) == 2
    assert all(cell["state_bytes"] > 0 for cell in cells)
    skipped = {line["condition"] for line in lines if line["record"] == "skip"}
    assert skipped == {"memory_off", "memory_shuffled"}
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model=models/tniy"], "models/tniy: no such run or file. Did you mean 'models/tiny'?"),
        (
            ["model=127.0.0.1:8140/v1"],
            "127.0.0.1:8140/v1: no such run or file. An endpoint's address begins with http:// or https://.",
        ),
        (
            ["model=localhost:8000"],
            "localhost:8000: no such run or file. An endpoint's address begins with http:// or https://.",
        ),
        (
            ["model=http://localhost:1/v1", "hf.begin=always"],
            "hf.begin: always given, and http://localhost:1/v1 is an endpoint, no folder of Hugging Face. Take "
            "hf.begin=auto.",
        ),
        (
            ["model=http://localhost:1/v1", "hf.chat=true", "hf.system=Brief."],
            "hf.chat: true given, and http://localhost:1/v1 is an endpoint, no folder of Hugging Face. Take "
            "endpoint.chat=true.",
        ),
        (
            ["model=http://localhost:1/v1", "hf.ignore_unknown=true"],
            "hf.ignore_unknown: true given, and http://localhost:1/v1 is an endpoint, no folder of Hugging Face. Take "
            "hf.ignore_unknown=false.",
        ),
        (
            ["model=models/tiny", "hf.chat=true"],
            "hf.chat: true given, but the tokenizer has no chat template. Take hf.chat=false.",
        ),
        (
            ["model=models/tiny", "memory=none", "hf.layers=transformers"],
            "memory: memories go into our own layers, and models/tiny has none. Leave it out.",
        ),
        (
            ["model=models/tiny", "adapter_file=a.safetensors", "hf.layers=transformers"],
            "adapter_file: read by our own layers, and models/tiny has none. Leave it out.",
        ),
        (
            ["model=models/tiny", "adapter_file=a.safetensors"],
            "a.safetensors: no such file. An adapter is the adapter.safetensors of a run that was trained with "
            "adapter=lora.",
        ),
        (
            ["model=models/tiny", "device.accelerator=gpu"],
            "device.accelerator: gpu given, but PyTorch sees none. Take cpu or auto.",
        ),
    ],
)
def test_mistakes_are_one_line(words: list[str], line: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available() and "gpu" in words[-1]:
        pytest.skip("there is a GPU")
    save(place / "models" / "tiny", "Llama")
    capsys.readouterr()
    assert cli.main(["evaluate", *words, *GRID]) == 2
    assert capsys.readouterr().err == f"farfield: {line}\n"


@pytest.mark.parametrize("verb", [["evaluate", *GRID], ["query", "Who?"]])
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("hf.begin=never", "hf.begin: never given, and run is no folder of Hugging Face. Take hf.begin=auto."),
        ("hf.chat=true", "hf.chat: true given, and run is no folder of Hugging Face. Take hf.chat=false."),
        (
            "hf.layers=transformers",
            "hf.layers: transformers given, and run is no folder of Hugging Face. Take hf.layers=auto.",
        ),
    ],
)
def test_a_run_is_opened_as_no_folder(
    verb: list[str], words: str, line: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "run").mkdir()
    assert cli.main([*verb, "model=run", words]) == 2
    assert capsys.readouterr().err == f"farfield: {line}\n"


@pytest.mark.parametrize("verb", ["evaluate", "query"])
def test_a_turn_needs_a_template(verb: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = GRID if verb == "evaluate" else ["Who?"]
    assert cli.main([verb, *words, "model=run", "hf.system=Brief."]) == 2
    line = "hf.system: given, and no template that it would go into. Add hf.chat=true, or leave it out."
    assert capsys.readouterr().err == f"farfield: {line}\n"


def test_a_suite_that_asks_no_model_needs_none(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = place / "tiny"
    (folder / "qrels").mkdir(parents=True)
    documents = ["the ferry leaves at noon", "leave is signed by the head", "a garden behind the wall"]
    lines = [json.dumps({"_id": str(at), "title": "", "text": text}) for at, text in enumerate(documents)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "when does the ferry leave"}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0\t1\n")
    assert cli.main(["evaluate", "suite=retrieval", "suite.collections=[tiny]", "suite.methods=[lexical]"]) == 0
    lines = [json.loads(line) for line in (place / "results/retrieval/retrieval.jsonl").read_text().splitlines()]
    assert lines[0]["model"]["capabilities"] == []
    (measured,) = [line for line in lines if line["record"] == "measured"]
    assert measured["values"]["ndcg@10"] == 1
    capsys.readouterr()
