"""Photos with ICC profiles: their luma is that of their colours in sRGB, as littleCMS converts them."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from infer.photo import color_profile
from infer.photo.decode import decode, header_of, photo_of
from infer.photo.formats import ProfileUse
from infer.quality.photos import _decoded, by_content
from tests.infer.photo import icc_profiles as icc
from tests.infer.pictures import chunk, content_of, png_of

RNG = np.random.default_rng(0)
KEEP, CONVERT = ProfileUse.KEEP, ProfileUse.CONVERT
EXACT = 0x2000 | 0x100
"""littleCMS's flags: black point compensation, and no tables of few nodes."""
GRAYS = {
    "gamma 1.8": icc.gray(icc.curve(round(1.8 * 256))),
    "gamma 2.2": icc.gray(icc.curve(round(2.2 * 256))),
    "linear": icc.gray(icc.curve()),
    "dot gain": icc.DOT_GAIN_20,
    "lightness": icc.gray(icc.curve(), pcs=b"Lab "),
    "black ink that is gray": icc.gray(icc.curve(2_000, 65_535)),
    "para 0": icc.gray(icc.parametric(0, 2.2)),
    "para 1": icc.gray(icc.parametric(1, 2.2, 0.9, 0.1)),
    "para 2": icc.gray(icc.parametric(2, 2.2, 0.9, 0.1, 0.0)),
    "para 3": icc.gray(icc.parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)),
    "para 4": icc.gray(icc.parametric(4, 2.4, 0.94, 0.05, 0.07, 0.04, 0.01, 0.0)),
}
SMOOTH = ("gamma 1.8", "gamma 2.2", "dot gain", "para 3")
"""Those that littleCMS's tables of 33 levels, which it uses by default, reproduce within a level."""
COLORS = {"Adobe RGB": icc.ADOBE, "ProPhoto": icc.PROPHOTO, "Display P3": icc.P3, "mAB": icc.rgb_table()}
INKS = {"mft1": icc.cmyk(), "mft2": icc.cmyk(sixteen=True)}


def tiff(values: np.ndarray, profile: bytes | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, iccprofile=profile, **{"photometric": "minisblack"} | options)
    return file.getvalue()


