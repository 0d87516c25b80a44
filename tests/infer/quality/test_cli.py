"""cgan-infer parity as a command: exit codes, refusals, JSON, FID with a feature network of one's own, and the page."""

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import onnx
import pytest
from PIL import Image

from cgan.command import run_command
from infer.quality.cli import evaluate, parity
from tests.cgan.lite_weights import lite_weights

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
Invoke = Callable[..., Any]


def main(arguments: list[str]) -> None:
    run_command(click.Group("cgan-infer", {"parity": parity, "evaluate": evaluate}), arguments, "cgan-infer")


class Files(NamedTuple):
    good: Path
    bad: Path
    features: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, exported_onnx: Path) -> Files:
    """The export, one with red and blue swapped, and a seeded feature extractor: not Inception, which cannot be had."""
    folder = tmp_path_factory.mktemp("parity-cli")
    model = onnx.load(exported_onnx)
    for node in model.graph.node:
        node.output[:] = ["before" if name == "rgb" else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 1, 0]), "order"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["before", "order"], ["rgb"], axis=1))
    onnx.save(model, folder / "bad.onnx")

    weights = np.random.default_rng(0).standard_normal((12, 3, 5, 5)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        onnx.helper.make_node("Relu", ["c"], ["r"]),
        onnx.helper.make_node("GlobalAveragePool", ["r"], ["y"]),
    ]
    shapes: dict[str, list[str | int]] = {"x": ["n", 3, 24, 24], "y": ["n", 12, 1, 1]}
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = onnx.helper.make_graph(nodes, "f", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weights, "w")])
    features = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(features, folder / "features.onnx")
    return Files(exported_onnx, folder / "bad.onnx", folder / "features.onnx")


def options(run: Path, photos: Path) -> list[str]:
    return ["--reference", str(run), "--data", str(photos), "--device", "cpu"]


