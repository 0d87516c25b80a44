"""The contract that every artefact carries, sidecars and atomic writes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgan.errors import ChangedFileError, UserError
from cgan.files import file_sha256
from cgan.spec import (
    COLOR_SPACES,
    LATER_FIELDS,
    LUMA_REC601,
    METADATA_KEY,
    MOST_CONTRACT,
    PRECISIONS,
    ColorSpaceName,
    ModelSpec,
    Sidecar,
    generator_parameters,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)

SPEC = ModelSpec(
    model="unet",
    color_space="rgb",
    render_size=128,
    base_width=32,
    parameters=14_639_267,
    config_sha256="c" * 64,
    weights_sha256="f" * 64,
    created_with={"cgan": "0.1.0"},
)


def consistent(color_space: ColorSpaceName, base_width: int, blocks: int, **others: Any) -> ModelSpec:
    count = generator_parameters(color_space, base_width, blocks)
    values: dict[str, Any] = {"color_space": color_space, "base_width": base_width, "blocks": blocks, **others}
    return ModelSpec(model="unet", parameters=count, **values)


specs = st.builds(
    consistent,
    color_space=st.sampled_from(COLOR_SPACES),
    render_size=st.integers(1, 256).map(lambda n: 16 * n),
    base_width=st.integers(1, 512),
    blocks=st.integers(1, 64),
    dynamic_size=st.booleans(),
    input_blur=st.just(0.0) | st.floats(0.1, 8),
    precision=st.sampled_from(PRECISIONS),
    config_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    weights_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    created_with=st.dictionaries(st.text(), st.text()),
)


@given(specs)
def test_spec_comes_back_from_its_json_text(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json())), "file") == spec


@given(specs)
def test_spec_comes_back_from_metadata(spec: ModelSpec) -> None:
    metadata = spec.to_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert ModelSpec.from_metadata({"other": "entry", **metadata}, "file") == spec


def test_json_spells_out_input_and_output() -> None:
    values = SPEC.to_json()
    assert values["input"]["name"] == "gray"
    assert values["input"]["shape"] == ["N", 1, "H", "W"]
    assert values["output"]["name"] == "rgb"
    assert values["output"]["shape"] == ["N", 3, "H", "W"]
    assert values["size_multiple"] == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 0}, "schema 0"),
        ({"schema": 2}, "schema 2"),
        ({"schema": "1"}, "schema '1'"),
        ({"schema": None}, "schema None"),
        ({"flavour": "new"}, "flavour"),
        ({"input": {**SPEC.to_json()["input"], "range": [-1, 1]}}, "input"),
        ({"input": {**SPEC.to_json()["input"], "name": "L"}}, "input"),
        ({"output": {**SPEC.to_json()["output"], "meaning": "BGR"}}, "output"),
        ({"output": None}, "output"),
        ({"render_size": "128"}, "render_size"),
        ({"render_size": 128.0}, "render_size"),
        ({"base_width": None}, "base_width"),
        ({"base_width": 0}, "file: model contract has base_width 0, expected 1 to 512"),
        ({"base_width": 10**6}, "base_width 1000000, expected 1 to 512"),
        ({"base_width": 2**80}, "base_width 1208925819614629174706176, expected 1 to 512"),
        ({"parameters": 0}, "parameters 0, expected 14639267 of base width 32"),
        ({"parameters": 2**70}, "expected 14639267 of base width 32"),
        ({"blocks": 0}, "blocks 0, expected 1 to 64"),
        ({"blocks": 10**5}, "blocks 100000, expected 1 to 64"),
        ({"blocks": 2}, "parameters 14639267, expected 20928547 of base width 32, 2"),
        ({"model": "vit"}, "model 'vit', expected one of unet"),
        ({"model": "unet\x1b[31m\n"}, r"'unet\\x1b\[31m\\n'"),
        ({"weights_sha256": "\x1b[31m"}, r"weights_sha256 '\\x1b\[31m', expected 64 hexadecimal digits"),
        ({"config_sha256": "C" * 64}, "expected 64 hexadecimal digits"),
        ({"created_with": {"cgan": 1}}, "found version 'cgan' 1, expected a text"),
        ({"blocks": "2"}, "field blocks is '2'"),
        ({"blocks": 2.0}, "field blocks is 2.0"),
        ({"blocks": True}, "field blocks is True"),
        ({"blocks": None}, "field blocks is None"),
        ({"dynamic_size": 1}, "field dynamic_size is 1"),
        ({"input_blur": "2"}, "field input_blur is '2'"),
        ({"input_blur": -1.0}, "input_blur -1.0, expected 0, or 0.1 to 8 pixels"),
        ({"input_blur": float("nan")}, "input_blur nan"),
        ({"input_blur": 1e9}, "input_blur 1000000000.0"),
        ({"created_with": ["0.1.0"]}, "created_with"),
        ({"color_space": "lab"}, "lab"),
        ({"precision": "fp8"}, "fp8"),
        ({"render_size": 100}, "100"),
        ({"render_size": 0}, "render_size 0, expected a multiple of 16 up to 4096"),
        ({"render_size": -16}, "-16"),
        ({"render_size": 16 * 10**8}, "render_size 1600000000"),
        ({"size_multiple": 0}, "size_multiple 0, expected 16"),
        ({"size_multiple": 10**9, "render_size": 10**9}, "size_multiple 1000000000"),
    ],
)
def test_a_contract_that_cannot_be_honoured_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ModelSpec.from_json({**SPEC.to_json(), **change}, "file")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", sorted(SPEC.to_json().keys() - LATER_FIELDS))
def test_a_contract_without_one_of_its_fields_is_refused(name: str) -> None:
    values = SPEC.to_json()
    del values[name]
    with pytest.raises(UserError, match="file: "):
        ModelSpec.from_json(values, "file")


@pytest.mark.parametrize("name", LATER_FIELDS)
def test_a_contract_from_before_a_field_has_what_models_were_then(name: str) -> None:
    values = {**SPEC.to_json(), "dynamic_size": True}
    del values[name]
    then: dict[str, Any] = {"dynamic_size": True, name: LATER_FIELDS[name]}
    assert ModelSpec.from_json(values, "file") == replace(SPEC, **then)


def test_models_had_one_block_at_each_scale_at_first() -> None:
    values = {name: value for name, value in SPEC.to_json().items() if name not in LATER_FIELDS}
    assert "blocks" not in values
    assert ModelSpec.from_json(values, "file").blocks == 1
    three = {**values, "blocks": 3, "parameters": generator_parameters("rgb", 32, 3)}
    assert ModelSpec.from_json(three, "file").blocks == 3


@pytest.mark.parametrize("values", [None, [], "spec", 1])
def test_a_contract_that_is_no_object_is_refused(values: object) -> None:
    with pytest.raises(UserError, match=r"file: .*expected an object"):
        ModelSpec.from_json(values, "file")


@pytest.mark.parametrize("text", ["[" * MOST_CONTRACT, "{", "9" * 10_000])
def test_a_contract_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="file: model contract cannot be read: found "):
        ModelSpec.from_metadata({METADATA_KEY: text}, "file")


def test_a_contract_is_of_bounded_length() -> None:
    with pytest.raises(UserError, match="file: model contract has 65537 characters, expected at most 65536"):
        ModelSpec.from_metadata({METADATA_KEY: "x" * (MOST_CONTRACT + 1)}, "file")


def test_metadata_of_another_make_is_refused() -> None:
    with pytest.raises(UserError, match=r"net\.onnx: found no model contract.*cgan-export"):
        ModelSpec.from_metadata({"author": "somebody"}, Path("net.onnx"))
    with pytest.raises(UserError, match="found no JSON"):
        ModelSpec.from_metadata({METADATA_KEY: "{"}, "file")


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    """A file of some bytes with its sidecar."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"network" * 100)
    write_sidecar(path, Sidecar(spec=SPEC, file_sha256=file_sha256(path), verification={"verified": True, "max": 1e-7}))
    return path


