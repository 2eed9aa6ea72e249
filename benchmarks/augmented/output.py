"""What a datastore of the training texts is worth to a model, and what its automaton saves: kNN-LM and RetoMaton.

The datastore is built from the texts that the model was trained on. Weight, temperature and number of neighbours are
those with the fewest bits a token on the validation texts. The test texts are then read with weight 0, with those, with
a weight that was learned on the validation texts, and by the automaton, which saves searches. Bits a token, with the
standard error of the gain over documents; every token of a text but its first is predicted, in the windows by which the
datastore was made.

Shapes: n tokens, K neighbours, D width of a key.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from farfield.api import load
from farfield.benchmarks.memories.perplexity import train_model
from farfield.config import DataError
from farfield.data.store import open_store
from farfield.datastores import Windows, rows_of
from farfield.generation import TextModel
from farfield.knn import KnnLM
from farfield.memory.knn_lm import Found, log_mixture_of
from farfield.progress import Bar
from farfield.retrieval.automaton import Automaton, Steps
from farfield.tokenizers import FolderConfig

__all__ = ["Reading", "Row", "Task", "compare", "mixtures", "read", "tuned"]

WEIGHTS = tuple(round(0.02 * step, 2) for step in range(1, 31))
TEMPERATURES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.4)
FEW = (16, 64)
LEAST = (1, 16, 128, 1024)
AT_ONCE = 4096


@dataclass(frozen=True)
class Task:
    """A trained run, texts for its datastore, to tune on and to test on; sizes in tokens.

    `steps` of `batch` rows teach the learned weight, on the validation texts.
    """

    model: Path
    texts: Path
    validation: Path
    test: Path
    datastore: Path
    k: int = 256
    length: int = 8192
    steps: int = 100
    batch: int = 4
    seed: int = 0
    cache: Path = Path(".farfield/data")


@dataclass(frozen=True)
class Row:
    """A way of reading the test texts.

    Attributes:
        bits: a token. gain: against the model alone, in bits a token; error: its standard error over documents.
        saved: the share of searches that the automaton saved. measured: entries that were looked at by their keys.
        weight, temperature: None where they are learned. least: pointers that save a search; None: each token searches.
    """

    way: str
    k: int
    weight: float | None
    temperature: float | None
    least: int | None
    bits: float
    gain: float
    error: float
    saved: float
    measured: float
    tokens: int
    documents: int
    entries: int


@dataclass(frozen=True, eq=False)
class Reading:
    """What the model made of some texts: keys (n, D), tokens that came (n,), their log-probability (n,), documents."""

    keys: npt.NDArray[np.float32]
    targets: npt.NDArray[np.int64]
    own: Tensor
    documents: npt.NDArray[np.int64]


def compare(task: Task, out: Path) -> Iterator[Row]:
    """Builds what is not there yet, tunes on the validation texts, and reads the test texts in every way."""
    base = load(task.model, layers="farfield")
    settings = {"datastore": str(task.datastore), "texts": str(task.texts), "cache": str(task.cache), "k": task.k}
    knn = base.open_datastore({**settings, "weight": 0.0})
    held, tested = (_texts(base, path, task) for path in (task.validation, task.test))
    seen = read(knn, *held)
    found = search(knn, seen, "validation")
    k, weight, temperature = tuned(seen, found, task.k)
    reading = read(knn, *tested)
    found = search(knn, reading, "test")
    nothing = torch.zeros(len(reading.own))
    yield _row("model alone", knn, reading, reading.own, nothing, k=0, weight=0.0)
    for few in sorted({*FEW, k, task.k}):
        mixed = mixtures(reading, cut(found, few), weight, temperature)
        way = "fixed weight" if few == k else f"fixed weight, {few} neighbours"
        yield _row(way, knn, reading, mixed, nothing, k=few, weight=weight, temperature=temperature, measured=few)
    yield _learned(task, out, settings, reading, tested)
    for least in LEAST:
        yield _automaton(task, base, settings, reading, k, weight, temperature, least)


def read(knn: KnnLM, tokens: npt.NDArray[np.integer], offsets: npt.NDArray[np.int64], window: int) -> Reading:
    """Every token of documents but their first; document d has the tokens offsets[d] to offsets[d + 1]."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    documents: list[npt.NDArray[np.int64]] = []
    with torch.no_grad(), Bar("read", total=int(offsets[-1] - offsets[0]), unit="tokens") as bar:
        for group in Windows(window, window // 2).batches(offsets, 16):
            ids, positions, targets = rows_of(tokens, group)
            hidden, keys, _ = knn.keyed(ids, positions=positions)
            for row, one in enumerate(group):
                own = slice(one.seen, one.length)
                logits = knn.model.head(hidden[row, own]).float().log_softmax(-1)
                target = targets[row, own]
                chosen = logits.gather(1, target[:, None])[:, 0]
                parts.append((keys[row, own].float(), target, chosen))
                documents.append(np.full(len(target), one.document))
                bar.step(len(target))
    found, target, chosen = (torch.cat([part[place] for part in parts]) for place in range(3))
    return Reading(found.numpy(), target.numpy(), chosen, np.concatenate(documents))


def search(knn: KnnLM, reading: Reading, title: str) -> Found:
    """The neighbours of every key."""
    parts = []
    with Bar(f"search, {title}", total=len(reading.keys), unit="tokens") as bar:
        for first in range(0, len(reading.keys), AT_ONCE):
            parts.append(knn.tensors(knn.store.search(reading.keys[first : first + AT_ONCE], knn.config.k)))
            bar.step(len(parts[-1].values))
    return Found(torch.cat([part.values for part in parts]), torch.cat([part.distances for part in parts]))


def cut(found: Found, k: int) -> Found:
    """The first `k` of each."""
    return Found(found.values[:, :k], found.distances[:, :k])


def mixtures(reading: Reading, found: Found, weight: float, temperature: float) -> Tensor:
    """(n,) the log-probability of each token."""
    targets = torch.from_numpy(reading.targets)
    return log_mixture_of(reading.own, targets, found, temperature, torch.tensor(weight))


def tuned(reading: Reading, found: Found, most: int) -> tuple[int, float, float]:
    """The number of neighbours, weight and temperature with the highest log-probability."""
    tried = {
        (k, weight, temperature): float(mixtures(reading, cut(found, k), weight, temperature).mean())
        for k, weight, temperature in itertools.product(sorted({*FEW, most}), WEIGHTS, TEMPERATURES)
    }
    return max(tried, key=lambda one: tried[one])


def _learned(
    task: Task,
    out: Path,
    settings: dict[str, object],
    reading: Reading,
    tested: tuple[npt.NDArray[np.integer], npt.NDArray[np.int64], int],
) -> Row:
    """With a weight that is learned on the validation texts."""
    length = tested[2]
    words = [
        "data=text",
        f"data.path={_quoted(task.validation)}",
        "data.tokenizer.kind=folder",
        f"+data.tokenizer.path={_quoted(task.model / 'tokenizer')}",
        f"data.cache={_quoted(task.cache)}",
        f"data.length={length}",
        "augmentation=output",
        *(f"augmentation.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()),
        f"start={_quoted(task.model)}",
        f"training.steps={task.steps}",
        f"training.batch={task.batch}",
        "training.optimizer.learning_rate=3e-3",
        f"seed={task.seed}",
    ]
    begun = load(task.model).info["config"]
    trained = train_model(words, out, "learned", {key: begun[key] for key in ("architecture", "memory")})
    knn = trained.open_datastore()
    parts = []
    with torch.no_grad(), Bar("learned weight", total=len(reading.keys), unit="tokens") as bar:
        for group in Windows(tested[2], tested[2] // 2).batches(tested[1], 16):
            ids, positions, targets = rows_of(tested[0], group)
            hidden, keys, _ = knn.keyed(ids, positions=positions)
            for row, one in enumerate(group):
                own = slice(one.seen, one.length)
                found, logits = knn.search(keys[row, own]), knn.model.head(hidden[row, own])
                parts.append(knn.log_probs_of(logits, targets[row, own], keys[row, own], found))
                bar.step(len(parts[-1]))
    mixed = torch.cat(parts)
    return _row("learned weight", knn, reading, mixed, torch.zeros(len(mixed)), k=task.k, measured=task.k)


def _automaton(
    task: Task,
    base: TextModel,
    settings: dict[str, object],
    reading: Reading,
    k: int,
    weight: float,
    temperature: float,
    least: int,
) -> Row:
    """The fixed weight, with pointers that save searches where there are `least` of them."""
    knn = base.open_datastore({**settings, "weight": weight, "temperature": temperature, "least": least})
    assert knn.automaton is not None
    mixed, saved, measured = stepped(knn, knn.automaton, reading, k)
    row = _row("automaton", knn, reading, mixed, saved, k=k, weight=weight, temperature=temperature, measured=measured)
    return replace(row, least=least)


def stepped(knn: KnnLM, automaton: Automaton, reading: Reading, k: int) -> tuple[Tensor, Tensor, float]:
    """The log-probability of each token (n,), whether its search was saved (n,), and the entries measured a token.

    Documents go on side by side, token by token, as in generation.
    """
    places = [np.flatnonzero(reading.documents == one) for one in np.unique(reading.documents)]
    mixed, saved, measured = torch.zeros(len(reading.own)), torch.zeros(len(reading.own)), 0
    places.sort(key=len, reverse=True)
    steps = Steps(automaton, len(places), k)
    longest = len(places[0])
    weight, temperature = knn.config.weight, knn.config.temperature
    assert isinstance(weight, float)
    with Bar("automaton", total=len(reading.own), unit="tokens") as bar:
        for step in range(longest):
            going = [own[step] for own in places if step < len(own)]
            steps.select(range(len(going)))  # the longest stand first
            found = knn.tensors(steps.read(reading.keys[going]))
            targets = torch.from_numpy(reading.targets[going])
            mixed[going] = log_mixture_of(reading.own[going], targets, found, temperature, torch.tensor(weight))
            saved[going] = torch.tensor([float(not one) for one in steps.searched])
            measured += int((found.values >= 0).sum())
            steps.came(reading.targets[going].tolist())
            bar.step(len(going))
    return mixed, saved, measured / len(reading.own)


def _row(
    way: str,
    knn: KnnLM,
    reading: Reading,
    mixed: Tensor,
    saved: Tensor,
    k: int,
    weight: float | None = None,
    temperature: float | None = None,
    measured: float = 0,
) -> Row:
    """A row of log-probabilities (n,) against the model's own."""
    gains = ((mixed - reading.own) / math.log(2)).double()
    documents = np.unique(reading.documents)
    each = [float(gains[reading.documents == one].mean()) for one in documents]
    spread = math.sqrt(sum((one - sum(each) / len(each)) ** 2 for one in each) / max(1, len(each) - 1))
    return Row(
        way=way,
        k=k,
        weight=weight,
        temperature=temperature,
        least=None,
        bits=float(-mixed.double().mean()) / math.log(2),
        gain=float(gains.mean()),
        error=spread / math.sqrt(len(each)),
        saved=float(saved.mean()),
        measured=float(measured),
        tokens=len(mixed),
        documents=len(each),
        entries=len(knn.store),
    )


def _texts(model: TextModel, path: Path, task: Task) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.int64], int]:
    """The first tokens of each text, where each begins, and what is read at once."""
    store = open_store(path, FolderConfig(path=str(task.model / "tokenizer")), task.cache)
    parts = [store.document(one)[: task.length] for one in range(store.facts.documents)]
    parts = [part for part in parts if len(part) > 1]
    if not parts:
        raise DataError(f"{path}: holds no text.")
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    length = model.info["config"].get("data", {}).get("length")
    if not isinstance(length, int):
        raise DataError(f"{task.model}: was not trained on texts.")
    return np.concatenate(parts), offsets, length


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)
