"""Settings of mixers over parts of a document that do not fit are told in one line."""

from __future__ import annotations

from typing import Any

import pytest

from farfield.architectures import build_mixer
from farfield.config import ConfigError

MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"kind": "dilated", "branches": [[8, 2]]},
        "mixer.branches: none has rate 1, so that some tokens would see nothing. Add one, as [16, 1].",
    ),
    (
        {"kind": "dilated", "branches": [[8, 1], [16, 3]]},
        "mixer.branches: rate 3 does not divide the segment 16. Nearest segment: 15.",
    ),
    ({"kind": "dilated", "branches": [[0, 1]]}, "mixer.branches: [0, 1] given; both are at least 1."),
    ({"kind": "dilated", "branches": [[4, -1]]}, "mixer.branches: [4, -1] given; both are at least 1."),
    ({"kind": "dilated", "branches": []}, "mixer.branches: none has rate 1"),
    (
        {"kind": "linformer", "segment": 4, "rows": 5},
        "mixer.rows: 5 rows of segments of 4 tokens save nothing. At most 4.",
    ),
    ({"kind": "linformer", "segment": 0}, "mixer.segment: 0"),
    ({"kind": "linformer", "kv_heads": 3}, "mixer.kv_heads: 3 does not divide the 2 heads."),
    ({"kind": "linformer", "heads": 64}, "mixer.position: rope needs heads of even width, and this one is 1 wide."),
    (
        {"kind": "linformer", "heads": 64, "position": "xpos"},
        "mixer.position: xpos needs heads of even width, and this one is 1 wide.",
    ),
    ({"kind": "linformer", "position": "rop"}, "mixer.position: unknown choice 'rop'. Did you mean 'rope'?"),
    ({"kind": "s2", "group": 7}, "mixer.group: 7 given; groups are shifted by half, so an even number is needed."),
    ({"kind": "s2", "group": 0}, "mixer.group: 0"),
    (
        {"kind": "sparse", "pattern": "fixed", "stride": 4, "summary": 5},
        "mixer.summary: 5 columns of blocks of 4 tokens. At most 4.",
    ),
    ({"kind": "sparse", "stride": 1}, "mixer.stride: 1"),
    ({"kind": "sparse", "pattern": "bigbird", "random": 0}, "mixer.random: 0"),
    ({"kind": "s2", "heads": 1}, "mixer.heads: 1 given; half of them are shifted, so an even number is needed."),
]


@pytest.mark.parametrize(("mixer", "text"), MISTAKES, ids=lambda value: str(value)[:40])
def test_what_does_not_fit_is_told(mixer: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        build_mixer(mixer, width=64)
    assert str(mistake.value).startswith(text)
    assert "\n" not in str(mistake.value)
