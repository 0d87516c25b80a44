"""Feature networks: Inception from a file, ONNX extractors, and the cache of features."""

import pickle
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgan.errors import UserError
from cgan.files import file_sha256
from cgan.metrics.feature_cache import FeatureCache
from cgan.metrics.features import (
    INCEPTION_CACHE_NAME,
    FeatureNetwork,
    exact_convolutions,
    inception_path,
    load_features,
    load_inception,
)

CPU = torch.device("cpu")


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torchvision's Inception v3 with seeded random weights."""
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_comes_from_the_file_and_says_so(inception_weights: Path) -> None:
    network = load_inception(inception_weights)
    assert network.fingerprint["weights_sha256"] == file_sha256(inception_weights)
    assert "inception_v3" in network.fingerprint["network"]
    assert "299" in network.fingerprint["resize"]
    state = torch.load(inception_weights, weights_only=True)
    model = network.module.model
    assert isinstance(model, nn.Module)
    loaded = model.state_dict()
    assert not [name for name in loaded if not torch.equal(loaded[name], state[name])]
    assert not network.module.training
    photos = seeded(2, 3, 32, 32)
    with torch.no_grad():
        features = network.module(photos)
        assert features.shape == (2, network.dimensions)
        assert torch.allclose(network.module(photos[:1]), features[:1], atol=1e-5)  # evaluation mode: no batch norm
        setattr(model, "transform_input", False)  # noqa: B010
        assert not torch.allclose(network.module(photos), features)  # the input is normalised as torchvision does


