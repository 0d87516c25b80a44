"""cgan-train from the outside: every option, every file, every refusal."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import cgan
from cgan import cli, metrics, training
from cgan.checkpoint import TRAINING_FILE, load_generator
from cgan.cli import command, main
from cgan.config import TrainConfig
from cgan.metrics import FeatureNetwork

CHANGES = {
    "discriminator": ("patch", "dense"),
    "l1_weight": (1.0,),
    "label_smoothing": (0.7,),
    "width": (2,),
    "size": (48,),
    "epochs": (2,),
    "warmup_epochs": (1,),
    "batch_size": (3,),
    "lr": (1e-3,),
    "seed": (1, 2**63 - 1),
    "test_fraction": (0.5,),
    "flip": (True,),
    "precision": ("bf16",),
}
"""Values other than those of `tiny_options` that have to change the trained weights."""

OTHERWISE_TESTED = {"data", "out", "device", "fid", "inception_weights", "resume", "dry_run", "quiet", "version"}
"""Parameters that do not change the weights; each has a test of its own below."""


def flag(name: str, value: object) -> list[str]:
    return [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])


def weights(run: Path) -> str:
    return load_generator(run)[1].weights_sha256


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def train(
    invoke: Callable[..., Any], photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]
) -> Callable[..., Any]:
    """`train(*options, data=..., out=...)`: one tiny epoch into tmp_path / "run"."""

    def call(*options: object, data: Path = photo_folder, out: Path = tmp_path / "run") -> Any:
        return invoke(main, data, "--out", out, *tiny_options, "--epochs", 1, *options)

    return call


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path, tiny_options: tuple[str, ...]) -> str:
    """Digest of what `train()` gives without further options."""
    run = tmp_path_factory.mktemp("plain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGAN_CACHE", str(run.parent / "cache"))
        with pytest.raises(SystemExit):
            main([str(photo_folder), "--out", str(run), *tiny_options, "--epochs", "1"])
    return weights(run)


# options


def test_every_parameter_of_the_command_has_a_test() -> None:
    assert {parameter.name for parameter in command.params} - {"help"} == CHANGES.keys() | OTHERWISE_TESTED


def test_equal_options_give_equal_weights(train: Callable[..., Any], tmp_path: Path, plain_weights: str) -> None:
    assert train().code == 0
    assert weights(tmp_path / "run") == plain_weights


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in CHANGES.items() for value in values])
def test_each_option_changes_the_weights(
    train: Callable[..., Any], tmp_path: Path, plain_weights: str, name: str, value: object
) -> None:
    assert train(*flag(name, value)).code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config[name] == value
    spec = load_generator(tmp_path / "run")[1]
    assert spec.weights_sha256 != plain_weights
    assert spec.config_sha256 == TrainConfig(**config).digest()
    assert (spec.base_width, spec.render_size) == (config["width"], config["size"])
    assert len(lines(tmp_path / "run")) == config["epochs"]
    held_out = json.loads((tmp_path / "run" / "split.json").read_text())["test"]
    assert len(held_out) == 12 * config["test_fraction"]


def test_the_number_of_photos_trained_and_held_out(trained_run: Path, photo_folder: Path) -> None:
    parts = json.loads((trained_run / "split.json").read_text())
    assert (len(parts["train"]), len(parts["test"])) == (9, 3)
    names = {path.relative_to(photo_folder).as_posix() for path in photo_folder.rglob("*.*")}
    assert {*parts["train"], *parts["test"]} == names


def test_a_run_holds_what_the_design_promises(trained_run: Path) -> None:
    files = {path.relative_to(trained_run).as_posix() for path in trained_run.rglob("*") if path.is_file()}
    assert files == {
        *("config.json", "split.json", "environment.json", "metrics.jsonl"),
        *("checkpoints/last.safetensors", "checkpoints/last.training.safetensors"),
        *("samples/epoch-0001.png", "samples/epoch-0002.png"),
    }
    for metrics_of_epoch in lines(trained_run):
        for name in ("train_l1", "test_l1", "test_psnr", "test_gray_psnr", "test_colorfulness", "train_adversarial"):
            assert math.isfinite(metrics_of_epoch[name])
        assert 0 < metrics_of_epoch["test_l1"] < 1
        assert "test_fid" not in metrics_of_epoch
    with Image.open(trained_run / "samples" / "epoch-0002.png") as image:
        assert image.size == (3 * 34, 3 * 34)


def test_gray_photos_leave_valid_json(train: Callable[..., Any], tmp_path: Path, photo_folder: Path) -> None:
    for path in photo_folder.rglob("*.png"):
        gray = tmp_path / "gray" / path.name
        gray.parent.mkdir(exist_ok=True)
        with Image.open(path) as image:
            image.convert("L").save(gray)
    assert train(data=tmp_path / "gray").code == 0
    (found,) = lines(tmp_path / "run")
    assert found["test_gray_psnr"] is None
    assert found["test_near_gray_photos"] == found["test_photos"] == 2


# device


def test_device_cuda_without_one_is_refused(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda" in train("--device", "cuda").error(2)
    assert "--precision fp16" in train("--precision", "fp16").error(2)
    assert not (tmp_path / "run").exists()


def test_device_and_precision_auto_are_resolved(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train("--device", "auto", "--precision", "auto").code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["device"] == "cpu"
    assert config["precision"] in ("fp32", "bf16")


# FID


class MeanColor(nn.Module):
    """The three channel means as features."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def test_fid_is_written_with_its_fingerprint(
    train: Callable[..., Any], tmp_path: Path, plain_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []

    def load(path: Path | None) -> FeatureNetwork:
        asked.append(path)
        return FeatureNetwork(MeanColor(), 3, {"network": "mean colour", "weights_sha256": "0" * 64})

    monkeypatch.setattr(metrics, "load_inception", load)
    result = train("--fid", "--inception-weights", tmp_path / "weights.pth")
    assert result.code == 0
    assert asked == [tmp_path / "weights.pth"]
    (found,) = lines(tmp_path / "run")
    assert found["test_fid"].keys() == {"value", "photos", "network", "weights_sha256"}
    assert found["test_fid"]["photos"] == 3
    assert weights(tmp_path / "run") == plain_weights  # measuring changes nothing


