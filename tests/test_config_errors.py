"""Golden: each mistake in a setting is one line on standard error and status 2, with these words."""

from __future__ import annotations

from pathlib import Path

import pytest

from farfield import cli, usage
from farfield.architectures import KeyedSettings, mixer_kinds
from farfield.config import FarfieldError, nearest, printable

TRAIN = ["train", "data=needle"]
KEYED = ", ".join(kind for kind, settings in mixer_kinds().items() if issubclass(settings, KeyedSettings))
ARCHITECTURES = ", ".join(usage.options("architecture"))
KNOWN = (
    "adapter, architecture, augmentation, context, data, memory, name, objective, resume, root, seed, size, start, "
    "training"
)
KNOWN_TO_QUERY = (
    "Known: adapter_file, augmentation, bank, context, device, document, documents, explain, generation, hf, index, "
    "memory, model, neighbours, prompt, question, retrieval, root, session, sessions, store, where. "
    "A question with '=' in it is given as question='...'."
)
MIXER = "architecture.layers.attention.mixer"
DUAL_CHUNK = "{kind: dual_chunk, chunk: 8, window: 4}"
NOT_A_SETTING = "not a setting. Write key=value, and quote a value with special characters: key='\"a, b\"'."

# What Hydra and the yaml files know: seen before torch is imported.
COMPOSING = {
    "unknown group option": (
        [*TRAIN, "architecture=retnett"],
        f"architecture: unknown option 'retnett'. Did you mean 'retnet'? Known: {ARCHITECTURES}.",
    ),
    "unknown option in a sweep": (
        [*TRAIN, "-m", "size=tiny,hueg"],
        "size: unknown option 'hueg'. Known: base, small, tiny.",
    ),
    "an unknown context": (
        ["evaluate", "model=runs/x", "context=yarnn"],
        "context: unknown option 'yarnn'. Did you mean 'yarn'? Known: dual_chunk, interpolation, none, ntk, parallel, "
        "self_extend, sinks, yarn.",
    ),
    "a setting of nothing": (
        [*TRAIN, "objective.share=0.3"],
        "objective.share=0.3: no objective is chosen. Add objective=<name>. Known: masked, next_token.",
    ),
    "several options": (
        [*TRAIN, "size=[tiny,base]"],
        "size=[tiny,base]: one option at a time. Known: base, small, tiny.",
    ),
    "unknown group": (
        [*TRAIN, "architectur=retnet"],
        f"train: unknown key 'architectur'. Did you mean 'architecture'? Known: {KNOWN}.",
    ),
    "unknown key": ([*TRAIN, "sed=1"], f"train: unknown key 'sed'. Did you mean 'seed'? Known: {KNOWN}."),
    "unknown section": (
        [*TRAIN, "trainig.steps=1"],
        f"train: unknown key 'trainig'. Did you mean 'training'? Known: {KNOWN}.",
    ),
    "appended key": ([*TRAIN, "+typo=1"], f"train: unknown key 'typo'. Known: {KNOWN}."),
    "forced key": ([*TRAIN, "++typo=1"], f"train: unknown key 'typo'. Known: {KNOWN}."),
    "deleted key": ([*TRAIN, "~typo"], f"train: unknown key 'typo'. Known: {KNOWN}."),
    "key to delete": (
        [*TRAIN, "~training.step"],
        "train: Could not delete from config. 'training.step' does not exist.",
    ),
    "missing value": (["train"], "train: 'data.path' is missing. Add data.path=..."),
    "several values": (
        [*TRAIN, "seed=1,2"],
        "seed=1,2: several values. Add -m to run each; [a,b] is a list, and quotes make a text.",
    ),
    "grammar": ([*TRAIN, "name=[a"], f"name=[a: {NOT_A_SETTING}"),
    "two signs": ([*TRAIN, "seed==1"], f"seed==1: {NOT_A_SETTING}"),
    "interpolation": ([*TRAIN, "name=${nothing}"], "name: Interpolation key 'nothing' not found"),
    "folder of groups": ([*TRAIN, "--config-dir", "nowhere"], "--config-dir nowhere: no such folder."),
    "a word": ([*TRAIN, "retnet"], "train: 'retnet' is not a setting. Write key=value or group=name."),
    "unknown verb": (
        ["trian"],
        "unknown verb 'trian'. Did you mean 'train'? Known: evaluate, export, ingest, models, query, report, speed, "
        "train.",
    ),
    "unknown flag": (
        [*TRAIN, "--jsno"],
        "unknown option '--jsno'. Did you mean '--json'? Known: --cfg, --config-dir, --cpus, --gpus, --help, --info, "
        "--json, --multirun, --package, --ray, --resolve, --version, -c, -h, -i, -m, -p. Settings are written "
        "key=value.",
    ),
    "flag without its value": (
        [*TRAIN, "--config-dir"],
        "argument --config-dir: expected one argument. `farfield --help` lists the options.",
    ),
    "flags that need another": ([*TRAIN, "--resolve"], "--resolve and --package go with --cfg."),
    "flags that do not go together": (
        [*TRAIN, "-m", "--cfg", "job"],
        "--multirun, --cfg and --info exclude one another.",
    ),
    "interpolation that is shown": (
        [*TRAIN, "--cfg", "job", "--resolve", "name=${nothing}"],
        "name: Interpolation key 'nothing' not found",
    ),
    "settings of models": (
        ["models", "width=1"],
        "models takes no settings. It tells of the folder of a model: farfield models <folder>.",
    ),
    "no key of Hydra's": ([*TRAIN, "hydra=1"], f"train: unknown key 'hydra'. Known: {KNOWN}."),
    "a question with a sign": (["query", "a=b gate", "index=x"], f"query: unknown key 'a'. {KNOWN_TO_QUERY}"),
    "a question with signs": (["query", "a==b (or c, d", "index=x"], f"query: unknown key 'a'. {KNOWN_TO_QUERY}"),
    "a question that is not UTF-8": (
        ["query", "gate \udcff \ud83e", "index=x"],
        r"not UTF-8 text: 'gate \xff \ud83e'.",
    ),
    "a setting that is not UTF-8": ([*TRAIN, "name=\udce9"], r"not UTF-8 text: 'name=\xe9'."),
    "a flag's value that is not UTF-8": ([*TRAIN, "--config-dir", "\udce9"], r"not UTF-8 text: '\xe9'."),
    "a verb that is not UTF-8": (["\udce9"], r"not UTF-8 text: '\xe9'."),
}

