"""Parity: honest exports pass, wrong ones fail, and figures depend on the models and the photos' content alone."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgan.errors import GateError, UserError
from cgan.metrics.measurement import Measured
from infer.backends import open_model
from infer.backends.base import OutOfMemory
from infer.quality.differences import LEVEL_EDGES, Differences, compare_pictures
from infer.quality.gates import DEFAULT_GATES, Gates
from infer.quality.parity import Parity, _verdicts, check_parity
from infer.quality.photos import Source, by_content, photos_below
from tests.infer.quality.models import described


def parity(candidate: Path, run: Path, photos: list[Source], gates: Gates | None = None, **options: Any) -> Parity:
    with open_model(candidate, "cpu", 1) as model:
        return check_parity(model, run, photos, gates, device="cpu", **options)


def succeed(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Call the entry point of a command, which has to end with exit code 0."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Path]) -> list[Source]:
    """40 photos that the models of these tests were not trained on."""
    return photos_below(make_photos(tmp_path_factory.mktemp("parity-photos"), 40, seed=1))


@pytest.fixture(scope="module")
def export(
    tmp_path_factory: pytest.TempPathFactory, trained_run: Path, make_photos: Callable[..., Path]
) -> Callable[[str], Path]:
    """`export(precision)`: the trained run as an ONNX file, made once."""
    from export.cli import main

    folder = tmp_path_factory.mktemp("parity-exports")
    calibration = make_photos(folder / "calibration", 64, seed=2)

    def make(precision: str) -> Path:
        target = folder / precision
        if not target.exists():
            given = ["--precision", precision, "--calibration", str(calibration), "--quiet"]
            succeed(main, [str(trained_run), "--out", str(target), *given])
        (path,) = target.glob("*.onnx")
        return path

    return make


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_honest_export_passes(
    export: Callable[[str], Path], trained_run: Path, photos: list[Source], precision: str
) -> None:
    result = parity(export(precision), trained_run, photos)
    assert result.passed, result.table()
    assert result.photos == 40 and not result.failures
    limits = DEFAULT_GATES[precision]
    assert limits.min_psnr
    assert [v.limit for v in result.verdicts[1:]] == [limits.min_psnr, limits.min_psnr - 15, limits.max_delta_e]
    assert result.candidate.precision == precision
    assert (result.figures["psnr"].value == 100) == (precision == "fp32")


def with_node(source: Path, target: Path, operator: str, operand: np.ndarray, **attributes: Any) -> Path:
    """The ONNX file with one more node behind its output, and the contract that it had."""
    import onnx

    model = onnx.load(source)
    for node in model.graph.node:
        node.output[:] = ["before" if name == "rgb" else name for name in node.output]
        node.input[:] = ["before" if name == "rgb" else name for name in node.input]
    model.graph.initializer.append(onnx.numpy_helper.from_array(operand, "operand"))
    model.graph.node.append(onnx.helper.make_node(operator, ["before", "operand"], ["rgb"], **attributes))
    onnx.save(model, target)
    return target


@pytest.fixture(scope="module")
def wrong(
    tmp_path_factory: pytest.TempPathFactory, export: Callable[[str], Path], trained_run: Path, photo_folder: Path
) -> Callable[[str], Path]:
    """`wrong(kind)`: a model that is not the run's."""
    folder = tmp_path_factory.mktemp("wrong")

    def make(kind: str) -> Path:
        path = folder / f"{kind.replace(' ', '-')}.onnx"
        if kind == "channels swapped":
            return with_node(export("fp32"), path, "Gather", np.array([2, 1, 0]), axis=1)
        if kind == "gamma 1.02":
            return with_node(export("fp32"), path, "Pow", np.array(1.02, np.float32))
        if kind == "int8 on noise":
            from export.quantize import quantize_int8
            from export.verify import random_images

            with open_model(export("fp32"), "cpu", 1) as backend:
                spec = backend.spec
            quantize_int8(export("fp32"), spec, random_images(16, 32, 0), "cpu", path)
            return path
        from cgan.cli import main

        run = folder / "run"
        shutil.copytree(trained_run, run)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CGAN_CACHE", str(folder / "cache"))
            succeed(main, [str(photo_folder), "--out", str(run), "--resume", "--epochs", "3", *resumed_options()])
        return run

    return make


def resumed_options() -> list[str]:
    return [
        *("--width", "4", "--size", "32", "--batch-size", "4", "--test-fraction", "0.25", "--device", "cpu"),
        *("--precision", "fp32", "--no-fid", "--quiet", "--lr", "0.005"),
    ]


@pytest.mark.parametrize("kind", ["another epoch", "channels swapped", "gamma 1.02", "int8 on noise"])
def test_a_model_that_is_not_the_run_s_fails(
    wrong: Callable[[str], Path], trained_run: Path, photos: list[Source], kind: str
) -> None:
    result = parity(wrong(kind), trained_run, photos)
    failed = {verdict.gate for verdict in result.verdicts if not verdict.passed}
    assert not result.passed
    # By its pictures, whatever its contract says of where it comes from.
    assert "--min-psnr" in failed, result.table()
    assert ("trained weights that it was made from" in failed) == (kind == "another epoch")