def rec601(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(rgb.astype(np.float64) @ [0.299, 0.587, 0.114])


def exact(values: np.ndarray, profile: bytes, space: str) -> np.ndarray:
    """The luma of values of 16 bits in sRGB, as littleCMS computes it step by step."""
    converted = imagecodecs.cms_transform(
        values, profile, icc.SRGB, colorspace=space, outcolorspace="rgb", intent=1, flags=EXACT
    )
    return rec601(converted)


def by_pillow(image: Image.Image, profile: bytes, flags: int = 0x2000) -> np.ndarray:
    """The luma of an image of 8 bits in sRGB, in whole levels, as Pillow's ImageCms converts it."""
    transform = ImageCms.buildTransform(
        io.BytesIO(profile),
        ImageCms.createProfile("sRGB"),
        image.mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags(flags),
    )
    return np.round(rec601(np.asarray(ImageCms.applyTransform(image, transform))))


def random(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("use", [CONVERT, KEEP])
@pytest.mark.parametrize("name", GRAYS)
@pytest.mark.slow
def test_gray_is_converted_with_all_its_bits(name: str, use: ProfileUse) -> None:
    profile = GRAYS[name]
    ramp = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    expected = exact(ramp, profile, "gray")
    deep = decode(tiff(ramp, profile), "a.tif", profile=use)
    assert deep.luma.dtype == np.uint16
    assert np.abs(deep.luma - expected).max() <= 1
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    short = decode(content_of(Image.fromarray(levels), "PNG", icc_profile=profile), profile=use)
    assert short.luma.dtype == np.uint8
    assert np.abs(short.luma - expected.ravel()[::257].reshape(16, 16) / 257).max() <= 0.51
    assert np.abs(short.luma - by_pillow(Image.fromarray(levels), profile, EXACT)).max() <= 1
    if name in SMOOTH:
        assert np.abs(short.luma - by_pillow(Image.fromarray(levels), profile)).max() <= 1
    for photo in (deep, short):
        assert photo.icc_profile is None
        (note,) = photo.notes
        assert note.startswith("converted from its ICC profile to sRGB: ")


def test_curves_of_gray_agree_with_their_formulas() -> None:
    value = np.arange(65_536) / 65_535
    for profile, light in ((GRAYS["gamma 1.8"], value**1.8), (icc.DOT_GAIN_20, icc.dot_gain(0.2)(value))):
        srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        curve = color_profile.profile_of(profile).curve
        assert curve is not None
        assert np.abs(curve / 65_535 - srgb).max() < 1 / 255


def test_a_scan_with_dot_gain_comes_out_as_light_as_it_looked() -> None:
    scan = Image.fromarray(np.clip(random((12, 16)), 20, 235)).resize((160, 120), Image.Resampling.BICUBIC)
    content = content_of(scan, "JPEG", quality=95, icc_profile=icc.DOT_GAIN_20)
    before = lightness(Image.open(io.BytesIO(content)), icc.DOT_GAIN_20)
    assert abs(lightness(Image.fromarray(decode(content).luma).convert("RGB"), icc.SRGB) - before) < 0.5
    assert abs(lightness(scan.convert("RGB"), icc.SRGB) - before) > 2


def lightness(image: Image.Image, profile: bytes) -> float:
    """The mean L* of an image, viewed through a profile."""
    transform = ImageCms.buildTransform(
        io.BytesIO(profile), ImageCms.createProfile("LAB"), image.mode, "LAB", ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    return float(np.asarray(ImageCms.applyTransform(image, transform))[..., 0].mean()) / 2.55


@pytest.mark.parametrize("name", COLORS)
def test_colors_are_converted(name: str) -> None:
    profile, deep = COLORS[name], random((24, 31, 3), np.uint16)
    image = Image.fromarray((deep >> 8).astype(np.uint8))
    expected, wide = by_pillow(image, profile), exact(deep, profile, "rgb")
    for format_ in ("PNG", "TIFF", "WEBP"):
        photo = decode(
            content_of(image, format_, icc_profile=profile, **{"lossless": True} if format_ == "WEBP" else {})
        )
        assert photo.icc_profile is None
        assert np.abs(photo.luma - expected).max() <= 1
    for content in (tiff(deep, profile, photometric="rgb"), png_of(deep, 2, iccp(profile))):
        photo = decode(content)
        assert photo.luma.dtype == np.uint16
        assert np.abs(photo.luma - wide).max() <= 2


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"keep_rgb": True}, {"tiff": True}])
def test_a_jpeg_is_decoded_in_color_for_its_profile(options: dict[str, Any]) -> None:
    image = Image.fromarray(random((6, 8, 3))).resize((80, 60), Image.Resampling.BICUBIC)
    options |= {"icc_profile": icc.PROPHOTO}
    if options.pop("tiff", False):
        content = content_of(image, "TIFF", compression="jpeg", **options)
    else:
        content = content_of(image, "JPEG", quality=95, **options)
    stored = Image.open(io.BytesIO(content)).convert("RGB")
    assert np.abs(decode(content).luma - by_pillow(stored, icc.PROPHOTO)).max() <= 1
    kept = decode(content, profile=KEEP)
    assert kept.icc_profile == icc.PROPHOTO
    assert kept.notes == ()
    assert np.array_equal(kept.luma, decode(content.replace(icc.PROPHOTO, icc.SRGB.ljust(len(icc.PROPHOTO)))).luma)


def test_the_memory_of_a_jpeg_in_color_is_reckoned_with() -> None:
    image = Image.new("RGB", (1000, 800))
    sizes = {
        profile: header_of(content_of(image, "JPEG", icc_profile=profile)).memory for profile in (icc.SRGB, icc.ADOBE)
    }
    assert sizes[icc.ADOBE] - sizes[icc.SRGB] > 8 * 1000 * 800


@pytest.mark.parametrize("use", [CONVERT, KEEP])
@pytest.mark.parametrize("name", INKS)
def test_inks_are_converted(name: str, use: ProfileUse) -> None:
    profile, deep = INKS[name], random((24, 31, 4), np.uint16)
    short = (deep >> 8).astype(np.uint8)
    expected = by_pillow(inks(short), profile)
    for values, luma in ((short, expected), (deep, exact(deep, profile, "cmyk"))):
        photo = decode(tiff(values, profile, photometric="separated"), profile=use)
        assert photo.icc_profile is None
        assert photo.luma.dtype == values.dtype
        assert np.abs(photo.luma - luma).max() <= 1


def inks(values: np.ndarray) -> Image.Image:
    return Image.frombytes("CMYK", (values.shape[1], values.shape[0]), values.tobytes())


@pytest.mark.parametrize("stored", ["CMYK", "YCCK"])
def test_a_jpeg_of_inks_is_converted(stored: str) -> None:
    values = np.asarray(Image.fromarray(random((5, 7, 4))).resize((42, 30), Image.Resampling.BICUBIC))
    plain = bytes(imagecodecs.jpeg8_encode(255 - values, 98, colorspace="CMYK", outcolorspace=stored))
    segment = b"ICC_PROFILE\0\1\1" + icc.cmyk()
    content = plain[:2] + b"\xff\xe2" + struct.pack(">H", 2 + len(segment)) + segment + plain[2:]
    found = Image.open(io.BytesIO(content))
    assert found.mode == "CMYK"
    assert np.abs(np.asarray(found).astype(int) - values).mean() < 5  # 0 is no ink
    assert np.abs(decode(content).luma - by_pillow(found, icc.cmyk())).max() <= 1


