"""The house: links, what a distribution holds, and that what was built also runs.

The distributions are built from a copy, offline, with the setuptools of this environment: the sdist from the tree, the
wheel from the sdist.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "farfield"
FOLDERS = ("architectures", "benchmarks", "configs", "memory", "retrieval")


@pytest.mark.parametrize("folder", FOLDERS)
def test_links_resolve_and_are_relative(folder: str) -> None:
    link = PACKAGE / folder
    assert link.is_symlink()
    assert link.readlink() == Path("../..") / folder
    assert link.resolve() == ROOT / folder
    assert (ROOT / folder / "__init__.py").is_file()


def test_every_folder_of_code_is_a_package() -> None:
    folders = {file.parent for file in code(ROOT)}
    assert folders
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_the_root_holds_no_second_name_for_a_module() -> None:
    """No file imports a root folder by its own name: there is one namespace."""
    pattern = re.compile(rf"^\s*(from|import) ({'|'.join(FOLDERS)})\b", re.MULTILINE)
    assert not [file for file in code(ROOT) if pattern.search(file.read_text(encoding="utf-8"))]


def test_pins_let_pip_choose_no_other_torch() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert not [line for line in pins if not re.match(r"[\w.-]+==[\w.]+( ; python_version (<|>=) \"3\.\d+\")?$", line)]
    assert not [line for line in pins if line.startswith(("nvidia", "triton", "torchvision", "torchaudio"))]


def test_the_sdist_holds_code_and_data(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert expected("src/") <= names
    assert {"LICENSE", "pyproject.toml", "constraints.txt", "Makefile"} <= names
    assert ("README.md" in names) == (ROOT / "README.md").is_file()


def test_the_wheel_holds_code_and_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert expected("") <= names
    outside = {name for name in names if not name.startswith(("farfield/", "farfield-"))}
    assert not outside
    assert not [name for name in names if "__pycache__" in name or name.startswith("farfield/tests")]


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"], ["models", "--json"]])
def test_the_wheel_runs(installed: Path, tmp_path: Path, words: list[str]) -> None:
    run = subprocess.run([installed / "farfield", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout
    if "--json" in words:
        assert {"retnet", "longformer"} <= {one["name"] for one in json.loads(run.stdout)["architectures"]}


def code(root: Path) -> list[Path]:
    """The Python files of the package, those behind the links in the root folders."""
    own = [file for file in (root / "src" / "farfield").rglob("*.py") if not linked(file)]
    return sorted(own + [file for folder in FOLDERS for file in (root / folder).rglob("*.py")])


def linked(file: Path) -> bool:
    return file.relative_to(PACKAGE).parts[0] in FOLDERS


def expected(prefix: str) -> set[str]:
    """Every file of code and data of the tree, by its name in a distribution."""
    files = {f"{prefix}farfield/{file.relative_to(PACKAGE).as_posix()}" for file in PACKAGE.rglob("*.py")}
    for folder in FOLDERS:
        found = [
            file for kind in ("py", "yaml", "css", "js", "cpp", "h") for file in (ROOT / folder).rglob(f"*.{kind}")
        ]
        files |= {f"{prefix}farfield/{file.relative_to(ROOT).as_posix()}" for file in found}
    documents = [file for file in (PACKAGE / "demo").rglob("*") if file.suffix in (".md", ".json")]
    return files | {f"{prefix}farfield/{file.relative_to(PACKAGE).as_posix()}" for file in documents}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree") / "farfield"
    leave = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "results", "indexes", "docs"
    )
    shutil.copytree(ROOT, copy, symlinks=True, ignore=leave)
    return build("sdist", copy, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    unpacked = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(sdist, unpacked)
    return build("wheel", next(unpacked.iterdir()), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a fresh environment that holds the wheel, and sees this environment's other packages behind it."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "--disable-pip-version-check"]
    command([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], home)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return home / "bin"


def build(kind: str, tree: Path, out: Path) -> Path:
    command([sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", out, tree], out)
    return next(out.glob("farfield-*"))


def command(words: list[str | Path], folder: Path) -> None:
    run = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