@pytest.mark.slow
def test_inception_is_built_without_warnings(inception_weights: Path) -> None:
    # In a process of its own, because torcheval warns when it is imported first.
    code = f"import pathlib, cgan.metrics.features as m; m.load_inception(pathlib.Path({str(inception_weights)!r}))"
    strict = ["-W", "error::FutureWarning", "-W", "error::UserWarning"]
    done = subprocess.run([sys.executable, *strict, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_warnings_are_not_silenced(inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(weights: None) -> nn.Module:
        warnings.warn("something else is deprecated", FutureWarning, stacklevel=1)
        return nn.Linear(3, 3)

    monkeypatch.setattr("torchvision.models.inception_v3", build)
    before = list(warnings.filters)
    with pytest.warns(FutureWarning, match="something else"), pytest.raises(UserError):
        load_inception(inception_weights)
    assert warnings.filters == before


def test_inception_path_is_the_file_or_the_one_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / INCEPTION_CACHE_NAME
    cached.parent.mkdir(parents=True)
    cached.touch()
    (tmp_path / "mine.pth").touch()
    assert inception_path(None) == cached
    assert inception_path(tmp_path / "mine.pth") == tmp_path / "mine.pth"


@pytest.mark.parametrize("ask", [inception_path, load_inception])
def test_missing_inception_weights_say_what_to_do(
    ask: Callable[[Path | None], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for weights in (None, tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(UserError) as caught:
            ask(weights)
        assert str(weights or tmp_path / "hub" / "checkpoints") in str(caught.value)
        assert "--inception-weights" in str(caught.value)
        assert "inception_v3(weights='DEFAULT')" in str(caught.value)
        assert "--no-fid" in str(caught.value)
        assert caught.value.exit_code == 2


class Harmful:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", ["text", "list", "other network", "pickle"])
def test_a_file_that_is_no_inception_is_refused(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.models.inception_v3", lambda weights: nn.Linear(3, 3))  # fast to build
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("no weights at all")
    elif content == "pickle":
        path.write_bytes(pickle.dumps({"model": Harmful(tmp_path / "harm")}))
    else:
        torch.save([1, 2] if content == "list" else nn.Conv2d(1, 1, 3).state_dict(), path)
    with pytest.raises(UserError, match=r"weights\.pth: not the weights of torchvision's Inception v3") as caught:
        load_inception(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def extractor(path: Path, size: int | str = 16, batch: int | str = "n", features: int = 8, channels: int = 3) -> Path:
    """A seeded ONNX feature extractor: a convolution, ReLU, the mean over places."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = seeded(features, channels, 3, 3, seed=3).numpy() - 0.3
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["y"]),  # N x features x 1 x 1
    ]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, size, size])
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, features, 1, 1])
    graph = helper.make_graph(nodes, "features", [source], [target], [numpy_helper.from_array(weights, "w")])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_an_onnx_extractor_gives_its_features_after_a_bilinear_resize(tmp_path: Path) -> None:
    network = load_features(features=extractor(tmp_path / "f.onnx"))
    assert (network.dimensions, network.fingerprint["resize"]) == (8, "bilinear to 16 x 16")
    assert network.fingerprint["weights_sha256"] == file_sha256(tmp_path / "f.onnx")
    pictures = seeded(5, 3, 32, 32)
    small = nn.functional.interpolate(pictures, (16, 16), mode="bilinear", align_corners=False)
    weights = seeded(8, 3, 3, 3, seed=3) - 0.3
    expected = nn.functional.conv2d(small, weights, stride=2).relu().mean(dim=(2, 3))
    assert torch.allclose(network.extract(pictures, CPU), expected, atol=1e-5)


@pytest.mark.parametrize(("size", "batch"), [("h", "n"), (16, 1)])
def test_an_onnx_extractor_may_take_any_size_or_one_picture_at_a_time(
    tmp_path: Path, size: int | str, batch: int | str
) -> None:
    network = load_features(features=extractor(tmp_path / "f.onnx", size, batch))
    pictures = seeded(3, 3, 16, 16)
    together = network.extract(pictures, CPU)
    assert together.shape == (3, 8)
    assert torch.allclose(torch.cat([network.extract(p, CPU) for p in pictures.split(1)]), together, atol=1e-6)


@pytest.mark.parametrize("kind", ["missing", "text", "gray", "batch of 4", "external data"])
def test_a_file_that_is_no_extractor_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f.onnx"
    if kind == "text":
        path.write_text("no network")
    elif kind == "gray":
        extractor(path, channels=1)
    elif kind == "batch of 4":
        extractor(path, batch=4)
    elif kind == "external data":
        import onnx

        model = onnx.load(extractor(path))
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(UserError, match=r"--features .*f\.onnx: found no") as caught:
        load_features(features=path)
    assert "\n" not in str(caught.value)


def test_two_feature_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--inception-weights .* no effect beside --features"):
        load_features(tmp_path / "a.pth", tmp_path / "b.onnx")


class Counting(nn.Module):
    """Channel means as features, with a count of pictures."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x.mean(dim=(2, 3))


def test_the_cache_knows_pictures_by_content_and_network(tmp_path: Path) -> None:
    module = Counting()
    network = FeatureNetwork(module, 3, {"network": "test"})
    pictures = seeded(6, 3, 4, 4)
    with closing(FeatureCache(tmp_path / "new", network, CPU)) as cache:
        first = cache.extract(pictures)
    with closing(FeatureCache(tmp_path / "new", network, CPU)) as cache:
        again = cache.extract(pictures.flip(0)).flip(0)
        assert (module.seen, cache.hits) == (6, 6)
        assert torch.equal(first, again) and torch.allclose(first, pictures.mean(dim=(2, 3)))
        changed = pictures.clone()
        changed[2, 0, 0, 0] += 1e-7
        assert not torch.equal(changed, pictures)
        cache.extract(changed)
        assert module.seen == 7
        cache.extract(pictures[:1].reshape(1, 3, 2, 8))
        assert module.seen == 8  # the same bytes in another shape
    other = FeatureNetwork(module, 3, {"network": "test", "weights_sha256": "other"})
    with closing(FeatureCache(tmp_path / "new", other, CPU)) as cache:
        cache.extract(pictures)
    assert module.seen == 14


def test_the_cache_serves_threads_at_once(tmp_path: Path) -> None:
    network = FeatureNetwork(Counting(), 3, {"network": "test"})
    pictures = seeded(64, 3, 4, 4)
    with closing(FeatureCache(tmp_path, network, CPU)) as cache, ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(cache.extract, [*pictures.split(4), *pictures.split(8)]))
    assert torch.equal(torch.cat(rows[:16]), torch.cat(rows[16:]))


@pytest.mark.parametrize("damage", ["no database", "no folder", "later"])
def test_without_a_usable_cache_features_are_the_same_and_a_note_says_so(tmp_path: Path, damage: str) -> None:
    folder, network, pictures = tmp_path / "cache", FeatureNetwork(Counting(), 3, {}), seeded(6, 3, 4, 4)
    if damage == "no folder":
        folder.write_text("a file")
    elif damage == "no database":
        folder.mkdir()
        (folder / "features.sqlite").write_text("no database at all, but long enough to be taken for one" * 20)
    with closing(FeatureCache(folder, network, CPU)) as cache:
        if damage == "later":
            cache.extract(pictures[:3])
            assert cache.note is None
            (folder / "features.sqlite").unlink()  # SQLite writes no more to a file that is gone
        for part in pictures.split(2):
            assert torch.equal(cache.extract(part), network.extract(part, CPU))
        assert cache.note and "features.sqlite: features are not kept there" in cache.note
        assert "CGAN_CACHE" in cache.note


def zero(rows: list[tuple[bytes, bytes, bytes]]) -> list[tuple[bytes, bytes, bytes]]:
    return [(key, bytes(len(row)), digest) for key, row, digest in rows]


def swap(rows: list[tuple[bytes, bytes, bytes]]) -> list[tuple[bytes, bytes, bytes]]:
    return [(rows[0][0], *rows[1][1:]), (rows[1][0], *rows[0][1:])]


def cut(rows: list[tuple[bytes, bytes, bytes]]) -> list[tuple[bytes, bytes, bytes]]:
    return [(key, row[:-4], digest) for key, row, digest in rows]


@pytest.mark.parametrize("damage", [zero, swap, cut, lambda rows: [(key, None, None) for key, *_ in rows]])
def test_damaged_rows_are_computed_again_and_noted(tmp_path: Path, damage: Callable[..., Any]) -> None:
    network, pictures = FeatureNetwork(Counting(), 3, {}), seeded(5, 3, 4, 4)
    with closing(FeatureCache(tmp_path, network, CPU)) as cache:
        first = cache.extract(pictures)
    with closing(sqlite3.connect(tmp_path / "features.sqlite")) as database, database:
        (table,) = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchone()
        rows = database.execute(f"SELECT * FROM {table}").fetchall()[:2]
        database.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", damage(rows))
    with closing(FeatureCache(tmp_path, network, CPU)) as cache:
        assert torch.equal(cache.extract(pictures), first)
        assert cache.hits == 3
        assert cache.note and "features of 2 pictures were damaged and computed again" in cache.note
    with closing(FeatureCache(tmp_path, network, CPU)) as cache:
        assert torch.equal(cache.extract(pictures), first)
        assert (cache.hits, cache.note) == (5, None)


def test_the_cache_knows_the_libraries_that_made_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, pictures = FeatureNetwork(Counting(), 3, {}), seeded(2, 3, 4, 4)
    for versions, hits in (({"torchvision": "1"}, 0), ({"torchvision": "2"}, 0), ({"torchvision": "1"}, 2)):
        monkeypatch.setattr("cgan.metrics.feature_cache.library_versions", lambda versions=versions: versions)
        with closing(FeatureCache(tmp_path, network, CPU)) as cache:
            cache.extract(pictures)
            assert cache.hits == hits


def test_an_extractor_whose_number_of_features_depends_on_the_size_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    pool = helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[112, 112], strides=[112, 112])
    node = helper.make_node("Flatten", ["p"], ["y"])
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])]
    ends += [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "d"])]
    graph = helper.make_graph([pool, node], "f", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "f.onnx")
    with pytest.raises(
        UserError, match=r"its number of features depends on the picture's size: 12 of 224 x 224 pixels and 48"
    ):
        load_features(features=tmp_path / "f.onnx")


def expander(path: Path, shape: list[int | str], size: int | str = 16, kind: int = 1) -> Path:
    """A network whose output has this shape for each picture; no number in the file is larger than a shape."""
    import onnx
    from onnx import TensorProto, helper

    ends = [int(length) if isinstance(length, int) else 1 for length in shape[1:]]
    constant = helper.make_tensor("s", TensorProto.INT64, [len(shape)], [1, *ends])
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["m", "axes"], ["u"]),
        helper.make_node("Expand", ["u", "s"], ["e"]),
        helper.make_node("Cast", ["e"], ["y"], to=kind),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [len(shape) - 1], list(range(1, len(shape))))
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])
    target = helper.make_tensor_value_info("y", kind, shape)
    graph = helper.make_graph(nodes, "features", [source], [target], [constant, axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (["n", 200_000], "1 x 200000 for 1 picture, expected N x features, 1 to 8,192 of them"),
        (["n", 2**40], "1 x 1099511627776 for 1 picture"),
        (["n", 3, 16, 16], "1 x 3 x 16 x 16 for 1 picture"),
        (["n"], "1 for 1 picture"),
    ],
)
def test_outputs_that_are_no_features_are_refused_before_the_network_runs(
    tmp_path: Path, shape: list[int | str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = expander(tmp_path / "f.onnx", shape)
    monkeypatch.setattr("cgan.metrics.features.OnnxFeatures.forward", lambda *_: pytest.fail("the network ran"))
    with pytest.raises(UserError, match=f"no usable feature extractor .its output is {found}"):
        load_features(features=path)


def test_features_of_unknown_number_are_counted_on_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    path = expander(tmp_path / "f.onnx", ["n", 9])
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "d"
    onnx.save(model, path)
    assert load_features(features=path).dimensions == 9
    monkeypatch.setattr("cgan.metrics.features.MOST_FEATURES", 8)
    with pytest.raises(UserError, match="its output is 1 x 9 for 1 picture, expected N x features, 1 to 8 of them"):
        load_features(features=path)


def test_a_network_without_features_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    bounds = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in (("b", 0), ("e", 0), ("a", 1))
    ]
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Slice", ["f", "b", "e", "a"], ["y"])]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "d"])
    graph = helper.make_graph(nodes, "features", [source], [target], bounds)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "f.onnx")
    with pytest.raises(UserError, match="its output is 1 x 0 for 1 picture"):
        load_features(features=tmp_path / "f.onnx")


def test_pictures_of_any_size_that_a_file_fixes_are_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected sides of at most 4096"):
        load_features(features=expander(tmp_path / "f.onnx", ["n", 9], size=10**6))


def test_features_that_are_no_fractions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its first output is tensor\(int64\)"):
        load_features(features=expander(tmp_path / "f.onnx", ["n", 9], kind=7))


def test_features_are_taken_without_tf32() -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact_convolutions():
        assert not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.allow_tf32 == before
