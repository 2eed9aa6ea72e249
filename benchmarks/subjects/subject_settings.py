"""The settings of models that are not Farfield's own: an endpoint by URL, a Hugging Face model by its folder.

What names a model tells which kind it is:

    model=runs/retnet                    a run, or a checkpoint or weights file in one
    model=models/stories260k             a folder with a config.json of Hugging Face and no config.yaml of ours
    model=http://localhost:8000/v1       an endpoint that speaks as OpenAI's do
    model=null                           none, for suites that ask none
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from farfield.config import Config
from farfield.huggingface.settings import ChatConfig

__all__ = [
    "HUB_CONFIG",
    "RUN_CONFIG",
    "EndpointConfig",
    "HuggingFaceConfig",
    "ModelKind",
    "endpoint_mistake",
    "kind_of",
    "url_mistake",
    "url_name",
]

ModelKind = Literal["farfield", "huggingface", "endpoint"]

HUB_CONFIG, RUN_CONFIG = "config.json", "config.yaml"


class EndpointConfig(Config):
    """How an endpoint is spoken to.

    model:        the name that the endpoint knows the model by; null: the one that it serves, if it is one
    key:          the environment variable that holds the API key; null: no key is sent
    chat:         /chat/completions, with the model's own template, in the place of /completions
    tokenizer:    a folder with the model's tokenizer, to count tokens as the model does; null: a token is a byte
    body:         fields of a request in the place of ours or beside them; a null leaves one out: {temperature: null}
    extra_tokens: room for thoughts beyond what an answer may take; answers are cut to what is judged all the same
    logprobs:     likelihoods by `echo`, which few endpoints answer
    concurrency:  requests that are on their way at once
    timeout:      seconds until a request is given up
    retries:      how often a request is sent again that failed for a while: 429, 5xx, a timeout, a broken connection
    """

    model: Annotated[str, Field(min_length=1)] | None = None
    key: str | None = None
    chat: bool = False
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    body: dict[str, Any] = Field(default_factory=dict)
    extra_tokens: int = Field(0, ge=0)
    logprobs: bool = False
    concurrency: int = Field(4, ge=1, le=256)
    timeout: float = Field(300.0, gt=0)
    retries: int = Field(3, ge=0, le=100)

    @field_validator("key")
    @classmethod
    def _variable(cls, key: str | None) -> str | None:
        if key is not None and not re.fullmatch(r"[A-Za-z_]\w*", key):
            # What was given may be the key itself: it is not said again.
            raise ValueError("not a variable's name. Give the name of the environment variable that holds the API key.")
        return key

    @model_validator(mode="after")
    def _answerable(self) -> EndpointConfig:
        if self.chat and self.logprobs:
            raise ValueError(".logprobs: chat answers carry none of the prompt's. Set chat=false or logprobs=false.")
        return self


class HuggingFaceConfig(ChatConfig):
    """How a Hugging Face model is read, beside whose layers read it.

    The rest is of transformers' layers and tokenizers, which auto takes for a chat and for a name of the hub.

    chat:    data sets that were published without a template are asked as they were
    online:  names of the hub are allowed, and what is missing is fetched
    piece:   tokens that are prefilled in one call
    """

    online: bool = False
    piece: int = Field(2048, ge=1)

    @model_validator(mode="after")
    def _readable(self) -> HuggingFaceConfig:
        if self.chat and self.layers == "farfield":
            raise ValueError(".chat: true given; templates are transformers'. Set hf.layers=auto or transformers.")
        return self


def kind_of(model: str) -> ModelKind:
    """What kind of model a name stands for; a name of nothing is taken for a run's."""
    if re.match(r"https?:", model):
        return "endpoint"
    folder = Path(model).expanduser()
    hub = (folder / HUB_CONFIG).is_file() and not (folder / RUN_CONFIG).is_file()
    return "huggingface" if hub else "farfield"


def endpoint_mistake(url: str, hf: HuggingFaceConfig) -> str | None:
    """What is wrong with settings of a folder where an endpoint is asked, behind `hf`; None: nothing is set."""
    for key, usual in HuggingFaceConfig():
        given = getattr(hf, key)
        if given != usual:
            remedy = "endpoint.chat=true" if key == "chat" else f"hf.{key}={json.dumps(usual).strip(chr(34))}"
            value = json.dumps(given).strip('"')
            return f".{key}: {value} given, and {url} is an endpoint, no folder of Hugging Face. Take {remedy}."
    return None


def url_mistake(url: str) -> str | None:
    """What is wrong with the URL of an endpoint, as the end of a message that does not repeat it; None: nothing."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"not a URL: {error}."
    if not host:
        return "not a URL: it names no host. Write it as http://localhost:8000/v1."
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return "a URL with more than host and path. A key is given by the variable that endpoint.key names."
    return None


def url_name(url: str, model: str | None) -> str:
    """What the results of an endpoint are called: its model, else its host and port."""
    name = (model or urlsplit(url).netloc).replace("/", "-")
    return re.sub(r"[^\w.=+,-]+", "-", name).strip("-.") or "endpoint"
