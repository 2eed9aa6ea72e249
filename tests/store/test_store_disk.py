"""The folder of a store: damage, kills, readers beside the writer, and budgets."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from stored import SEED, parts_of, read, read_all, same, text, write

from farfield.config import StoreError
from farfield.memory.store import DamagedError, Session, StateStore, StoreConfig, token_ids
from farfield.memory.store.files import serialised

NONE_IN_MEMORY = StoreConfig(memory=0)


def filled(folder: Path, numbers: int) -> list[Path]:
    """The files of states of so many texts, in their order."""
    files: list[Path] = []
    with StateStore(folder, NONE_IN_MEMORY) as store:
        for number in range(numbers):
            store.put(SEED, text(number), parts_of(text(number)))
            store.flush()
            files += [file for file in (folder / "states").iterdir() if file not in files]
    return files


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])


def foreign(file: Path) -> None:
    save_file({"0.position": torch.zeros(1)}, file, {"format": "1", "key": "another", "parts": '["", "", ""]'})


def gone(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, "cut short or damaged; prefill anew."),
        (empty, "cut short or damaged; prefill anew."),
        (flip, "damaged: its checksum does not fit; prefill anew."),
        (foreign, "the state of another model or text; prefill anew."),
        (gone, "no such file; prefill anew."),
    ],
)
@pytest.mark.parametrize("writing", [True, False])
def test_what_is_damaged_is_told_in_one_line_and_never_served(
    damage: object, told: str, writing: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(damage)
    files = filled(tmp_path, 2)
    with StateStore(tmp_path, NONE_IN_MEMORY, writing=writing) as store:
        damage(files[0])
        found = store.find(SEED, text(0))
        if found is not None:  # its head is whole, and what is damaged shows when it is read
            with pytest.raises(DamagedError) as error:
                read_all(found)
            store.reject(found.key, error.value)
        assert store.find(SEED, text(0)) is None
        assert [record.getMessage() for record in caplog.records] == [f"{files[0]}: {told}"]
        assert files[0].exists() == (not writing and damage is not gone)
        other = store.find(SEED, text(1))
        assert other is not None
        assert same(read_all(other), parts_of(text(1)))


@settings(max_examples=25)
@given(st.data())
def test_no_byte_of_a_file_can_be_changed_unnoticed(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        (file,) = filled(Path(place), 1)
        whole = file.read_bytes()
        at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
        with StateStore(Path(place), NONE_IN_MEMORY, writing=False) as store:
            found = store.find(SEED, text(0))
            with suppress(DamagedError):
                assert found is None or same(read_all(found), parts_of(text(0)))


def processes() -> ForkServerContext:
    """Of processes that are forked from a fresh one without threads, which imports once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["farfield.memory.store", "pytest"])
    return context


def confirmed(folder: Path, step: int | None, after: int = 0) -> tuple[list[int], bool]:
    """The numbers that a writer told to be on the disk before it was killed, and whether it came to its end."""
    context = processes()
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=write, args=(folder, step, theirs))
    process.start()
    theirs.close()
    numbers = []
    try:
        while True:
            said = mine.recv()
            if said == "done":
                return numbers, True
            numbers.append(said)
            if step is None and len(numbers) == after:
                time.sleep(random.Random(after).random() * 0.01)
                process.kill()
    except EOFError:
        return numbers, False
    finally:
        process.join()
        mine.close()


def check_after_kill(folder: Path, numbers: list[int]) -> None:
    """All that was told to be stored is served as it was, nothing else is left, and writing goes on."""
    newest = max((number for number in numbers if number % 3 == 0), default=None)
    with StateStore(folder, NONE_IN_MEMORY) as store:
        rows = {one.key for one in store._disk.catalogue.held()} if store._disk else set()
        assert {file.name for file in (folder / "states").iterdir()} == {f"{key}.safetensors" for key in rows}
        later = store.find(SEED, text(newest + 3)) if newest is not None else None
        for number in numbers:
            found = store.find(SEED, text(number))
            if number % 3 == 0 and number != newest:
                continue  # its session has gone on
            if number == newest and found is None:
                assert later is not None  # killed between what was stored and telling so
                continue
            assert found is not None, number
            assert same(read_all(found), parts_of(text(number)))
        store.put(SEED, text(999), parts_of(text(999)))
        store.flush()
        assert store.find(SEED, text(999)) is not None


def test_killed_at_every_file_that_is_opened_moved_or_removed_nothing_is_lost(tmp_path: Path) -> None:
    step = 0
    while True:
        folder = tmp_path / str(step)
        folder.mkdir()
        numbers, done = confirmed(folder, step)
        check_after_kill(folder, numbers)
        if done:
            break
        step += 1
    assert step > 12  # the lock, the index, and files opened and moved for four states


