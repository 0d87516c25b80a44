"""`benchmarks.matrix`: the operations of the original report's generator, and the rate of a matrix product."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import matrix
from benchmarks.matrix import matrix_product_rate, operations
from cgan.spec import ModelSpec

pytestmark = pytest.mark.benchmarks


def spec(**changes: Any) -> ModelSpec:
    plain = ModelSpec(
        model="unet",
        color_space="rgb",
        render_size=128,
        base_width=32,
        parameters=14_639_267,
        config_sha256="0" * 64,
        weights_sha256="0" * 64,
    )
    return replace(plain, **changes)


def test_the_report_s_generator_takes_5_95_gflop() -> None:
    assert operations(spec(), 128, 128) / 1e9 == pytest.approx(5.95, abs=0.005)


def test_operations_grow_with_the_photo_s_area_and_the_square_of_the_width() -> None:
    assert operations(spec(), 64, 64) * 4 == operations(spec(), 128, 128)
    assert operations(spec(base_width=16), 128, 128) * 3.8 < operations(spec(), 128, 128)


def test_the_rate_of_a_matrix_product_is_operations_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matrix.MATRIX_SIDE, "cpu", 64)
    monkeypatch.setattr(matrix, "Stopwatch", lambda device: SimpleNamespace(seconds=dict))
    clock = iter(itertools.accumulate([0, 5, 1, 3, 1, 0.5, 1, 2, 1, 4]))  # began, ended, began, ended, ...
    monkeypatch.setattr(matrix, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert matrix_product_rate(torch.device("cpu"), torch.float32) == 2 * 64**3 / 0.5