@pytest.mark.slow
def test_each_gate_can_be_moved(export: Callable[[str], Path], trained_run: Path, photos: list[Source]) -> None:
    model = export("int8")
    for gates in (Gates(min_psnr=99.0), Gates(max_delta_e=0.02)):
        assert not parity(model, trained_run, photos, gates).passed
    result = parity(model, trained_run, photos, Gates(min_psnr=1.0, max_delta_e=50.0))
    assert result.passed and [v.limit for v in result.verdicts[1:]] == [1.0, 0.0, 50.0]


@pytest.mark.parametrize("gates", [{"min_psnr": -1.0}, {"max_delta_e": float("nan")}, {"max_fid_delta": float("inf")}])
def test_gates_that_are_no_limits_are_refused(gates: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"--(min-psnr|max-delta-e|max-fid-delta): found .* expected a number from 0"):
        Gates(**gates)


def test_a_psnr_that_no_pictures_have_is_refused() -> None:
    Gates(min_psnr=100.0)
    with pytest.raises(UserError, match=r"--min-psnr: found 100\.5, expected a number from 0 to 100, which equal"):
        Gates(min_psnr=100.5)


def test_the_strictest_gates_pass_equal_pictures() -> None:
    pictures = np.random.default_rng(0).random((3, 3, 32, 32), np.float32)
    differences = Differences()
    differences.add(compare_pictures(("a", "b", "c"), pictures, pictures.copy()))
    assert differences.figures()["delta_e_p99"].value == 0
    assert differences.figures()["psnr"].value == 100


def test_one_wrong_photo_among_many_good_ones_fails_the_gate_of_the_worst() -> None:
    model = described("int8")
    values = {"psnr": 50.0, "worst_psnr": 32.0, "delta_e_p99": 0.0}
    figures = {name: Measured(value, {}) for name, value in values.items()}
    failed = [v for v in _verdicts(model, model, figures, None, Gates()) if not v.passed]
    assert [str(v) for v in failed] == ["worst photo, 15 dB below --min-psnr: found 32, limit 33"]


def figures_of(result: Parity) -> list[float]:
    return [figure.value for figure in result.figures.values()]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.slow
def test_neither_order_nor_names_nor_batches_nor_workers_change_a_figure(
    export: Callable[[str], Path], trained_run: Path, photos: list[Source], precision: str
) -> None:
    expected = parity(export(precision), trained_run, photos, batch_size=4, workers=2)
    shuffled = [(f"{i}{Path(name).suffix}", path) for i, (name, path) in enumerate(photos)]
    random.Random(0).shuffle(shuffled)
    contents: list[Source] = [(name, path.read_bytes()) for name, path in photos if isinstance(path, Path)]
    for other, batch, workers in ((shuffled, 1, 1), (photos[::-1], 7, 3), (contents, 40, 2)):
        found = parity(export(precision), trained_run, other, batch_size=batch, workers=workers)
        assert figures_of(found) == pytest.approx(figures_of(expected), rel=0, abs=1e-6)
        assert found.level_bins.tolist() == expected.level_bins.tolist()


@pytest.mark.slow
def test_nor_do_they_change_a_distance_of_more_features_than_photos(
    export: Callable[[str], Path], trained_run: Path, photos: list[Source], tmp_path: Path
) -> None:
    from torch import nn

    from cgan.metrics.features import FeatureNetwork

    network = FeatureNetwork(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), 192, {"network": "test"})
    model = export("int8")
    expected = parity(model, trained_run, photos, features=network, cache=tmp_path / "a", batch_size=4, workers=2)
    assert expected.interval and expected.figures["fid_between"].value > 0
    for i, (batch, workers) in enumerate([(1, 1), (40, 3)]):
        options: dict[str, Any] = {"cache": tmp_path / str(i), "batch_size": batch, "workers": workers}
        found = parity(model, trained_run, photos[::-1], features=network, **options)
        assert figures_of(found) == pytest.approx(figures_of(expected), rel=0, abs=1e-6)
        assert found.interval == expected.interval


def test_photos_are_taken_in_the_order_of_their_content(
    wrong: Callable[[str], Path], trained_run: Path, photos: list[Source]
) -> None:
    import hashlib

    shuffled = list(photos)
    random.Random(2).shuffle(shuffled)
    entries = by_content(shuffled, 2).entries
    assert [entry.name for entry in entries] == [
        name
        for name, path in sorted(photos, key=lambda photo: hashlib.sha256(photo[1].read_bytes()).digest())  # type: ignore[union-attr]
    ]
    twice = by_content([("b.png", b"same"), ("a.png", b"same")], 2)
    assert [entry.name for entry in twice.entries] == ["a.png", "b.png"]
    model = wrong("channels swapped")
    one, other = parity(model, trained_run, photos), parity(model, trained_run, shuffled)
    assert figures_of(one) == figures_of(other)  # to the last bit, as sums are taken in one order


