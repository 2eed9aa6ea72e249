"""States of no model, whose content follows from the tokens they have read; processes that write and read them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from farfield.memory.store import Found, Part, StateStore, StoreConfig

SEED = "model"


def parts_of(tokens: Sequence[int]) -> list[Part]:
    """Three parts, of four numbers a token each."""
    ids = torch.tensor(list(tokens), dtype=torch.float32)
    return [
        {"position": torch.tensor([len(tokens)])},
        *({"kept": ids[:, None] * layer + torch.arange(4)} for layer in (1, 2)),
    ]


def size_of(tokens: Sequence[int]) -> int:
    """Bytes of `parts_of`."""
    return 8 + 2 * 16 * len(tokens)


def read_all(found: Found) -> list[Part]:
    return [found.part(index) for index in range(found.parts)]


def same(first: Sequence[Part], second: Sequence[Part]) -> bool:
    return len(first) == len(second) and all(
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in zip(first, second, strict=True)
    )


def text(number: int, length: int = 100) -> list[int]:
    """Tokens that no other number begins with."""
    return [1000 + number, *range(length - 1)]


def killed_at(step: int, folder: Path) -> None:
    """Kills this process at the `step`-th time that it opens, moves or removes a file in `folder`; prints none."""
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.remove", "sqlite3.connect") and str(folder) in str(arguments[0]):
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(watch)


def write(folder: Path, step: int | None, said: Connection) -> None:
    """Stores states one after another, and tells the number of each that is on the disk; to be killed meanwhile.

    Every third one is of one session, and takes the place of the one before.
    """
    if step is not None:
        killed_at(step, folder)
    with StateStore(folder, StoreConfig(memory=0)) as store:
        for number in range(4 if step is not None else 10**6):
            tokens = text(number)
            store.put(SEED, tokens, parts_of(tokens), session="talk" if number % 3 == 0 else None)
            store.flush()
            said.send(number)
    said.send("done")


def read(folder: Path, prompts: int, said: Connection) -> None:
    """Finds states at random until told to stop; tells how many were found, and how many were not as stored."""
    found = wrong = 0
    generator = torch.Generator().manual_seed(os.getpid())
    with StateStore(folder, StoreConfig(memory=0), writing=False) as store:
        said.send("ready")
        while not said.poll():
            tokens = text(int(torch.randint(prompts, (), generator=generator)))
            hit = store.find(SEED, tokens)
            if hit is not None:
                found += 1
                wrong += not guarded(lambda hit=hit, tokens=tokens: same(read_all(hit), parts_of(tokens)))
    said.send((found, wrong))


def guarded(check: Callable[[], bool]) -> bool:
    """A state that is found damaged is a miss: what counts is what is served."""
    from farfield.memory.store import DamagedError

    try:
        return check()
    except DamagedError:
        return True