def test_sidecar_comes_back(artefact: Path) -> None:
    assert sidecar_path(artefact).name == "model.onnx.json"
    sidecar = read_sidecar(artefact)
    assert sidecar is not None
    assert sidecar.spec == SPEC
    assert sidecar.verification == {"verified": True, "max": 1e-7}
    assert sorted(path.name for path in artefact.parent.iterdir()) == ["model.onnx", "model.onnx.json"]


def test_a_sidecar_says_how_the_file_was_built(artefact: Path) -> None:
    sidecar = read_sidecar(artefact)
    assert sidecar is not None and sidecar.build == {}
    write_sidecar(artefact, replace(sidecar, build={"flags": ["tf32"]}))
    assert read_sidecar(artefact) == replace(sidecar, build={"flags": ["tf32"]})
    values = json.loads(sidecar_path(artefact).read_text())
    del values["build"]  # as older versions wrote it
    sidecar_path(artefact).write_text(json.dumps(values))
    assert read_sidecar(artefact) == sidecar


def test_without_a_sidecar_nothing_vouches(artefact: Path) -> None:
    sidecar_path(artefact).unlink()
    assert read_sidecar(artefact) is None


@pytest.mark.parametrize("position", [0, 350, -1])
def test_one_changed_byte_is_noticed(artefact: Path, position: int) -> None:
    content = bytearray(artefact.read_bytes())
    content[position] ^= 1
    artefact.write_bytes(content)
    with pytest.raises(ChangedFileError, match=r"model\.onnx: changed since its export"):
        read_sidecar(artefact)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"text"', '{"spec": 1}', "\xff\xfe"])