# What the typed settings know: seen before lightning, data or weights are touched.
TYPED = {
    "unknown key": (
        [*TRAIN, "architecture.layers.retnet.mixer.head=4"],
        "architecture.layers.retnet.mixer: unknown key 'head'. Did you mean 'heads'? "
        "Known: chunk, conv, decay, head_width, heads, kind, rotation, value_ratio.",
    ),
    "appended key": (
        [*TRAIN, "+training.optimizer.learning_rat=1"],
        "training.optimizer: unknown key 'learning_rat'. Did you mean 'learning_rate'? "
        "Known: betas, clip, learning_rate, weight_decay.",
    ),
    "text for a number": (
        [*TRAIN, "training.steps=many"],
        'training.steps: "many" given. Input should be a valid integer.',
    ),
    "fraction for a whole number": (
        [*TRAIN, "training.steps=1.5"],
        "training.steps: 1.5 given. Input should be a valid integer.",
    ),
    "number for a text": ([*TRAIN, "root=7"], "root: 7 given. Input should be a valid string."),
    "out of range": (
        [*TRAIN, "training.batch=0"],
        "training.batch: 0 given. Input should be greater than or equal to 1.",
    ),
    "infinity": (
        [*TRAIN, "training.optimizer.learning_rate=inf"],
        "training.optimizer.learning_rate: Infinity given. Input should be a finite number.",
    ),
    "wrong choice": (
        [*TRAIN, "training.precision=fp16"],
        "training.precision: unknown choice 'fp16'. Did you mean 'bf16'? Known: bf16, fp32.",
    ),
    "no model": (
        ["evaluate"],
        "model: null given, and the suite needle asks a model. Add model=runs/<name>, the folder of a Hugging Face "
        "model, or the URL of an endpoint.",
    ),
    "a URL without a host": (
        ["evaluate", "model=http:///v1"],
        "model: not a URL: it names no host. Write it as http://localhost:8000/v1.",
    ),
    "a URL with a password": (
        ["evaluate", "model=https://me:secret@host/v1"],
        "model: a URL with more than host and path. A key is given by the variable that endpoint.key names.",
    ),
    "a key in the place of its variable": (
        ["evaluate", "model=http://localhost/v1", "endpoint.key=sk-123"],
        "endpoint.key: not a variable's name. Give the name of the environment variable that holds the API key.",
    ),
    "likelihoods of a chat": (
        ["evaluate", "model=http://localhost/v1", "endpoint.chat=true", "endpoint.logprobs=true"],
        "endpoint.logprobs: chat answers carry none of the prompt's. Set chat=false or logprobs=false.",
    ),
    "a memory for an endpoint": (
        ["evaluate", "model=http://localhost/v1", "memory=knn"],
        "memory: memories go into our own layers, and http://localhost/v1 has none. Leave it out.",
    ),
    "processes for an endpoint": (
        ["evaluate", "model=http://localhost/v1", "processes=2"],
        "processes: 2 given, and an endpoint is asked by one. Use endpoint.concurrency.",
    ),
    "unknown precision": (
        ["evaluate", "model=runs/a", "device.precision=fp46"],
        "device.precision: unknown choice 'fp46'. Did you mean 'fp64'? Known: bf16, fp32, fp64.",
    ),
    "unknown key of an endpoint": (
        ["evaluate", "model=http://localhost/v1", "endpoint.modle=a"],
        "endpoint: unknown key 'modle'. Did you mean 'model'? Known: body, chat, concurrency, extra_tokens, "
        "key, logprobs, "
        "model, retries, timeout, tokenizer.",
    ),
    "wrong kind": (
        [*TRAIN, "training.schedule.kind=cosin"],
        "training.schedule: unknown kind 'cosin'. Did you mean 'cosine'? Known: cosine, wsd.",
    ),
    "two that do not fit": (
        [*TRAIN, "training.schedule={kind:wsd,warmup:0.5,decay:0.6}"],
        "training.schedule: warmup 0.5 and decay 0.6 are more than all steps (1.0).",
    ),
    "averages": (
        [*TRAIN, "training.optimizer.betas=[0.9,2]"],
        "training.optimizer.betas: [0.9, 2.0] given. Both must be at least 0 and below 1.",
    ),
    "too few averages": (
        [*TRAIN, "training.optimizer.betas=[0.9]"],
        "training.optimizer.betas: 1 value given, 2 are needed.",
    ),
    "no averages": (
        [*TRAIN, "training.optimizer.betas=[]"],
        "training.optimizer.betas: no value given, 2 are needed.",
    ),
    "too many averages": (
        [*TRAIN, "training.optimizer.betas=[0.9,0.9,0.9]"],
        "training.optimizer.betas: 3 values given, at most 2 are allowed.",
    ),
    "no results": (["report", "results=[]"], "results: no value given, at least 1 is needed."),
    "no such layer": (
        [*TRAIN, "architecture.pattern=[retnet,retne]"],
        "architecture.pattern: no layer is called 'retne'. Did you mean 'retnet'? Known: retnet.",
    ),
    "pattern and depth": (
        [*TRAIN, "architecture.pattern=[retnet,retnet,retnet,retnet]"],
        "architecture.pattern: 4 layers do not divide the depth 6. Nearest depth: 8.",
    ),
    "heads and width": (
        [*TRAIN, "architecture.layers.retnet.mixer.heads=5"],
        "architecture.layers.retnet.mixer.heads: 5 does not divide the width 256. Nearest that does: 4.",
    ),
    "head width and width": (
        [*TRAIN, "architecture.width=100"],
        "architecture.layers.retnet.mixer.head_width: 32 does not divide the width 100. Nearest width: 96.",
    ),
    "odd buckets": (
        [*TRAIN, "architecture=reformer", "architecture.layers.reformer.mixer.buckets=7"],
        "architecture.layers.reformer.mixer.buckets: 7 given. Input should be a multiple of 2.",
    ),
    "no window": (
        [*TRAIN, "architecture=reformer", "architecture.layers.reformer.mixer.window=0"],
        "architecture.layers.reformer.mixer.window: 0 given. Input should be greater than or equal to 1.",
    ),
    "odd heads to rotate": (
        [*TRAIN, "architecture=reformer", "architecture.width=255", "architecture.layers.reformer.mixer.heads=3"],
        "architecture.layers.reformer.mixer.position: rope needs heads of even width, and this one is 85 wide.",
    ),
    "a position that is none": (
        [*TRAIN, "architecture=attention", "architecture.layers.attention.mixer.position=alibbi"],
        "architecture.layers.attention.mixer.position: unknown choice 'alibbi'. Did you mean 'alibi'? "
        "Known: alibi, none, rope, xpos.",
    ),
    "odd heads to rotate and to scale": (
        [
            *TRAIN,
            "architecture=attention",
            "architecture.layers.attention.mixer.heads=256",
            "architecture.layers.attention.mixer.position=xpos",
        ],
        "architecture.layers.attention.mixer.position: xpos needs heads of even width, and this one is 1 wide.",
    ),
    "scales that fade at once": (
        [*TRAIN, "architecture=attention", "+architecture.layers.attention.mixer.scale_base=0.5"],
        "architecture.layers.attention.mixer.scale_base: 0.5 given. Input should be greater than or equal to 1.",
    ),
    "an extension of other positions": (
        [*TRAIN, "architecture=attention", f"{MIXER}.position=alibi", f"+{MIXER}.extension={DUAL_CHUNK}"],
        "architecture.layers.attention.mixer.extension: moves rotary positions, and position is alibi.",
    ),
    "a window as long as its chunk": (
        [*TRAIN, "architecture=attention", f"+{MIXER}.extension={{kind: dual_chunk, chunk: 8, window: 8}}"],
        "architecture.layers.attention.mixer.extension.window: 8 given, less than chunk = 8 is needed.",
    ),
    "an extension of a window": (
        [
            *TRAIN,
            "architecture=longformer",
            "architecture.layers.longformer.mixer.globals=0",
            f"+architecture.layers.longformer.mixer.extension={DUAL_CHUNK}",
        ],
        "architecture.layers.longformer.mixer.extension: brings far tokens near, and none is seen from far: globals: 0 "
        "given, and a window has a longest distance. Take null.",
    ),
    "memory around an extension": (
        [*TRAIN, "architecture=attention", "memory=knn", f"+{MIXER}.extension={DUAL_CHUNK}"],
        "memory.name: 'knn' cannot stand around layer 0, of which extension: dual_chunk moves keys for its own queries "
        "alone. Take extension: null.",
    ),
    "a context without a model to stretch": (
        [*TRAIN, "architecture=attention", "context=yarn"],
        "context.kind: 'yarn' is for a trained model. Add start=<a run>.",
    ),
    "a factor below 1": (
        ["evaluate", "model=runs/x", "context=yarn", "context.factor=0.5"],
        "context.factor: 0.5 given. Input should be greater than or equal to 1.",
    ),
    "windows in training": (
        [*TRAIN, "architecture=attention", "context=parallel", "start=runs/x"],
        "context.kind: 'parallel' is how prompts are read, and training has none. Leave it out.",
    ),
    "sinks and a memory": (
        [*TRAIN, "architecture=attention", "context=sinks", "start=runs/x", "memory=knn"],
        "memory.name: 'knn' given, and context=sinks is a memory. Give one of them.",
    ),
    "a context for an endpoint": (
        ["evaluate", "model=http://localhost/v1", "context=yarn"],
        "context: our own layers read by it, and http://localhost/v1 has none. Leave it out.",
    ),
    "a context that nobody reads by": (
        ["query", "why", "index=handbook", "context=yarn"],
        "context: 'yarn' given, but no model that would read by it. Add model=runs/<name>.",
    ),
    "windows and sessions": (
        ["query", "why", "model=runs/x", "session=a", "sessions=s", "context=parallel"],
        "sessions: 's' given, which go on where they stopped, and context=parallel reads whole prompts. Give one of "
        "them.",
    ),
    "memory and architecture": (
        [*TRAIN, "memory=knn"],
        f"memory.name: 'knn' needs layers with softmax attention, not 'retnet'. Kinds that have it: {KEYED}.",
    ),
    "Infini-attention and architecture": (
        [*TRAIN, "memory=infini"],
        f"memory.name: 'infini' needs layers with softmax attention, not 'retnet'. Kinds that have it: {KEYED}.",
    ),
    "a segment that Infini-attention's window loses": (
        [*TRAIN, "architecture=longformer", "memory=infini", "memory.segment=66"],
        "memory.segment: 66 is longer than the window of 64 tokens allows; tokens would be lost between window and "
        "memory. At most 65.",
    ),
    "an unknown rule": (
        [*TRAIN, "architecture=attention", "memory=infini", "memory.rule=add"],
        "memory.rule: unknown choice 'add'. Known: delta, delta_once, linear.",
    ),
    "networks of Titans that do not divide the width": (
        [*TRAIN, "memory=titans", "memory.heads=7", "architecture.width=64"],
        "memory.heads: 7 does not divide the width 64. Nearest that does: 8.",
    ),
    "a rate of nothing": (
        [*TRAIN, "memory=titans", "memory.max_rate=0"],
        "memory.max_rate: 0 given. Input should be greater than 0.",
    ),
    "fewer vectors than a segment leaves": (
        [*TRAIN, "memory=autocompressor", "memory.limit=49"],
        "memory.limit: 49 given, but a segment leaves 50 vectors. At least as many.",
    ),
    "segments shorter than nothing": (
        [*TRAIN, "memory=autocompressor", "memory.spread=512"],
        "memory.spread: 512 given, but segments have 512 tokens. At most 511.",
    ),
    "a bank of broken entries": (
        [*TRAIN, "memory=mac", "memory.limit=100"],
        "memory.limit: 100 given, but a segment leaves 24 vectors. Nearest multiple: 96.",
    ),
    "sets of documents without a place for them": (
        ["train", "data=facts", "memory=rmt"],
        "memory.name: 'rmt' keeps no sets of documents, and this data has them. Use memory=mac.",
    ),
    "sets of documents without a memory": (
        ["train", "data=facts"],
        "memory.name: 'none' keeps no sets of documents, and this data has them. Use memory=mac.",
    ),
    "more documents than the bank has room for": (
        ["train", "data=facts", "memory=mac", "memory.limit=192"],
        "memory.limit: 192 given, but 8 documents and a question leave 216 vectors. At least as many.",
    ),
    "questions that are cut": (
        ["train", "data=facts", "memory=mac", "training.cut=2"],
        "training.cut: 2 given, but rows that ask sets of documents are read whole.",
    ),
    "more questions than documents": (
        ["train", "data=facts", "memory=mac", "data.questions=5"],
        "data.questions: 5 given, but a set may have 4 documents. At most 4.",
    ),
    "sets of no documents": (
        ["train", "data=facts", "memory=mac", "data.documents=[0,3]"],
        "data.documents: [0, 3] given. The least is 1 or more, and the most no less.",
    ),
    "heads of the memory": (
        [*TRAIN, "memory=mac", "memory.heads=7"],
        "memory.heads: 7 does not divide the width 256. Nearest that does: 8.",
    ),
    "no gradient through anything": (
        [*TRAIN, "memory=rmt", "memory.bptt=0"],
        "memory.bptt: 0 given. Input should be greater than or equal to 1.",
    ),
    "slots of an even pool": (
        [*TRAIN, "architecture=attention", "memory=snapkv", "memory.pool=4"],
        "memory.pool: 4 given; an odd number has a middle.",
    ),
    "slots around a window": (
        [*TRAIN, "architecture=longformer", "memory=camelot"],
        "memory.keep: merge would count tokens twice that are in a window and in a slot's mean. Use it around layers "
        "without a window.",
    ),
    "a budget for no slot": (
        [*TRAIN, "architecture=attention", "size=tiny", "memory=sinks", "memory.budget=100"],
        "memory.budget: 100 bytes a row do not hold what stands beside the slots, and 4 of them, in each of 2 layers. "
        "At least 137848.",
    ),
    "a name that leads out": (
        [*TRAIN, "name=../x"],
        "name: '../x' names no folder. Use letters, digits, '_', '-', '.', '=', beginning with a letter or digit.",
    ),
    "one job of a sweep": (
        [*TRAIN, "-m", "training.steps=1,few"],
        'training.steps: "few" given. Input should be a valid integer.',
    ),
    "nothing to ingest": (
        ["ingest", "index=x", "path="],
        "path: empty. Name a file or a folder; the current one is '.'.",
    ),
    "everything forgotten": (
        ["ingest", "index=x", "remove={}"],
        "remove: an empty filter means every document. Name a field, or remove='*'.",
    ),
    "neighbours mixed in": (
        ["query", "why", "model=runs/x", "augmentation=neighbours", "augmentation.database=x"],
        "augmentation.kind: 'neighbours' given. Here it is output or none; what a model trained with 'neighbours' "
        "reads is named by neighbours=<folder>, its training's own if not.",
    ),
    "nothing asked": (
        ["query", "index=handbook", "question=' '"],
        "question: nothing is asked. Write it behind the verb: farfield query 'Who signs for it?' index=handbook",
    ),
    "nobody asked": (
        ["query", "why"],
        "model: neither a model nor an index is given. Add model=runs/<name>, index=<name>, or both.",
    ),
    "a document that nobody reads": (
        ["query", "why", "index=handbook", "document=book.txt"],
        "document: 'book.txt' given, but no model that would read it. Add model=runs/<name>.",
    ),
    "documents that nobody amortizes": (
        ["query", "why", "index=handbook", "documents=notes"],
        "documents: 'notes' given, but no model that would read it. Add model=runs/<name>.",
    ),
    "a bank beside an index": (
        ["query", "why", "model=runs/x", "index=handbook", "bank=bank.safetensors"],
        "index: 'handbook' given, and a bank of documents is asked. Give one of them.",
    ),
    "a session that is kept nowhere": (
        ["query", "why", "model=runs/x", "session=alice"],
        "session: 'alice' given, but nowhere to keep it. Add sessions=<folder>.",
    ),
    "sessions without any": (
        ["query", "why", "model=runs/x", "sessions=sessions"],
        "sessions: 'sessions' given, but nothing to keep there. Add session=<name>, document=<file>, or both.",
    ),
    "an unknown policy of the store": (
        ["query", "why", "model=runs/x", "session=a", "sessions=s", "store.policy=lfu"],
        "store.policy: unknown choice 'lfu'. Did you mean 'lru'? Known: fifo, lru, scheduled.",
    ),
}


