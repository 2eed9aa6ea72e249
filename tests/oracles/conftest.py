"""The fixture of the tests of parity."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from parity import Parity


@pytest.fixture
def parity(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Parity:
    """Of the two that the test's mark names."""
    mark = request.node.get_closest_marker("parity")
    ours, theirs = mark.args
    return Parity(ours, theirs, record_property)