def test_an_unreadable_sidecar_is_refused(artefact: Path, text: str) -> None:
    sidecar_path(artefact).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"model\.onnx\.json"):
        read_sidecar(artefact)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("file_sha256", 5, "found field file_sha256 5, expected a text"),
        ("verification", [], "found field verification \\[\\], expected an object"),
        ("build", [], "found field build"),
        ("build", {"checkpoint": []}, "found \\[\\], expected an object with the field"),
        ("build", {"checkpoint": {"epoch": "1", "metrics": {}}}, "found field epoch '1', expected a whole number"),
        ("build", {"checkpoint": {"epoch": 1, "metrics": {"test_psnr": "x"}}}, "found metric 'x', expected a number"),
        ("spec", {"created_with": {"torch": 1}}, "found version 'torch' 1, expected a text"),
    ],
)
def test_a_sidecar_with_a_field_of_another_type_is_refused(
    artefact: Path, name: str, value: object, message: str
) -> None:
    values = json.loads(sidecar_path(artefact).read_text())
    values[name] = {**values["spec"], **value} if name == "spec" and isinstance(value, dict) else value
    sidecar_path(artefact).write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"model\\.onnx\\.json: .*{message}.*; export the model again"):
        read_sidecar(artefact)


def test_a_sidecar_or_a_contract_without_bounds_is_refused(artefact: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    sidecar_path(artefact).write_text(deep)
    with pytest.raises(UserError, match="nested too deeply"):
        read_sidecar(artefact)
    with pytest.raises(UserError, match="has 200000 characters, expected at most 65536"):
        ModelSpec.from_metadata({METADATA_KEY: deep}, "x.onnx")
    sidecar_path(artefact).unlink()
    os.mkfifo(sidecar_path(artefact))
    with pytest.raises(UserError, match="found a folder or a device there, expected a file"):
        read_sidecar(artefact)


def test_a_sidecar_of_another_schema_is_refused(artefact: Path) -> None:
    values = json.loads(sidecar_path(artefact).read_text())
    values["spec"]["schema"] = 99
    sidecar_path(artefact).write_text(json.dumps(values))
    with pytest.raises(UserError, match="schema 99"):
        read_sidecar(artefact)


def test_a_spec_cannot_be_made_or_replaced_into_a_wrong_one() -> None:
    with pytest.raises(UserError):
        replace(SPEC, precision="fp64")  # type: ignore[arg-type]


def test_luma_weights_sum_to_one() -> None:
    assert sum(LUMA_REC601) == pytest.approx(1, abs=1e-12)


def test_the_contract_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, cgan.spec; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'click')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