@pytest.mark.parametrize("use", [CONVERT, KEEP])
def test_srgb_changes_nothing_and_stays(use: ProfileUse) -> None:
    other_name = icc.SRGB.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))
    assert other_name != icc.SRGB
    image = Image.fromarray(random((24, 31, 3)))
    for picture in (image, image.convert("L")):
        for format_ in ("JPEG", "PNG", "TIFF"):
            for profile in (icc.SRGB, other_name):
                photo = decode(content_of(picture, format_, icc_profile=profile), profile=use)
                plain = decode(content_of(picture, format_), profile=use)
                assert np.array_equal(photo.luma, plain.luma)
                assert (photo.icc_profile, photo.notes) == (profile, ())


def test_a_profile_that_is_srgb_by_name_alone_is_converted() -> None:
    named = icc.ADOBE.replace("RGB".encode("utf-16-be"), "sRGB".encode("utf-16-be")[2:])
    assert not color_profile.profile_of(named).is_srgb
    assert color_profile.profile_of(icc.SRGB).is_srgb


def test_colors_below_alpha_are_converted() -> None:
    values = random((12, 9, 4), np.uint16)
    values[..., 3] = np.maximum(values[..., 3], 20_000)
    values[0, 0, 3] = 0
    color, alpha = values[..., :3], values[..., 3:].astype(np.uint64)
    straight = decode(tiff(values, icc.ADOBE, photometric="rgb", extrasamples=["unassalpha"]))
    assert np.abs(straight.luma - exact(color.copy(), icc.ADOBE, "rgb")).max() <= 2
    multiplied = np.concatenate([(color * alpha + 32_767) // 65_535, alpha], axis=-1).astype(np.uint16)
    photo = decode(tiff(multiplied, icc.ADOBE, photometric="rgb", extrasamples=["assocalpha"]))
    assert photo.luma[0, 0] == 0
    near = np.abs(photo.luma.astype(int) - straight.luma)[1:]
    assert near.max() <= 257
    assert photo.alpha is not None
    assert np.array_equal(np.asarray(photo.alpha), np.asarray(straight.alpha))


@pytest.mark.parametrize("mode", ["LA", "P", "transparent P", "transparent L", "1"])
def test_pillow_modes_are_converted(mode: str) -> None:
    image, options = Image.fromarray(random((12, 9, 3))), {}
    if mode.startswith("transparent"):
        options = {"transparency": 3}
    stored = image.convert("L" if mode == "transparent L" else mode.removeprefix("transparent "))
    if mode == "LA":
        stored.putalpha(Image.fromarray(random((12, 9))))
    profile = icc.ADOBE if "P" in mode else icc.DOT_GAIN_20
    content = content_of(stored, "PNG", icc_profile=profile, **options)
    photo, plain = decode(content), decode(content_of(stored, "PNG", **options))
    shown = stored.convert("RGB") if "P" in mode else stored.convert("L")
    assert np.abs(photo.luma - by_pillow(shown, profile)).max() <= 1
    assert (photo.alpha is None) == (mode in {"P", "1"})
    assert np.array_equal(np.asarray(photo.alpha), np.asarray(plain.alpha))


def test_white_is_zero() -> None:
    levels = random((12, 9))
    inverted = decode(tiff(255 - levels, icc.DOT_GAIN_20, photometric="miniswhite"))
    assert np.array_equal(inverted.luma, decode(tiff(levels, icc.DOT_GAIN_20)).luma)
    assert not np.array_equal(inverted.luma, levels)


def truncated(profile: bytes) -> bytes:
    return profile[:-9]


def patched(place: int, content: bytes) -> Callable[[bytes], bytes]:
    return lambda profile: profile[:place] + content + profile[place + len(content) :]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (truncated, "damaged ("),
    "a few bytes": (lambda profile: profile[:100], "damaged (it has no header of an ICC profile)"),
    "signature": (patched(36, b"abcd"), "damaged (it has no header of an ICC profile)"),
    "tags without end": (patched(128, b"\xff\xff\xff\xff"), "damaged ("),
    "a tag outside": (patched(136, b"\xff\xff"), "damaged (a tag ends at 4,29"),
    "no tags": (patched(132, b"none"), "littleCMS cannot use it ("),
    "class": (patched(12, b"link"), "it is of class link for"),
    "space": (patched(16, b"HSV "), "for HSV, which describes no photo"),
    "size": (lambda profile: profile + bytes(2**23), "expected at most 8,388,608"),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("model", ["L", "RGB"])
@pytest.mark.slow
def test_a_damaged_profile_is_named_and_left_out(name: str, model: str) -> None:
    damage, note = DAMAGE[name]
    profile = {"L": icc.gray(icc.curve(512)), "RGB": icc.PROPHOTO}[model]
    if name == "no tags":
        count = struct.unpack_from(">L", profile, 128)[0]
        profile = (
            profile[:132]
            + b"".join(b"none" + profile[136 + 12 * i : 144 + 12 * i] for i in range(count))
            + (profile[132 + 12 * count :])
        )
    image = Image.fromarray(random((12, 9, 3))).convert(model)
    for format_ in ("JPEG", "TIFF"):
        photo = decode(content_of(image, format_, icc_profile=damage(profile)))
        assert np.array_equal(photo.luma, decode(content_of(image, format_)).luma)
        assert photo.icc_profile is None
        (found,) = photo.notes
        assert found.startswith("ICC profile left out: ")
        assert note in found


def test_a_profile_for_other_channels_is_named_and_left_out() -> None:
    # Of middle tones, because a JPEG of saturated noise has luma that no RGB has.
    gray, color = (Image.fromarray(random(shape) // 4 + 96) for shape in ((12, 9), (12, 9, 3)))
    for image, profile, note in (
        (gray, icc.ADOBE, "it is for RGB, the photo is gray"),
        (color, icc.DOT_GAIN_20, "it is for gray, the photo is RGB"),
        (color, icc.cmyk(), "it is for CMYK, the photo is RGB"),
    ):
        photo = decode(content_of(image, "JPEG", icc_profile=profile))
        assert photo.notes == (f"ICC profile left out: {note}",)
        assert photo.icc_profile is None
        assert np.abs(photo.luma.astype(int) - decode(content_of(image, "JPEG")).luma).max() <= 1


def test_a_profile_is_used_whatever_its_name() -> None:
    for name, shown in ((b"Gris 20% \xe9", "without a readable name"), (b"a" * 99, "a" * 60), (b"one\ntwo", "one two")):
        assert color_profile.profile_of(icc.gray(icc.curve(512), name.decode("latin-1"))).name == shown


def test_transforms_in_floats_are_passed_over() -> None:
    endless = b"mpet" + bytes(4) + struct.pack(">HHL", 1, 3, 2**31)
    tags = {b"wtpt": b"XYZ " + bytes(4) + icc.numbers(*icc.D50), b"kTRC": icc.curve(512), b"D2B1": endless}
    found = color_profile.profile_of(icc.profile(b"GRAY", tags))
    plain = color_profile.profile_of(icc.gray(icc.curve(512)))
    assert found.curve is not None
    assert plain.curve is not None
    assert np.array_equal(found.curve, plain.curve)


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"a\0\0" + zlib.compress(profile))


def test_the_profile_of_a_png_comes_before_its_gamma_and_after_cicp() -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(1, 256, 1) * 257
    gamma, cicp = chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"cICP", bytes((1, 8, 0, 1)))
    by_profile = decode(png_of(ramp, 0, gamma + iccp(icc.DOT_GAIN_20)))
    assert np.array_equal(by_profile.luma, decode(png_of(ramp, 0, iccp(icc.DOT_GAIN_20))).luma)
    assert len(by_profile.notes) == 1
    by_cicp = decode(png_of(ramp, 0, cicp + iccp(icc.DOT_GAIN_20)))
    assert np.array_equal(by_cicp.luma, decode(png_of(ramp, 0, cicp)).luma)
    assert any("cICP, which comes before it" in note for note in by_cicp.notes)
    assert by_cicp.icc_profile is None


def test_an_image_in_memory_is_converted() -> None:
    image = Image.fromarray(random((12, 9)))
    image.info["icc_profile"] = icc.DOT_GAIN_20
    assert np.abs(photo_of(image).luma - by_pillow(image, icc.DOT_GAIN_20)).max() <= 1
    color = Image.fromarray(random((12, 9, 3)))
    color.info["icc_profile"] = icc.ADOBE
    assert np.abs(photo_of(color).luma - by_pillow(color, icc.ADOBE)).max() <= 1
    kept = photo_of(color, KEEP)
    assert kept.icc_profile == icc.ADOBE
    assert np.array_equal(kept.luma, np.asarray(color.convert("L")))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_an_evaluated_photo_has_the_luma_of_the_models_input(mode: str) -> None:
    image = Image.fromarray(random((16, 16, 3))).convert(mode)
    profile = {"L": icc.DOT_GAIN_20, "RGB": icc.PROPHOTO, "CMYK": icc.cmyk()}[mode]
    sample = by_content([("a.tif", content_of(image, "TIFF", icc_profile=profile))], 1)
    unit = _decoded(sample.entries, (16, 16), color=True)
    assert unit.color is not None
    assert np.abs(rec601(unit.color[0].transpose(1, 2, 0)) - unit.gray[0, 0] * 255).max() <= 1
