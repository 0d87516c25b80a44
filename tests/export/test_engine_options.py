"""Options of engines: what is refused, and that the flag is named."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from cgan.errors import UserError
from export.engine_options import UNSUPPORTED, EngineOptions, flag
from infer.backends.flavours import FLAVOURS


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"flavour": "openvino"}, "--format: found openvino, expected one of tensorrt, tensorrt-rtx"),
        ({"batch": (0, 1, 2)}, "--batch: found 0,1,2"),
        ({"batch": (4, 2, 8)}, "--batch: found 4,2,8"),
        ({"batch": (1, 9, 8)}, "--batch: found 1,9,8"),
        ({"batch": (1, 2)}, "--batch: found 1,2"),
        ({"sizes": (64, 32, 128)}, "--size: found 64,32,128"),
        ({"workspace_mib": 0}, "--workspace: found 0, expected at least 1 MiB"),
        ({"optimization_level": 6, "flavour": "tensorrt"}, "--optimization-level: found 6, expected 0 to 5"),
        ({"optimization_level": -1, "flavour": "tensorrt"}, "--optimization-level: found -1, expected 0 to 5"),
        ({"compute_capabilities": ("8.6", "8.6")}, "--compute-capability: found 8.6, 8.6, expected each once"),
        (
            {"compute_capabilities": ("8.6",), "flavour": "tensorrt"},
            "--compute-capability: TensorRT builds for the GPU",
        ),
        ({"timing_cache": Path("cache")}, "--timing-cache: TensorRT for RTX times nothing"),
        ({"optimization_level": 0}, "--optimization-level: TensorRT for RTX builds the same engine"),
    ],
)
def test_options_are_checked_and_the_flag_is_named(options: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError) as refused:
        EngineOptions(**{"flavour": "tensorrt-rtx", **options})
    assert str(refused.value).startswith(found)
    assert "\n" not in str(refused.value)


def test_the_least_values_are_allowed_and_no_option_is_needed() -> None:
    EngineOptions(flavour="tensorrt-rtx", batch=(1, 1, 1), sizes=(16, 16, 16), workspace_mib=1)
    for level in (0, 5):
        EngineOptions(flavour="tensorrt", optimization_level=level)
    options = EngineOptions(flavour="tensorrt-rtx")
    assert options.batch == (1, 16, 64)
    with pytest.raises(FrozenInstanceError):
        options.batch = (1, 1, 1)  # type: ignore[misc]


def test_every_option_has_its_flag_in_the_command() -> None:
    from export.cli import command

    flags = {name for parameter in command.params for name in parameter.opts}
    assert {flag(name) for name in EngineOptions.__dataclass_fields__} <= flags


def test_what_is_refused_is_an_option() -> None:
    assert UNSUPPORTED.keys() == FLAVOURS.keys()
    names = set(EngineOptions.__dataclass_fields__)
    assert all(refused.keys() <= names for refused in UNSUPPORTED.values())
