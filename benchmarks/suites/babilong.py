"""The suite `babilong`.

farfield evaluate suite=babilong suite.facts=data/babi suite.haystack=data/books 'suite.tasks=[qa1,qa2]'
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from farfield.benchmarks.suites.suite import AskedSuite, Lengths, Several, chosen
from farfield.benchmarks.tasks.babilong.prompts import texts_of
from farfield.benchmarks.tasks.babilong.stories import LABELS, Story, find_stories, read_stories
from farfield.benchmarks.tasks.babilong.task import BabilongTask, Drawn, Stored, StoryIds, noise_ids
from farfield.benchmarks.tasks.babilong.world import WORLDS
from farfield.benchmarks.tasks.haystack import Haystack, load_haystack
from farfield.benchmarks.tasks.sample import Split, Task, Tokenizer
from farfield.benchmarks.tasks.wording_file import Wording
from farfield.config import ConfigError, DataError

__all__ = ["BabilongSuite"]

Share = Annotated[float, pydantic.Field(ge=0, le=1)]
# BABILong's samples are of bAbI's files for training; those for testing are what is left for training.
KINDS: dict[Split, str] = {"test": "train", "train": "test"}
IN_IDS = {"introduction": "", "question": "{question}"}


class BabilongSuite(AskedSuite):
    """BABILong: facts of bAbI's tasks in other text, one or several of which answer a question."""

    model_config = pydantic.ConfigDict(serialize_by_alias=True)

    kind: Literal["babilong"] = "babilong"
    # qa1 to qa20; none: all of which there are stories. (`tasks` names a method.)
    named: Several[str] = pydantic.Field((), alias="tasks")
    lengths: Lengths = (1024, 2048, 4096)
    # A folder with bAbI's files, qa1_..._train.txt; None: stories of our own, of six tasks.
    facts: str | None = None
    # noise, or a text file or a folder of them, read again from the start if `repeat`.
    haystack: str = "noise"
    repeat: bool = False
    # The share of the text before the first fact that can be, and before the last.
    window: tuple[Share, Share] = (0.0, 1.0)
    examples: bool = True

    @pydantic.field_validator("window")
    @classmethod
    def _rises(cls, window: tuple[float, float]) -> tuple[float, float]:
        if window[0] > window[1]:
            raise ValueError(f"{list(window)} given. Give where it begins and where it ends, from 0 to 1.")
        return window

    @pydantic.field_validator("named")
    @classmethod
    def _known(cls, named: tuple[str, ...]) -> tuple[str, ...]:
        chosen("babilong", named, tuple(LABELS))
        return named

    def notes(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        drawn = ("Stories of our own, where BABILong's are bAbI's (suite.facts=<folder>): not comparable with it.",)
        noise = (
            "Noise of our own, where BABILong's text is of books (suite.haystack=<text>): not comparable with it.",
        )
        told = (*(drawn if self.facts is None else ()), *(noise if self.haystack == "noise" else ()))
        if self.scoring == "likelihood" or not self._counts():
            return told
        return (*told, "qa7: none is right where it is the answer, where the published rule finds one in it, too.")

    def _counts(self) -> bool:
        """Whether qa7 is asked."""
        if self.named:
            return "qa7" in self.named
        return self.facts is None or find_stories(Path(self.facts).expanduser(), "qa7", KINDS[self.split]) is not None

    def tasks(self, tokenizer: Tokenizer) -> Sequence[Task]:
        stories = self._stories()
        if tokenizer.kind == "ids":
            return self._in_ids(stories, StoryIds(tokenizer.vocabulary))
        haystack = load_haystack(self.haystack, tokenizer, self.repeat)
        texts = {name: texts_of(name, self.examples) for name in LABELS}
        return [
            self._task(name, of, tokenizer, haystack, Wording.of(name, texts[name], self.wording, tuple(LABELS)))
            for name, of in stories.items()
        ]

    def _in_ids(self, stories: dict[str, Stored | Drawn], tokenizer: StoryIds) -> Sequence[Task]:
        given = {"facts": self.facts, "wording": self.wording, "haystack": None if self.haystack == "noise" else "text"}
        for name, value in given.items():
            if value is not None:
                raise ConfigError(f"suite.{name}: text, and a model of the ids tokenizer reads none. Leave it out.")
        noise, wording = noise_ids(tokenizer), Wording(IN_IDS)
        return [self._task(name, of, tokenizer, noise, wording) for name, of in stories.items()]

    def _task(
        self, name: str, stories: Stored | Drawn, tokenizer: Tokenizer, haystack: Haystack, wording: Wording
    ) -> BabilongTask:
        return BabilongTask(name, stories, tokenizer, haystack, wording, self.window)

    def _stories(self) -> dict[str, Stored | Drawn]:
        """By task, its stories.

        Raises:
            ConfigError: a task is named that has none without files.
            DataError: a file is missing, or has another schema.
        """
        if self.facts is None:
            missing = [name for name in self.named if name not in WORLDS]
            if missing:
                raise ConfigError(
                    f"suite.tasks: {missing[0]} has no stories of our own; {', '.join(WORLDS)} have. "
                    "Give suite.facts=<a folder with bAbI's files>."
                )
            return {name: Drawn() for name in WORLDS if name in self.named or not self.named}
        folder = Path(self.facts).expanduser()
        if not folder.is_dir():
            raise DataError(f"suite.facts: '{self.facts}' is no folder.")
        kind = KINDS[self.split]
        files = {name: find_stories(folder, name, kind) for name in LABELS if name in self.named or not self.named}
        found = {name: file for name, file in files.items() if file is not None}
        lacking = [name for name in files if name not in found] if self.named else []
        if lacking or not found:
            name = (lacking or list(files))[0]
            raise DataError(f"suite.facts: {folder} has no file {name}_..._{kind}.txt.")
        return {name: Stored(self.split, self._splits(folder, name)) for name in found}

    def _splits(self, folder: Path, name: str) -> dict[Split, Sequence[Story]]:
        """The stories of a task, of each split that has a file: one to be asked, one to train on."""
        files = {split: find_stories(folder, name, kind) for split, kind in KINDS.items()}
        return {split: read_stories(file) for split, file in files.items() if file is not None}
