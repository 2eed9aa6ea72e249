"""docs/adding_an_architecture.md is true: its file, its yaml and its commands do what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from farfield.architectures import build_mixer
from farfield.config import ConfigError

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "adding_an_architecture.md").read_text(encoding="utf-8")
MIXER = {"kind": "external", "path": "my_mixers:AverageConfig"}


def block(language: str) -> str:
    """The page's block in a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_mixers.py").write_text(block("python"), encoding="utf-8")
    (tmp_path / "my" / "architecture").mkdir(parents=True)
    (tmp_path / "my" / "architecture" / "average.yaml").write_text(block("yaml"), encoding="utf-8")
    return tmp_path


@pytest.fixture
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_mixers", raising=False)


def run(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_it_trains_and_loads_where_it_is_trusted(folder: Path) -> None:
    words = ["-m", "farfield", "train", "architecture=average", "--config-dir", "my", "data=needle", "data.length=64"]
    words += ["training.steps=2", "training.batch=2"]
    refused = run(folder, *words)
    assert refused.returncode == 2
    assert refused.stderr == (
        "farfield: architecture.layers.average.mixer.path: 'my_mixers:AverageConfig' is code from outside. "
        "If you trust it, set FARFIELD_EXTERNAL=my_mixers.\n"
    )
    trained = run(folder, *words, "name=mine", FARFIELD_EXTERNAL="my_mixers")
    assert trained.returncode == 0, trained.stderr
    load = "import farfield; m = farfield.load('runs/mine'); print(type(m.model.decoder.layers[0].mixer).__name__)"
    assert run(folder, "-c", load, FARFIELD_EXTERNAL="my_mixers").stdout == "Average\n"
    untrusted = run(folder, "-c", f"import sys\ntry:\n  {load}\nfinally: print('my_mixers' in sys.modules)")
    assert untrusted.stdout == "False\n"


def test_it_gets_the_contract_suite(folder: Path) -> None:
    words = ("-m", "pytest", str(ROOT / "tests" / "contract"), "-q", "-k", "external", "-p", "no:cacheprovider")
    environment = {"FARFIELD_EXTERNAL": "my_mixers", "FARFIELD_CONTRACT": 'my_mixers:AverageConfig {"rate": 0.2}'}
    done = run(folder, *words, f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"), **environment)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 20  # a clause each, but for those that have a fast case for every third subject only
    assert "skipped" not in done.stdout


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        (MIXER | {"path": "os:getcwd"}, "path: 'os:getcwd' is code from outside"),
        (MIXER | {"path": "my_mixers:Nothing"}, "path: 'my_mixers:Nothing' cannot be imported"),
        (MIXER | {"path": "my_mixers:Average"}, "path: 'my_mixers:Average' is no class of MixerSettings"),
        (MIXER | {"path": "my_mixers"}, 'path: "my_mixers" given'),
        (MIXER | {"settings": {"rat": 1}}, "settings: AverageConfig: unknown key 'rat'. Did you mean 'rate'?"),
        (MIXER | {"settings": {"rate": 2.0}}, "settings: rate: 2.0 given"),
    ],
    ids=["not trusted", "no such class", "no settings", "no class", "unknown key", "bad value"],
)
def test_mistakes(mixer: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARFIELD_EXTERNAL", "my_mixers, another")
    with pytest.raises(ConfigError) as mistake:
        build_mixer(mixer, width=16)
    assert message in str(mistake.value)
    assert "\n" not in str(mistake.value)


@pytest.mark.usefixtures("importable")
def test_it_can_be_built_by_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARFIELD_EXTERNAL", "my_mixers")
    mixer = build_mixer(MIXER, width=16)
    assert sum(p.numel() for p in mixer.parameters()) == 2 * 16 * 16 + 16