def test_killed_at_any_time_nothing_is_lost(tmp_path: Path) -> None:
    for after in range(1, 5):
        numbers, _ = confirmed(tmp_path, None, after)  # each goes on in the folder of the one before
        check_after_kill(tmp_path, numbers)


def test_readers_in_other_processes_see_whole_states_while_one_writes(tmp_path: Path) -> None:
    context, prompts = processes(), 12
    with StateStore(tmp_path, StoreConfig(memory=0, disk=20_000)) as store:
        pipes = [context.Pipe() for _ in range(2)]
        readers = [context.Process(target=read, args=(tmp_path, prompts, theirs)) for _, theirs in pipes]
        for reader in readers:
            reader.start()
        waiting = [mine for mine, _ in pipes]
        number = ready = 0
        after = 0
        while after < 30:  # states are stored and evicted until both readers have long been there
            store.put(SEED, text(number % prompts), parts_of(text(number % prompts)))
            number += 1
            ready += sum(mine.poll() and mine.recv() == "ready" for mine in waiting)
            after += ready == len(readers)
        store.flush()
        for mine in waiting:
            mine.send("stop")
        told = [mine.recv() for mine in waiting]
        for reader in readers:
            reader.join()
    assert [wrong for _, wrong in told] == [0, 0]
    assert all(found > 0 for found, _ in told)


@settings(max_examples=12)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 120)), max_size=6), st.integers(0, 6000))
def test_the_files_never_take_more_than_the_budget(puts: list[tuple[int, int]], budget: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with StateStore(folder, StoreConfig(memory=0, disk=budget)) as store:
            for number, length in puts:
                tokens = text(number, length)
                store.put(SEED, tokens, parts_of(tokens), session=f"session {number % 2}" if number < 3 else None)
                store.flush()
                sizes = [file.stat().st_size for file in (folder / "states").iterdir()]
                assert sum(sizes) == store.held["disk"] <= budget
                if store.find(SEED, tokens) is None:  # it alone is larger than the budget
                    assert len(serialised(32 * "0", parts_of(tokens))) > budget


def test_one_process_writes_a_folder_at_a_time(tmp_path: Path) -> None:
    with (
        StateStore(tmp_path),
        pytest.raises(StoreError, match=r"another process writes there\. Wait until it has ended, or take another"),
    ):
        StateStore(tmp_path)
    with StateStore(tmp_path), StateStore(tmp_path, writing=False) as reader:
        reader.put(SEED, text(0), parts_of(text(0)))  # kept in its own memory
        assert reader.held["memory"] > 0
    assert not list((tmp_path / "states").iterdir())


def test_what_is_no_store_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"index\.sqlite: no such file, so that there is nothing to read\."):
        StateStore(tmp_path / "nowhere", writing=False)
    filled(tmp_path, 1)
    (tmp_path / "index.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match=r"index\.sqlite: damaged or not writable: file is not a database\."):
        StateStore(tmp_path)


def test_a_session_is_on_record_without_its_state(tmp_path: Path) -> None:
    with StateStore(tmp_path, StoreConfig(disk=0)) as store:
        store.record(Session("alice", "m", "s", token_ids([1, 2, 3])))
    with StateStore(tmp_path, writing=False) as store:
        found = store.session("alice")
        assert found is not None
        assert (found.model, found.seed, found.tokens.tolist()) == ("m", "s", [1, 2, 3])
        assert store.sessions() == ["alice"]
        assert store.session("bob") is None


def test_an_error_of_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    store = StateStore(tmp_path, NONE_IN_MEMORY)
    monkeypatch.setattr("os.fsync", full)
    store.put(SEED, text(0), parts_of(text(0)))
    with pytest.raises(StoreError, match=r"cannot be written: No space left on device\."):
        store.flush()
    monkeypatch.undo()
    assert store.find(SEED, text(0)) is None
    store.close()
    assert not list((tmp_path / "states").iterdir())


def test_a_file_that_goes_while_it_is_opened_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that looked it up just before the writer evicted it reads anew."""

    def gone(*args: object, **kwargs: object) -> None:
        raise RuntimeError("unable to open file in read-only mode: No such file or directory (2)")

    with StateStore(tmp_path, StoreConfig(memory=0)) as store:
        store.put(SEED, text(1), parts_of(text(1)))
        store.flush()
        assert store.find(SEED, text(1)) is not None
        monkeypatch.setattr("farfield.memory.store.files.safe_open", gone)
        assert store.find(SEED, text(1)) is None