@pytest.fixture
def nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and verbs that fail the test when they are reached."""
    monkeypatch.chdir(tmp_path)
    for name, verb in list(usage.VERBS.items()):
        reached = usage.Verb(verb.summary, verb.writes, verb.examples, verb.settings, "farfield.nowhere:nothing")
        monkeypatch.setitem(usage.VERBS, name, reached)
    return tmp_path


@pytest.mark.parametrize("mistake", COMPOSING)
def test_composing(mistake: str, nothing_is_done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = COMPOSING[mistake]
    assert_refused(words, message, nothing_is_done, capsys)


@pytest.mark.parametrize("mistake", TYPED)
def test_typed(mistake: str, nothing_is_done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = TYPED[mistake]
    assert_refused(words, message, nothing_is_done, capsys)


def assert_refused(words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert capsys.readouterr() == ("", f"farfield: {message}\n")
    assert not list(folder.iterdir())


def test_an_error_of_several_lines_is_told_in_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(line: object) -> int:
        raise FarfieldError("one\n  two")

    monkeypatch.setattr(cli, "_run", broken)
    assert cli.main(["models"]) == 2
    assert capsys.readouterr().err == "farfield: one two\n"


@pytest.mark.parametrize(
    ("text", "spelled"),
    [("Grüße 🦁 \\xff", "Grüße 🦁 \\xff"), ("\udc80a\udcff", r"\x80a\xff"), ("\ud83e \udc00", r"\ud83e \udc00")],
)
def test_what_is_not_utf8_is_spelled_out(text: str, spelled: str) -> None:
    assert printable(text) == spelled


def test_a_name_is_suggested_where_it_is_near() -> None:
    assert nearest("retnt", ["retnet", "yoco"]) == "retnet"
    assert nearest("foo", ["retnet", "yoco"]) is None
