"""Requests that schemathesis makes of /openapi.json: none makes the server fail, and all answers are as described."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.infer.serve.conftest import Served


@pytest.mark.slow
def test_answers_are_as_described(serve: Callable[..., Served]) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    checks = pytest.importorskip("schemathesis.specs.openapi.checks")
    excluded = [checks.positive_data_acceptance]  # a schema cannot tell photos from other bytes
    schema = schemathesis.openapi.from_asgi("/openapi.json", serve().app)
    operations = [each.ok() for each in schema.get_all_operations()]
    assert len(operations) == 3
    for operation in operations:
        modes = schemathesis.GenerationMode
        for mode in modes if operation.query else [modes.POSITIVE]:  # without parameters nothing can be wrong

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
            def check(case: Any) -> None:
                case.call_and_validate(excluded_checks=excluded)

            check()
