"""Where prompts stand in a chat: as LongBench was published, and what tables say where a model cannot be asked so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoint_server import Answer, serving

from farfield.benchmarks.reports.tables import tables
from farfield.benchmarks.running.results import Result, read_result
from farfield.benchmarks.running.runner import evaluate
from farfield.benchmarks.subjects.endpoint import Client
from farfield.benchmarks.subjects.endpoint_subject import EndpointSubject
from farfield.benchmarks.subjects.subject import Subject
from farfield.benchmarks.subjects.subject_settings import EndpointConfig, HuggingFaceConfig
from farfield.benchmarks.suites.longdoc import LongdocSuite
from farfield.benchmarks.tasks.longdoc.longbench import LONGBENCH_V1, LONGBENCH_V2
from farfield.benchmarks.tasks.sample import Turn
from farfield.config import ConfigError, read
from farfield.tokenizers import BytesTokenizer

# As pred.py of LongBench has it.
UNWRAPPED = {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}


def asked_of(subject: Subject, folder: Path, readings: tuple[str, ...] = ()) -> Result:
    """What `subject` makes of a question about passages, and of one behind examples."""
    row = {"context": "The road goes by the lake. " * 8, "answers": ["here"], "all_classes": ["here", "there"]}
    for name, asked in (("hotpotqa", "Where is it?"), ("trec", "Question: Where is it?\nType:")):
        (folder / f"{name}.jsonl").write_text(json.dumps({**row, "input": asked}))
    given = {"source": str(folder), "lengths": [360], "samples": 1, "readings": list(readings)}
    return read_result(evaluate(read(LongdocSuite, given), subject, folder / "results").path)


def notes_of(result: Result) -> list[str]:
    return [note for table in tables([result], 0.856) for note in table.notes]


def test_data_sets_say_where_their_prompts_were_published_to_stand() -> None:
    for one in LONGBENCH_V1.data_sets:
        assert one.turn == ("none" if one.name.split("_e_")[0] in UNWRAPPED else "whole"), one.name
    assert {one.name for one in LONGBENCH_V1.data_sets} >= UNWRAPPED
    assert {one.turn for one in LONGBENCH_V2.data_sets} == {"whole"}


@pytest.mark.parametrize("chat", [True, False])
def test_longbench_is_asked_as_it_was_published(chat: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from hf_models import TEMPLATE, byte_tokenizer, tiny_model

    from farfield.benchmarks.subjects.hf_subject import HubSubject

    read_texts: dict[str, None] = {}

    class Recorded(HubSubject):
        def _prefilled(self, ids: Any, after: Any) -> Any:
            read_texts[self.tokenizer.backend.decode(ids[0].tolist())] = None
            return super()._prefilled(ids, after)

    backend = byte_tokenizer(template=TEMPLATE)
    result = asked_of(Recorded(tiny_model("Llama"), backend, "llama", HuggingFaceConfig(chat=chat)), tmp_path)
    first, second = read_texts
    # The template begins with begin-of-text, and the user's turn holds what the prompt ends in.
    before, behind = ("<begin>[user]", "[answer]") if chat else ("", "")
    assert first.startswith(f"{before}Read these passages.")
    assert first.endswith(f"Where is it?\nAnswer:{behind}")
    assert second.startswith("Go on in the manner of the examples.")
    assert second.endswith("Where is it?\nType:")
    said = "llama: asked without its chat template, as published: longbench_v1_trec."
    assert (said in notes_of(result)) == chat


def test_without_a_template_a_state_can_be_kept(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from hf_models import TEMPLATE, byte_tokenizer, tiny_model

    from farfield.benchmarks.subjects.hf_subject import HubSubject

    asked = HubSubject(tiny_model("Llama"), byte_tokenizer(template=TEMPLATE), "llama", HuggingFaceConfig(chat=True))
    result = asked_of(asked, tmp_path, ("remembered",))
    answered = {(cell.task, cell.condition) for cell in result.cells}
    assert ("longbench_v1_trec", "remembered") in answered
    assert ("longbench_v1_hotpotqa", "remembered") not in answered


def answering(route: str, body: Mapping[str, Any], count: int) -> Answer:
    return 200, {"choices": [{"message": {"content": "here"}, "text": "here"}], "usage": {"completion_tokens": 1}}


@pytest.mark.parametrize("chat", [True, False])
def test_a_table_says_what_an_endpoint_cannot_be_asked(chat: bool, tmp_path: Path) -> None:
    with serving(answering) as server:
        client = Client(server.url, EndpointConfig(chat=chat, timeout=5.0), sleep=lambda seconds: None)
        result = asked_of(EndpointSubject(client, "small", BytesTokenizer(), "small"), tmp_path)
    said = "small: asked in its chat template, and published without one (endpoint.chat=false): longbench_v1_trec."
    assert (said in notes_of(result)) == chat
    assert not [note for note in notes_of(result) if "begins" in note]


def test_a_table_says_that_an_endpoint_begins_no_answer(tmp_path: Path) -> None:
    from farfield.benchmarks.suites.needle import NeedleSuite

    suite = read(NeedleSuite, {"lengths": [512], "depths": 1, "samples": 1, "controls": []})
    with serving(answering) as server:
        for chat in (True, False):
            client = Client(server.url, EndpointConfig(chat=chat, timeout=5.0), sleep=lambda seconds: None)
            subject = EndpointSubject(client, "small", BytesTokenizer(), "small")
            result = read_result(evaluate(suite, subject, tmp_path / str(chat)).path)
            said = (
                "small: whole prompts stand in the user's turn; with hf.chat the beginning of an answer begins the "
                "assistant's."
            )
            assert (said in notes_of(result)) == chat


def test_a_chat_takes_the_turn_that_is_asked_for() -> None:
    pytest.importorskip("transformers")
    from hf_models import TEMPLATE, byte_tokenizer, tiny_model

    from farfield.benchmarks.subjects.hf_subject import HubSubject

    asked = HubSubject(tiny_model("Llama"), byte_tokenizer(template=TEMPLATE), "llama", HuggingFaceConfig(chat=True))
    plain = HubSubject(asked.model, byte_tokenizer(), "plain", HuggingFaceConfig())
    prompt = np.array([asked.tokenizer.encode("Text. Which one?\nAnswer:")])
    texts: dict[Turn, str] = {
        "begun": "<begin>[user]Text. Which one?\n[answer]Answer:",
        "whole": "<begin>[user]Text. Which one?\nAnswer:[answer]",
        "none": "Text. Which one?\nAnswer:",
    }
    for turn, text in texts.items():
        taken = asked.taking(turn)
        expected = plain.prefill(np.array([asked.tokenizer.special(text)]))
        assert taken.generate(taken.prefill(prompt), 9).ids == plain.generate(expected, 9).ids, turn
    assert asked.turn == "begun"
    assert plain.turns == frozenset()


@pytest.mark.parametrize(
    "template", ["{{ 1 // 0 }}", "{{ 1 + messages }}", "{{ raise_exception('no turn\nof mine') }}"]
)
def test_what_a_template_raises_is_one_line(template: str) -> None:
    pytest.importorskip("transformers")
    from hf_models import byte_tokenizer

    from farfield.benchmarks.subjects.hf_tokenizer import HubTokenizer, template_of

    with pytest.raises(ConfigError, match=r"^hf.chat: the tokenizer's template refuses the turns: .+\.$"):
        template_of(HubTokenizer(byte_tokenizer(template=template)), None, None)
