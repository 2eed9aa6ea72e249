"""Large weights are mapped or read into place: what loading takes beyond their own size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from farfield.huggingface.families import FAMILIES
from farfield.huggingface.given import Given
from farfield.huggingface.reading import open_folder

SETTINGS = {
    "model_type": "llama",
    "vocab_size": 16384,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "tie_word_embeddings": False,
}
MOST = 1.2  # of the size of the weights

MEASURE = """
import sys
from pathlib import Path
from farfield.huggingface.reading import open_folder

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

folder = open_folder(sys.argv[1])
before = peak()
model = folder.model()
for weight in model.parameters():
    weight.detach().flatten()[::512].sum()                    # every page
print(peak() - before, sum(weight.nbytes for weight in model.parameters()))
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc that tells of memory")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 120 million weights of 2 bytes."""
    place = tmp_path_factory.mktemp("large")
    (place / "config.json").write_text(json.dumps(SETTINGS))
    given = Given.of(place / "config.json")
    pieces = FAMILIES["llama"].pieces(FAMILIES["llama"].model(given))
    d, i, v = 1024, 4096, 16384
    shapes = {"norm": (d,), "embed_tokens": (v, d), "lm_head": (v, d), "gate_proj": (i, d), "up_proj": (i, d)}
    shapes |= {"down_proj": (d, i), "layernorm": (d,)}
    shapes |= {f"{one}_proj": (d, d) for one in "qkvo"}

    def shape(name: str) -> tuple[int, ...]:
        return next(size for part, size in shapes.items() if f"{part}." in name or name.endswith(f"{part}.weight"))

    tensors = {piece.theirs: torch.zeros(shape(piece.theirs), dtype=torch.bfloat16) for piece in pieces}
    save_file(tensors, place / "model.safetensors")
    return place


@needs_proc
def test_loading_takes_little_more_than_the_weights(large: Path) -> None:
    """At its peak, and with every page touched: a second copy of any large part would show."""
    words = [sys.executable, "-c", MEASURE, str(large)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    grown, size = map(int, done.stdout.split())
    assert size > 200 * 2**20
    assert 0.95 * size <= grown <= MOST * size


@needs_proc
def test_whole_tensors_stay_on_the_pages_of_their_file(large: Path) -> None:
    """In the dtype they are stored in; what is a part of ours has memory of its own."""
    model = open_folder(large).model()
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in lines if line.endswith(str(large / "model.safetensors"))]

    def mapped(weight: torch.Tensor) -> bool:
        return any(int(begin, 16) <= weight.data_ptr() < int(end, 16) for begin, end in ranges)

    own = {name.removesuffix(".weight").rpartition(".")[2] for name, one in model.named_parameters() if not mapped(one)}
    assert own == {"qkv", "up"}