def test_fid_is_on_unless_left_out_and_needs_its_weights(
    invoke: Callable[..., Any], photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    tiny = ("--width", 4, "--size", 32, "--device", "cpu")
    for options in ((), ("--inception-weights", tmp_path / "mine.pth")):
        error = invoke(main, photo_folder, "--out", tmp_path / "run", *tiny, *options).error(2)
        assert "--inception-weights" in error and "--no-fid" in error
        assert str(options[-1] if options else tmp_path / "torch") in error
    assert not list(tmp_path.iterdir())


def test_fid_of_one_held_out_photo_is_refused_before_training(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "load_inception", lambda path: FeatureNetwork(MeanColor(), 3, {}))
    assert "--no-fid" in train("--fid", "--test-fraction", 0.01).error(2)
    assert not (tmp_path / "run").exists()


# resume


def tensors(run: Path) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / TRAINING_FILE)


def test_one_epoch_and_resume_to_three_are_three_in_one_go(train: Callable[..., Any], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train("--epochs", 3, "--flip", out=whole).code == 0
    assert train("--epochs", 1, "--flip", out=parts).code == 0
    assert train("--epochs", 3, "--flip", "--resume", out=parts).code == 0
    assert weights(whole) == weights(parts)
    found, expected = tensors(parts), tensors(whole)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for line, expected_line in zip(lines(parts), lines(whole), strict=True):
        del line["images_per_second"], expected_line["images_per_second"]
        assert line == expected_line
    assert len(lines(parts)) == 3


def test_interrupted_training_says_how_to_go_on(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    real = training.train_epoch

    def interrupt(run: Any, epoch: int, *args: Any) -> Any:
        if epoch == 2:
            raise KeyboardInterrupt
        return real(run, epoch, *args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", interrupt)
        result = train("--epochs", 2)
    assert result.code == 130
    assert "--resume" in result.err and str(run) in result.err
    assert len(lines(run)) == 1
    assert train("--epochs", 2, "--resume").code == 0
    assert train("--epochs", 2, out=tmp_path / "whole").code == 0
    assert weights(run) == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lr", 0.001), "lr was 0.005 and is 0.001"),
        (("--discriminator", "patch"), "discriminator was unet and is patch"),
        (("--flip",), "flip was False and is True"),
        (("--precision", "bf16"), "precision was fp32 and is bf16"),
    ],
)
def test_resume_with_other_options_names_old_and_new(
    train: Callable[..., Any], trained_run: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*.*")}
    assert message in train("--lr", 0.005, "--epochs", 3, "--resume", *options).error(2)
    assert {path: path.read_bytes() for path in run.rglob("*.*")} == before


def test_resume_with_other_photos_is_refused(
    train: Callable[..., Any], trained_run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    fewer = shutil.copytree(photo_folder, tmp_path / "photos")
    next(fewer.rglob("*.png")).unlink()
    error = train("--lr", 0.005, "--epochs", 3, "--resume", data=fewer).error(2)
    assert "the photos are not those" in error


def test_resume_with_one_photo_retouched_is_refused(
    train: Callable[..., Any], trained_run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    photos = shutil.copytree(photo_folder, tmp_path / "photos")
    for path in sorted(photos.rglob("*.png")):
        content = path.read_bytes()
        path.write_bytes(content + b"\0")
        error = train("--lr", 0.005, "--epochs", 3, "--resume", data=photos).error(2)
        assert "the photos are not those" in error
        path.write_bytes(content)


def test_resume_without_a_run_is_refused(train: Callable[..., Any], tmp_path: Path) -> None:
    assert "config.json cannot be read" in train("--resume").error(2)
    assert not (tmp_path / "run").exists()


def test_resume_to_fewer_epochs_than_there_are_is_refused(
    train: Callable[..., Any], trained_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    assert "has 2 already" in train("--lr", 0.005, "--epochs", 1, "--resume").error(2)


def test_a_folder_that_holds_something_is_refused(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert "use --resume or another --out" in train().error(2)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    assert "found files" in train(out=tmp_path / "run" / "notes.txt").error(2)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_run_among_its_own_photos_is_refused(
    train: Callable[..., Any], tmp_path: Path, make_photos: Callable[..., Path]
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    before = sorted(folder.rglob("*"))
    for out in (folder / "run", folder, tmp_path / "photos" / ".." / "photos" / "run"):
        assert "found it inside" in train(data=folder, out=out).error(2)
    assert sorted(folder.rglob("*")) == before


# dry run


def test_a_dry_run_prints_the_resolved_configuration_and_touches_nothing(
    train: Callable[..., Any], tmp_path: Path, photo_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = train("--dry-run", "--device", "auto", "--precision", "auto", "--lr", 0.25, "--flip", "--fid")
    assert (result.code, result.err) == (0, "")
    printed = json.loads(result.out)
    assert printed.pop("photos") == 12
    assert printed.pop("out") == str(tmp_path / "run")
    config = TrainConfig(**printed)
    assert (config.device, config.lr, config.flip, config.fid, config.epochs) == ("cpu", 0.25, True, True, 1)
    assert config.precision in ("fp32", "bf16")
    assert not list(tmp_path.iterdir())
    assert not list(photo_cache.iterdir())


def test_a_dry_run_refuses_what_the_run_would(train: Callable[..., Any], tmp_path: Path) -> None:
    assert "--width" in train("--dry-run", "--width", 0).error(2)
    assert "no such folder" in train("--dry-run", data=tmp_path / "nowhere").error(2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    assert "found files in it" in train("--dry-run").error(2)


# output


def test_quiet_says_nothing(train: Callable[..., Any]) -> None:
    assert train() == (0, "", "")  # --quiet is among the tiny options


def test_progress_goes_to_stderr_a_line_an_epoch(
    invoke: Callable[..., Any], photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]
) -> None:
    loud = [option for option in tiny_options if option != "--quiet"]
    result = invoke(main, photo_folder, "--out", tmp_path / "run", *loud, "--epochs", 2)
    assert result.code == 0
    assert result.out == ""
    assert "9 photos train, 3 are held out; cpu, fp32" in result.err
    for epoch in (1, 2):
        assert re.search(rf"^epoch {epoch}/2  [\d.]+ images/s  L1 0\.\d+ \(held out 0\.\d+\)", result.err, re.M)
    assert result.err.endswith(f"done: {tmp_path / 'run'} holds 2 epochs\n")


def test_without_a_terminal_progress_is_plain_lines(
    invoke: Callable[..., Any],
    photo_folder: Path,
    tmp_path: Path,
    tiny_options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "PLAIN_SECONDS", -1)
    loud = [option for option in tiny_options if option != "--quiet"]
    result = invoke(main, photo_folder, "--out", tmp_path / "run", *loud, "--epochs", 1)
    assert "preparing photos  1/12" in result.err
    assert re.search(r"^epoch 1/1  4/9  l1 0\.\d+  adversarial ", result.err, re.M)
    assert "\r" not in result.err


def test_on_a_terminal_progress_is_a_bar(
    invoke: Callable[..., Any],
    photo_folder: Path,
    tmp_path: Path,
    tiny_options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    loud = [option for option in tiny_options if option != "--quiet"]
    result = invoke(main, photo_folder, "--out", tmp_path / "run", *loud, "--epochs", 2)
    assert result.code == 0
    assert "preparing photos:" in result.err
    assert "epoch 1/2:" in result.err and "epoch 2/2:" in result.err
    assert "done: " in result.err


def test_photos_that_cannot_be_read_are_warned_of_even_when_quiet(
    train: Callable[..., Any], tmp_path: Path, make_photos: Callable[..., Path]
) -> None:
    folder = make_photos(tmp_path / "photos", 24)
    (folder / "broken.jpg").write_bytes(b"no photo")
    result = train("--batch-size", 16, data=folder)
    assert result.code == 0
    assert re.fullmatch(r"warning: passed over broken\.jpg: UnidentifiedImageError: .*\n", result.err)


def test_help_names_every_option_and_its_default(invoke: Callable[..., Any]) -> None:
    for option in ("-h", "--help"):
        result = invoke(main, option)
        assert result.code == 0
        for parameter in command.params:
            assert all(name in result.out for name in parameter.opts if name.startswith("-"))
        for default in ("512.0", "0.0005", "0.02", "[default: 32]", "[default: 100]"):
            assert default in re.sub(r"\s+", " ", result.out)


def test_version(invoke: Callable[..., Any]) -> None:
    result = invoke(main, "--version")
    assert (result.code, result.out) == (0, f"cgan-train, version {cgan.__version__}\n")


# refusals


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--width", 0), "--width"),
        (("--size", 100), "--size"),
        (("--epochs", 0), "--epochs"),
        (("--warmup-epochs", 2), "--warmup-epochs"),
        (("--batch-size", 0), "--batch-size"),
        (("--lr", 0), "--lr"),
        (("--lr", "nan"), "--lr"),
        (("--seed", -1), "--seed"),
        (("--test-fraction", 1), "--test-fraction"),
        (("--l1-weight", -1), "--l1-weight"),
        (("--label-smoothing", 0.2), "--label-smoothing"),
    ],
)
def test_bad_values_are_refused_by_name(
    train: Callable[..., Any], tmp_path: Path, options: tuple[object, ...], named: str
) -> None:
    assert train(*options).error(2).startswith(f"error: {named}: found ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["photos"],
        ["photos", "--out", "run", "--width", "wide"],
        ["photos", "--out", "run", "--discriminator", "vit"],
        ["photos", "--out", "run", "--precision", "fp8"],
        ["photos", "--out", "run", "--nonsense"],
        ["photos", "more", "--out", "run"],
    ],
)
def test_a_command_line_that_is_none_exits_2(invoke: Callable[..., Any], arguments: list[str]) -> None:
    result = invoke(main, *arguments)
    assert result.code == 2
    assert "Error: " in result.err
    assert "Traceback" not in result.err


def test_photos_that_are_not_there_are_refused(train: Callable[..., Any], tmp_path: Path) -> None:
    assert "no such folder" in train(data=tmp_path / "nowhere").error(2)
    (tmp_path / "empty").mkdir()
    assert "found no photos" in train(data=tmp_path / "empty").error(2)
    Image.new("RGB", (40, 40)).save(tmp_path / "empty" / "one.png")
    assert "expected at least 2" in train(data=tmp_path / "empty").error(2)
    assert not (tmp_path / "run").exists()


def test_too_many_broken_photos_are_refused(
    train: Callable[..., Any], tmp_path: Path, make_photos: Callable[..., Path]
) -> None:
    folder = make_photos(tmp_path / "photos", 6)
    (folder / "broken.jpg").write_bytes(b"no photo")
    assert "1 of 7 photos cannot be read" in train(data=folder).error(2)


def test_a_diverged_run_fails_with_one_line(train: Callable[..., Any], tmp_path: Path) -> None:
    error = train("--lr", 1e30).error(1)
    assert "not finite" in error and "--lr" in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_missing_packages_are_named_with_the_extra(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cgan, "training")
    monkeypatch.setitem(__import__("sys").modules, "cgan.training", None)
    assert "pip install 'cgan[train]'" in train().error(2)


def test_a_changed_checkpoint_is_not_resumed(train: Callable[..., Any], trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    (run / "checkpoints" / TRAINING_FILE).write_bytes(b"not a checkpoint")
    assert "not a safetensors checkpoint" in train("--lr", 0.005, "--epochs", 3, "--resume").error(2)
