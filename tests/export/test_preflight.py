"""The pre-flight linter: every defect is named before anything is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cgan.config import TrainConfig
from cgan.errors import GateError
from cgan.networks import Generator, build_generator
from cgan.spec import METADATA_KEY, Precision
from cgan.training.checkpoint import GENERATOR_FILE, load_checkpoint, load_generator, weights_digest
from export import artefact as pipeline
from export.cli import main
from export.preflight import HALF_MAX, check_model
from export.verify import natural_images

PHOTOS = natural_images(8, 32, 0)
CONFIG = TrainConfig(width=2, size=32, device="cpu")


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return build_generator(CONFIG).eval()


def first(generator: Generator, kind: type[nn.Module]) -> tuple[str, Any]:
    """Name and layer of the first of its kind."""
    return next((name, layer) for name, layer in generator.named_modules() if isinstance(layer, kind))


def refusal(generator: Generator, precision: Precision = "fp32", photos: np.ndarray = PHOTOS) -> str:
    with pytest.raises(GateError) as caught:
        check_model(generator, photos, precision)
    assert caught.value.exit_code == 1
    return str(caught.value)


def set_one(parameter: Tensor, value: float) -> None:
    with torch.no_grad():
        parameter.view(-1)[-1] = value


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("count", [1, 3, 8, 20])
@pytest.mark.slow
def test_a_sound_generator_passes_and_stays_as_it_is(generator: Generator, precision: Precision, count: int) -> None:
    before = weights_digest(generator.state_dict())
    check_model(generator, natural_images(count, 32, 1), precision)
    assert weights_digest(generator.state_dict()) == before
    assert not generator.training
    assert not any(layer._forward_hooks for layer in generator.modules())


# modes


def test_one_batch_norm_left_in_training_is_named(generator: Generator) -> None:
    name, layer = [(n, m) for n, m in generator.named_modules() if isinstance(m, nn.BatchNorm2d)][-1]
    layer.train()
    assert layer.running_mean is not None
    before = layer.running_mean.clone()
    error = refusal(generator)
    assert error.startswith(f"{name}: batch norm")
    assert "call eval()" in error
    assert torch.equal(layer.running_mean, before), "the check itself has changed the model"


def test_a_batch_norm_without_statistics_is_named(generator: Generator) -> None:
    name, layer = first(generator, nn.BatchNorm2d)
    layer.running_mean = layer.running_var = None
    assert refusal(generator).startswith(f"{name}: batch norm")


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_an_active_dropout_is_named(generator: Generator, kind: type[nn.Module]) -> None:
    _, block = first(generator, nn.Sequential)
    block.append(kind(0.5).train())
    name, _ = first(generator, kind)
    assert refusal(generator).startswith(f"{name}: dropout is active")


@pytest.mark.parametrize(("share", "training"), [(0.0, True), (0.5, False)])
def test_a_dropout_that_drops_nothing_passes(generator: Generator, share: float, training: bool) -> None:
    _, block = first(generator, nn.Sequential)
    block.append(nn.Dropout(share).train(training))
    check_model(generator, PHOTOS, "fp32")


# weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d])
def test_a_weight_that_is_no_number_is_named(generator: Generator, value: float, kind: type[nn.Module]) -> None:
    name, layer = first(generator, kind)
    set_one(layer.weight, value)
    error = refusal(generator)
    assert error.startswith(f"{name}.weight: found 1 weight not finite")


def test_statistics_of_batch_norm_count_as_weights(generator: Generator) -> None:
    name, layer = first(generator, nn.BatchNorm2d)
    layer.running_var.fill_(float("nan"))
    assert refusal(generator).startswith(f"{name}.running_var: found {len(layer.running_var)} weights")


# the batch


def test_colours_that_depend_on_the_batch_are_refused(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = generator.forward
    monkeypatch.setattr(generator, "forward", lambda gray: forward(gray) + 0.1 * gray.mean())
    assert "depend on the rest of its batch" in refusal(generator)


def test_functional_dropout_is_found_by_what_it_does(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = generator.forward
    monkeypatch.setattr(generator, "forward", lambda gray: nn.functional.dropout(forward(gray), 0.1, training=True))
    assert "depend on the rest of its batch" in refusal(generator)


def test_one_photo_is_enough_to_compare_batches(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = generator.forward
    monkeypatch.setattr(generator, "forward", lambda gray: forward(gray) / len(gray))
    assert "between batch 1 and 8" in refusal(generator, photos=PHOTOS[:1])


# half precision


@pytest.mark.parametrize("sign", [1, -1])
def test_a_weight_beyond_half_precision_is_named(generator: Generator, sign: int) -> None:
    layer = generator.body.head
    set_one(layer.weight, sign * HALF_MAX)
    generator.body.head.weight.data[:, :-1] = 0  # keeps the activation below
    assert HALF_MAX == 65504
    set_one(layer.weight, sign * 65600.0)
    error = refusal(generator, "fp16")
    assert error.startswith("body.head.weight: found a weight of 6.56e+04, fp16 ends at 65504")
    assert "use fp32" in error
    check_model(generator, PHOTOS, "fp32")
    check_model(generator, PHOTOS, "int8")


def raised(generator: Generator, bias: float, weight: float = 1.0) -> tuple[str, float]:
    """Raise what the last batch norm gives; its name and the largest value of it on PHOTOS."""
    name, layer = [(n, m) for n, m in generator.named_modules() if isinstance(m, nn.BatchNorm2d)][-1]
    seen: list[float] = []
    with torch.no_grad():
        layer.bias.fill_(bias)
        layer.weight.fill_(weight)
        generator.body.head.weight.zero_()  # so that rounding of large numbers is not seen in the colours
        hook = layer.register_forward_hook(lambda *call: seen.append(float(call[2].abs().max())))
        generator(torch.from_numpy(PHOTOS))
        hook.remove()
    return name, seen[0]


@pytest.mark.parametrize("sign", [1, -1])
def test_an_activation_beyond_half_precision_is_named(generator: Generator, sign: int) -> None:
    name, largest = raised(generator, sign * HALF_MAX, weight=1000.0)
    assert largest > HALF_MAX
    error = refusal(generator, "fp16")
    block = name.rpartition(".")[0]  # batch norm is folded into the convolution before it
    assert error.startswith(block)
    assert f": its output reaches {largest:.5g} on photos, fp16 ends at 65504;" in error
    check_model(generator, PHOTOS, "fp32")


def test_an_activation_within_half_precision_passes(generator: Generator) -> None:
    _, largest = raised(generator, HALF_MAX - 100)
    assert HALF_MAX - 200 < largest < HALF_MAX
    check_model(generator, PHOTOS, "fp16")


def test_activations_are_measured_on_the_photos_given(generator: Generator) -> None:
    black = np.zeros_like(PHOTOS)
    name, layer = first(generator, nn.Conv2d)
    with torch.no_grad():
        layer.weight.fill_(60000.0)
    check_model(generator, black, "fp16")
    assert refusal(generator, "fp16").startswith(f"{name}: its output reaches")


def test_a_running_variance_beyond_half_precision_is_no_overflow(generator: Generator) -> None:
    """An export folds batch norm in float32 for that very case."""
    _, layer = first(generator, nn.BatchNorm2d)
    layer.running_var.fill_(1e5)
    check_model(generator, PHOTOS, "fp16")
    bias = generator.body.head.bias
    assert bias is not None
    set_one(bias, 1e5)  # what is not folded away is found
    assert refusal(generator, "fp16").startswith("body.head.bias: found a weight of 1e+05")


def test_a_folded_weight_beyond_half_precision_is_found(generator: Generator) -> None:
    name, conv = first(generator, nn.Conv2d)
    _, norm = first(generator, nn.BatchNorm2d)
    with torch.no_grad():  # a channel that photos hardly reach: 1e-8 x weight, of 1e5 once folded
        conv.weight[0].fill_(1000.0)
        conv.weight[0, :, 1, 1] = -8000.0
        norm.running_var[0] = 1e-4
        norm.weight[0] = 1.0
    black = np.zeros_like(PHOTOS)
    assert refusal(generator, "fp16", black).startswith(f"{name}.weight: found a weight of ")


# from the command, before anything is written


def plant(run: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Change weights of a run as a training could have left them: the contract's digest fits."""
    path = run / "checkpoints" / GENERATOR_FILE
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    spec = json.loads(metadata[METADATA_KEY]) | {"weights_sha256": weights_digest(tensors)}
    save_file(tensors, path, metadata | {METADATA_KEY: json.dumps(spec)})
    load_generator(run)
    return run


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / GENERATOR_FILE).write_bytes((trained_run / "checkpoints" / GENERATOR_FILE).read_bytes())
    return checkpoints.parent


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: object) -> None:
        raise AssertionError("the exporter was called")

    monkeypatch.setattr(pipeline, "export_onnx", export)


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize(
    ("precision", "value", "expected"),
    [
        ("fp32", float("nan"), "body.head.bias: found 1 weight not finite"),
        ("fp16", 7e4, "body.head.bias: found a weight of 7e+04"),
        ("fp16", 65504.0, "body.head: its output reaches 65"),
    ],
)
@pytest.mark.slow
def test_the_command_refuses_before_it_writes(
    invoke: Callable[..., Any], run: Path, tmp_path: Path, precision: Precision, value: float, expected: str
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["body.head.weight"].abs_()
        set_one(tensors["body.head.bias"], value)

    out = tmp_path / "out"
    error = invoke(main, plant(run, change), "--out", out, "--precision", precision).error(1)
    assert expected in error
    assert not out.exists()


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("options", [(), ("--no-verify",), ("--keep-failed",)])
def test_the_command_refuses_batch_norm_in_training_mode(
    invoke: Callable[..., Any],
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:
    def load(source: Path) -> Any:
        loaded = load_checkpoint(source)
        first(loaded.generator, nn.BatchNorm2d)[1].train()
        return loaded

    monkeypatch.setattr(pipeline, "load_checkpoint", load)
    assert "batch norm" in invoke(main, trained_run, "--out", tmp_path / "out", *options).error(1)
    assert not (tmp_path / "out").exists()