def test_figures_are_those_of_all_photos_by_hand(
    wrong: Callable[[str], Path], trained_run: Path, photos: list[Source]
) -> None:
    from skimage.color import deltaE_ciede2000, rgb2lab

    from infer.photo.decode import decode, model_input

    result = parity(wrong("channels swapped"), trained_run, photos)
    paths = [path for _, path in photos]
    gray = np.stack([model_input(decode(path), 32, 32) for path in paths])
    with open_model(trained_run, "cpu", 1) as backend:
        reference = backend.run(gray).astype(np.float64)
    difference = reference[:, ::-1] - reference
    photo_psnr = -10 * np.log10(np.square(difference).mean(axis=(1, 2, 3)))
    delta_e = deltaE_ciede2000(*(rgb2lab(np.moveaxis(x, 1, -1)) for x in (reference[:, ::-1], reference)))
    by_hand = {
        "psnr": -10 * np.log10(np.square(difference).mean()),
        "worst_psnr": photo_psnr.min(),
        "max_difference": np.abs(difference).max(),
        "mean_difference": np.abs(difference).mean(),
        "delta_e": delta_e.mean(),
        "delta_e_p99": np.quantile(delta_e, 0.99),
    }
    for name, value in by_hand.items():
        assert result.figures[name].value == pytest.approx(value, rel=1e-3, abs=0.011 if "p99" in name else 1e-6), name
    worst = [photos[i][0] for i in np.argsort(photo_psnr)[:8]]
    assert [photo.name for photo in result.worst] == worst
    histogram, _ = np.histogram(255 * np.abs(difference), LEVEL_EDGES)
    assert np.abs(result.level_bins - histogram).sum() < 1e-3 * histogram.sum()
    assert result.level_bins.sum() == difference.size


@pytest.mark.slow
def test_a_photo_that_cannot_be_read_is_missing_on_both_sides_and_counted(
    export: Callable[[str], Path], trained_run: Path, photos: list[Source], tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no photo")
    (tmp_path / "cut.png").write_bytes(photos[1][1].read_bytes()[:200])  # type: ignore[union-attr]
    broken: list[Source] = [(f"broken-{p.name}", p) for p in (tmp_path / "text.jpg", tmp_path / "cut.png")]
    gone: list[Source] = [("gone.png", tmp_path / "gone.png"), ("empty.png", b"")]
    result = parity(export("fp16"), trained_run, [*broken, *photos, *gone])
    assert result.photos == 40
    assert result.failures.keys() == {"broken-text.jpg", "broken-cut.png", "gone.png", "empty.png"}
    assert figures_of(result) == pytest.approx(figures_of(parity(export("fp16"), trained_run, photos)), abs=1e-4)
    with pytest.raises(UserError, match=r"found 2 photos, none that can be read \(.*; give other photos"):
        parity(export("fp16"), trained_run, broken)
    with pytest.raises(UserError, match="found 1 photo, none that can be read"):
        parity(export("fp16"), trained_run, gone[:1])


def test_a_candidate_that_cannot_run_fails_the_gate(
    export: Callable[[str], Path], trained_run: Path, photos: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_model(export("fp32"), "cpu", 1) as model:
        monkeypatch.setattr(model, "_run", lambda gray: np.full((len(gray), 3, 32, 32), np.nan, np.float32))
        with pytest.raises(GateError, match=r"cannot be run like the trained model on .* not finite.*do not ship it"):
            check_parity(model, trained_run, photos, device="cpu")

        def exhausted(gray: np.ndarray) -> np.ndarray:
            raise OutOfMemory("no room")

        monkeypatch.setattr(model, "_run", exhausted)
        with pytest.raises(UserError, match=r"too little memory for batches of 3 .*--batch-size") as caught:
            check_parity(model, trained_run, photos, device="cpu", batch_size=3)
        assert caught.value.exit_code == 2


def test_the_reference_has_to_be_a_run(export: Callable[[str], Path], photos: list[Source]) -> None:
    with pytest.raises(UserError, match="run"):
        parity(export("fp32"), export("fp32"), photos)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_photos(export: Callable[[str], Path], trained_run: Path, tmp_path: Path) -> None:
    import tracemalloc

    def peak(count: int) -> int:
        rng = np.random.default_rng(0)
        sources: list[Source] = []
        for i in range(count):
            path = tmp_path / f"{i}.png"
            Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
            sources.append((path.name, path))
        tracemalloc.start()
        parity(export("fp32"), trained_run, sources, workers=2)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(16)
    assert peak(400) < peak(100) + 2**20  # the pictures of 300 photos are 7 MiB
