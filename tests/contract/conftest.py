from __future__ import annotations

import pytest

from contract.subjects import Subject


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Names the mixer of each case for the count, and makes `-m contract_full` the whole suite, fast cases included."""
    everything = config.getoption("markexpr").strip() == "contract_full"
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        subject = parameters.get("subject")
        if isinstance(subject, Subject):
            item.user_properties.append(("contract", subject.group))
            if everything:
                item.add_marker(pytest.mark.contract_full)
