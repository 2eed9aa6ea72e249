"""How a folder of Hugging Face is opened."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from farfield.config import Config

__all__ = ["ChatConfig", "FolderConfig", "OwnFolderConfig"]


class OwnFolderConfig(Config):
    """How our layers read a folder, and what stands before a text.

    begin:          the begin-of-text token before each prompt, once; auto: where the tokenizer itself puts it
    ignore_unknown: leave out tensors that the model does not have, in the place of refusing them
    """

    begin: Literal["auto", "always", "never"] = "auto"
    ignore_unknown: bool = Field(False, description="leave out tensors that the model does not have")


class FolderConfig(OwnFolderConfig):
    """Whose layers read a folder, and how.

    layers: farfield: ours; transformers: its own; auto: ours where they have family and settings, else its own
    """

    layers: Literal["auto", "farfield", "transformers"] = "auto"


class ChatConfig(FolderConfig):
    """How a folder is opened and asked.

    chat:   prompts go into the template of the tokenizer, as a user's turn; what the question ends in is the beginning
            of the answer
    system: a system's turn before it; null: none
    """

    chat: bool = False
    system: str | None = None

    @model_validator(mode="after")
    def _read(self) -> ChatConfig:
        if self.system is not None and not self.chat:
            raise ValueError(
                ".system: given, and no template that it would go into. Add hf.chat=true, or leave it out."
            )
        return self
