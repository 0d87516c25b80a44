"""R1 and gradient penalty against discriminators whose gradients are known exactly."""

import pytest
import torch
from torch import Tensor, nn

from cgan.losses import gradient_penalty, r1_penalty

SIDE = 4
MIX = torch.tensor([0.0, 0.25, 1.0])


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def gray() -> Tensor:
    return seeded(3, 1, SIDE, SIDE, seed=1)


@pytest.fixture
def real() -> Tensor:
    return seeded(3, 2, SIDE, SIDE, seed=2)


@pytest.fixture
def fake() -> Tensor:
    return seeded(3, 2, SIDE, SIDE, seed=3)


class Linear(nn.Module):
    """Logits that are weighted sums over gray and colour: N x logits."""

    def __init__(self, logits: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(seeded(logits, 3, SIDE, SIDE) - 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,lchw->nl", x, self.weight)

    def gradient(self) -> Tensor:
        """Of a photo's mean logit with respect to its colours, 2 x SIDE x SIDE, the same for all photos."""
        return self.weight.detach().mean(dim=0)[1:]


class Logits(nn.Module):
    """Copies of another discriminator's only logit, in the shape of a U-Net's or a patch network's logits."""

    def __init__(self, judge: Linear, *shape: int) -> None:
        super().__init__()
        self.judge = judge
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.judge(x)
        return logits.view(len(x), *(1 for _ in self.shape)).expand(len(x), *self.shape)


def half_square(x: Tensor) -> Tensor:
    """One logit, whose gradient with respect to the colours are the colours themselves."""
    return x.square().flatten(1).sum(dim=1, keepdim=True) / 2


def norms(colors: Tensor) -> Tensor:
    found: Tensor = colors.flatten(1).norm(dim=1)
    return found


# values


@pytest.mark.parametrize("logits", [1, 5])
def test_penalties_of_a_linear_discriminator(gray: Tensor, real: Tensor, fake: Tensor, logits: int) -> None:
    judge = Linear(logits)
    norm = judge.gradient().norm().item()
    assert r1_penalty(judge, gray, real).item() == pytest.approx(norm**2 / 2, rel=1e-5)
    assert gradient_penalty(judge, gray, real, fake, MIX).item() == pytest.approx((norm - 1) ** 2, rel=1e-5)


def test_r1_is_taken_at_the_photos(gray: Tensor, real: Tensor) -> None:
    expected = norms(real).square().mean() / 2
    assert r1_penalty(half_square, gray, real).item() == pytest.approx(expected.item(), rel=1e-5)
    assert r1_penalty(half_square, 5 * gray, real).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_gradient_penalty_is_taken_between_photo_and_picture(gray: Tensor, real: Tensor, fake: Tensor) -> None:
    between = torch.stack([fake[0], 0.25 * real[1] + 0.75 * fake[1], real[2]])
    expected = (norms(between) - 1).square().mean()
    assert gradient_penalty(half_square, gray, real, fake, MIX).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_gradient_of_norm_1_costs_nothing_on_either_side(gray: Tensor, real: Tensor, fake: Tensor) -> None:
    judge = Linear(1)
    judge.weight.data /= judge.gradient().norm()
    penalties = []
    for scale in (1.0, 0.5, 1.5):
        judge.weight.data *= scale
        penalties.append(gradient_penalty(judge, gray, real, fake, MIX).item())
        judge.weight.data /= scale
    assert penalties == pytest.approx([0, 0.25, 0.25], abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 3), (1, SIDE, SIDE), (7,)])
def test_penalties_do_not_depend_on_the_number_of_logits(
    gray: Tensor, real: Tensor, fake: Tensor, shape: tuple[int, ...]
) -> None:
    one = Linear(1)
    many = Logits(one, *shape)
    assert r1_penalty(many, gray, real).item() == pytest.approx(r1_penalty(one, gray, real).item(), rel=1e-5)
    found, expected = (gradient_penalty(judge, gray, real, fake, MIX).item() for judge in (many, one))
    assert found == pytest.approx(expected, rel=1e-5)


def test_penalties_are_means_over_the_photos(gray: Tensor, real: Tensor, fake: Tensor) -> None:
    r1 = [r1_penalty(half_square, gray[i : i + 1], real[i : i + 1]).item() for i in range(3)]
    assert r1_penalty(half_square, gray, real).item() == pytest.approx(sum(r1) / 3, rel=1e-5)
    one = [gradient_penalty(half_square, *(x[i : i + 1] for x in (gray, real, fake, MIX))).item() for i in range(3)]
    assert gradient_penalty(half_square, gray, real, fake, MIX).item() == pytest.approx(sum(one) / 3, rel=1e-5)


# derivatives


def test_r1_teaches_the_discriminator_s_weights(gray: Tensor, real: Tensor) -> None:
    judge = Linear(4)
    r1_penalty(judge, gray, real).backward()
    assert judge.weight.grad is not None
    expected = judge.gradient() / 4  # a quarter of each logit's weight is in the mean
    assert torch.allclose(judge.weight.grad[:, 1:], expected.expand(4, -1, -1, -1), rtol=1e-5, atol=1e-7)
    assert not judge.weight.grad[:, 0].any()  # gray is the condition


def test_the_gradient_penalty_teaches_the_discriminator_s_weights(gray: Tensor, real: Tensor, fake: Tensor) -> None:
    judge = Linear(4)
    gradient_penalty(judge, gray, real, fake, MIX).backward()
    assert judge.weight.grad is not None
    g = judge.gradient()
    expected = 2 * (g.norm() - 1) * g / g.norm() / 4
    assert torch.allclose(judge.weight.grad[:, 1:], expected.expand(4, -1, -1, -1), rtol=1e-5, atol=1e-7)
    assert not judge.weight.grad[:, 0].any()


def test_photos_and_pictures_are_not_taught(gray: Tensor, real: Tensor, fake: Tensor) -> None:
    judge = Linear(1)
    inputs = [x.requires_grad_() for x in (gray, real, fake)]
    (r1_penalty(judge, gray, real) + gradient_penalty(judge, gray, real, fake, MIX)).backward()
    assert judge.weight.grad is not None
    assert [x.grad for x in inputs] == [None, None, None]


def test_a_discriminator_without_an_opinion_gives_numbers(gray: Tensor, real: Tensor, fake: Tensor) -> None:
    judge = Linear(2)
    judge.weight.data.zero_()
    penalty = gradient_penalty(judge, gray, real, fake, MIX)
    assert penalty.item() == pytest.approx(1)
    assert r1_penalty(judge, gray, real).item() == 0
    penalty.backward()
    assert judge.weight.grad is not None and judge.weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_penalties_are_computed_in_float32(gray: Tensor, real: Tensor, fake: Tensor, dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def judge(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return half_square(x)

    gray, real, fake = (x.to(dtype) for x in (gray, real, fake))
    for penalty in (r1_penalty(judge, gray, real), gradient_penalty(judge, gray, real, fake, MIX)):
        assert penalty.dtype == torch.float32
    assert seen == [torch.float32] * 2