def test_a_good_export_exits_with_0_and_its_figures_are_in_the_json(
    invoke: Invoke, files: Files, trained_run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "parity.json"
    features = ["--features", files.features, "--max-fid-delta", "0.01"]
    result = invoke(main, "parity", files.good, *options(trained_run, photo_folder), *features, "--json", out)
    assert result.code == 0, result.err
    found = json.loads(out.read_text())
    assert found["passed"] and found["photos"] == 12 and found["failed"] == {}
    assert [gate["gate"].split(",")[0] for gate in found["gates"]][1:] == [
        *("--min-psnr", "worst photo", "--max-delta-e", "--max-fid-delta")
    ]
    for name in ("frechet_reference", "frechet_candidate", "frechet_delta", "frechet_between", "kernel_between"):
        figure = found["figures"][name]
        assert figure["photos"] == 12 and figure["pictures"] == "32 x 32" and figure["resize"] == "bilinear to 24 x 24"
        assert len(figure["weights_sha256"]) == 64 and "torcheval" in figure["versions"]
        assert figure["device"] == "cpu" and figure["onnxruntime"] and figure["versions"]["pillow"]
    assert len({figure["photos_sha256"] for figure in found["figures"].values()}) == 1
    delta = found["figures"]["frechet_candidate"]["value"] - found["figures"]["frechet_reference"]["value"]
    assert found["figures"]["frechet_delta"]["value"] == delta
    assert not [name for name in found["figures"] if "fid" in name or "kid" in name]
    interval = found["frechet_delta_interval"]
    assert interval["low"] <= delta <= interval["high"] and interval["replicates"] == 100
    for line in (
        "PSNR over all values",
        "at least 100 dB",
        "Fréchet distance (features), candidate to reference",
        "95% between",
    ):
        assert line in result.out
    assert result.out.count("pass  ") == 5 and "FAIL" not in result.out
    assert "note: 12 photos are too few for 12 features" in result.err


def test_a_wrong_model_exits_with_1_and_one_line(
    invoke: Invoke, files: Files, trained_run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    written = ["--json", tmp_path / "a.json", "--html", tmp_path / "a.html"]
    result = invoke(main, "parity", files.bad, *options(trained_run, photo_folder), "--no-fid", "--quiet", *written)
    assert re.search(
        r"bad\.onnx differs too much from the model of .*--min-psnr: found [\d.]+, limit 60.*again", result.error(1)
    )
    assert result.out == ""
    assert not json.loads((tmp_path / "a.json").read_text())["passed"]
    assert "is NOT the reference" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_what_is_written_replaces_nothing_but_earlier_ones(
    invoke: Invoke, files: Files, trained_run: Path, photo_folder: Path, tmp_path: Path, option: str
) -> None:
    arguments = ["parity", files.good, *options(trained_run, photo_folder), "--no-fid", "--quiet", option]
    photo = Path(shutil.copy(next(photo_folder.rglob("*.*")), tmp_path))
    before = photo.read_bytes()
    assert f"{option} {photo}: found something that this command did not write" in invoke(
        main, *arguments, photo
    ).error(2)
    assert photo.read_bytes() == before
    written = tmp_path / "figures"
    written.touch()
    assert [invoke(main, *arguments, written).code for _ in range(2)] == [0, 0]
    assert written.stat().st_size > 0


def test_the_fid_gate_fails_by_itself(invoke: Invoke, files: Files, trained_run: Path, photo_folder: Path) -> None:
    open_gates = ["--min-psnr", "0", "--max-delta-e", "300", "--features", files.features]
    given = [*options(trained_run, photo_folder), *open_gates, "--max-fid-delta"]
    gate = "--max-fid-delta, here of the Fréchet distance (features), far end of the interval"
    assert gate in invoke(main, "parity", files.bad, *given, "1e-6").error(1)
    assert invoke(main, "parity", files.bad, *given, "1e6").code == 0


def test_features_are_computed_once(
    invoke: Invoke, files: Files, trained_run: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cgan.metrics.features import FeatureNetwork

    seen = 0
    extract = FeatureNetwork.extract

    def counting(self: FeatureNetwork, pictures: Any, device: Any) -> Any:
        nonlocal seen
        seen += len(pictures)
        return extract(self, pictures, device)

    monkeypatch.setattr(FeatureNetwork, "extract", counting)
    given = [*options(trained_run, photo_folder), "--features", files.features, "--max-fid-delta", "1"]
    first = invoke(main, "parity", files.good, *given)
    assert seen == 36
    again = invoke(main, "parity", files.good, *given, "--batch-size", "1", "--workers", "1")
    assert seen == 36 and again.out == first.out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"FID and KID need Inception v3 weights, found no file .*--inception-weights FILE.*--no-fid"),
        (["--inception-weights", "none.pth"], r"found no file none\.pth"),
        (["--features", "none.onnx"], r"--features none\.onnx: found no --max-fid-delta, whose default is for Incep"),
        (["--features", "none.onnx", "--max-fid-delta", "1"], r"--features none\.onnx: found no such file"),
        (["--no-fid", "--features", "f.onnx"], r"--features f\.onnx: it has no effect with --no-fid"),
        (["--no-fid", "--inception-weights", "f.pth"], r"--inception-weights f\.pth: it has no effect with --no-fid"),
        (["--no-fid", "--max-fid-delta", "1"], r"--max-fid-delta 1: it has no effect with --no-fid"),
        (["--no-fid", "--min-psnr", "-1"], r"--min-psnr: found -1\.0, expected a number from 0 on"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(
    invoke: Invoke,
    files: Files,
    given: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    result = invoke(main, "parity", files.good, *options(tmp_path / "no-run", tmp_path / "no-photos"), *given)
    assert re.search(message, result.error(2))


def test_a_broken_photo_is_named_and_its_name_cannot_leave_the_line(
    invoke: Invoke, files: Files, trained_run: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", 19)
    (photos / "\x1b[2J<script>.jpg").write_text("no photo")
    page = tmp_path / "a.html"
    result = invoke(main, "parity", files.good, *options(trained_run, photos), "--no-fid", "--html", page)
    assert result.code == 0
    assert "warning: passed over \\x1b[2J<script>.jpg: not an image" in result.err
    assert "19 compared, 1 that cannot be read left out of both" in result.out
    assert "<script" not in page.read_text() and "&lt;script&gt;" in page.read_text()


def test_more_than_a_twentieth_of_broken_photos_fails_after_all_is_written(
    invoke: Invoke, files: Files, trained_run: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", 18)
    (photos / "broken.jpg").write_text("no photo")
    out = tmp_path / "a.json"
    result = invoke(main, "parity", files.good, *options(trained_run, photos), "--no-fid", "--json", out)
    assert "1 of 19 photos cannot be read, more than 5%" in result.error(1)
    assert json.loads(out.read_text())["passed"] and "18 compared" in result.out


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("place", ["gone/a", "."])
def test_a_file_that_cannot_be_written_is_refused_first(
    invoke: Invoke, files: Files, option: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(main, "parity", files.good, *options(tmp_path / "run", tmp_path / "photos"), option, place)
    assert re.search(
        rf"error: {option} {re.escape(place)}: found (no folder .*gone|something that this command did not)",
        result.error(2),
    )
    assert list(tmp_path.iterdir()) == []


def test_features_that_cannot_be_kept_are_noted_and_change_nothing(
    invoke: Invoke, files: Files, trained_run: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*options(trained_run, photo_folder), "--features", files.features, "--max-fid-delta", "1"]
    expected = invoke(main, "parity", files.good, *given)
    (tmp_path / "file").touch()
    monkeypatch.setenv("CGAN_CACHE", str(tmp_path / "file"))
    found = invoke(main, "parity", files.good, *given)
    assert (found.code, found.out) == (0, expected.out)
    assert found.err.count("features are not kept there") == 1 and "note: " in found.err


class Page(html.parser.HTMLParser):
    """Collects the references of a page, and checks that its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "action", "data", "srcset", "background")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "rect"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, files: Files, trained_run: Path, photo_folder: Path) -> Path:
    path = tmp_path_factory.mktemp("page") / "parity.html"
    with pytest.raises(SystemExit) as end:
        main(
            ["parity", str(files.bad), *options(trained_run, photo_folder), "--no-fid", "--html", str(path), "--quiet"]
        )
    assert end.value.code == 1
    return path


def test_the_page_shows_the_photos_in_gray_and_in_colour(page: Path, photo_folder: Path) -> None:
    text = page.read_text()
    worst = text.split("Worst photos by PSNR", 1)[1].split("</figure>", 1)[0]
    pictures = {
        label: Image.open(io.BytesIO(base64.b64decode(content)))
        for label, content in re.findall(r'alt="([^"]+)" src="data:image/png;base64,([^"]+)"', worst)
    }
    assert list(pictures) == ["gray", "reference", "candidate", "difference x 16", "real photo"]
    (name,) = re.findall(r"<figcaption>(.*?):", worst)
    with Image.open(photo_folder / name) as photo:
        real = np.asarray(photo.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(pictures["real photo"]) - real).max() < 40 and np.ptp(np.asarray(pictures["real photo"]))
    gray = np.asarray(pictures["gray"]).astype(int)
    assert np.ptp(gray, axis=2).max() == 0
    assert np.abs(gray[..., 0] - real @ [0.299, 0.587, 0.114]).mean() < 4


def test_the_page_refers_to_nothing_outside_itself(page: Path) -> None:
    text = page.read_text()
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    assert len(parsed.references) == 5 * 8  # of the eight worst photos: gray, reference, candidate, difference, real
    assert all(reference.startswith("data:image/png;base64,") for reference in parsed.references)
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC: <code>cgan-infer parity .*--no-fid --html .*</code>", text)
    for part in ("Gates", "--min-psnr", "Worst photos by PSNR", "photo-0", "50 to 256", "<svg"):
        assert part in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.slow
def test_the_page_renders_in_a_browser_without_a_request(page: Path, tmp_path: Path) -> None:
    assert visited(page, tmp_path / "page.png") == set()
    from PIL import Image

    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (1000, 2000)
        assert len(image.convert("RGB").getcolors(2**24) or []) > 500  # text, bars and photos
    outside = '<img src="http://127.0.0.1:9/outside.png">'
    text = page.read_text()
    (tmp_path / "refused.html").write_text(text.replace("</body>", f"{outside}</body>"))
    assert visited(tmp_path / "refused.html", tmp_path / "refused.png") == set()  # by the page's own policy
    (tmp_path / "loaded.html").write_text(f"<html><body>{outside}</body></html>")
    assert visited(tmp_path / "loaded.html", tmp_path / "loaded.png") == {"http://127.0.0.1:9/outside.png"}


def visited(page: Path, shot: Path) -> set[str]:
    """Addresses that a browser asked for while it made a picture of a page, less those of its own services."""
    assert CHROMIUM
    log = shot.with_suffix(".json")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    more = [f"--log-net-log={log}", f"--user-data-dir={shot.with_suffix('.user')}", "--window-size=1000,2000"]
    # Whatever the browser itself asks for at its start finds no host.
    hosts = ["--host-resolver-rules=MAP * ~NOTFOUND"]
    subprocess.run(
        [CHROMIUM, *flags, *more, *hosts, f"--screenshot={shot}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=180,
    )
    asked = re.findall(r'"url": ?"((?:http|ws|ftp)[^"]*)"', log.read_text())
    return {url for url in asked if not re.search(r"//[^/]*\.(google|gvt1|googleapis|gstatic)\.com/", url)}


def test_an_exported_model_is_no_reference(invoke: Invoke, files: Files, photo_folder: Path) -> None:
    error = invoke(main, "parity", files.good, *options(files.good, photo_folder), "--no-fid").error(2)
    assert "found an exported model, expected a run folder of cgan-train" in error


@pytest.mark.slow
def test_distances_over_efficientnet_are_named_after_it(
    invoke: Invoke,
    files: Files,
    photo_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cgan import efficientnet

    # Random weights of its architecture, and small pictures: at 260 pixels it takes seconds.
    monkeypatch.setattr(efficientnet, "_packaged", lambda variant: lite_weights(tmp_path_factory, variant))
    monkeypatch.setattr(efficientnet.PooledFeatures, "SIDE", 32)
    result = invoke(main, "evaluate", files.good, photo_folder, "--features", "efficientnet-lite2")
    assert result.code == 0, result.err
    assert (
        "Fréchet distance (efficientnet-lite2)" in result.out and "kernel distance (efficientnet-lite2)" in result.out
    )
    assert "FID  " not in result.out
