"""Photos whose files lack pixels are refused; those that lack only their end marker are not."""

import base64
import contextlib
import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from cgan.completeness import load
from cgan.jpeg_decoder import MAY_HAVE_HOLE, NO_END, SURPLUS, MissingPixelsError
from cgan.jpeg_scans import layout_of

EOI = b"\xff\xd9"
HEIGHT, WIDTH = 96, 136

ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABQODxIPDRQSEBIXFRQYHjIhHhwcHj0sLiQySUBMS0dARkVQWnNiUFVtVkVGZIhlbXd7gYKBTmCNl4x9"
    "lnN+gXz/yQALCABAAEABAREA/8wABgAQEAX/2gAIAQEAAD8A+JowyjudVEdhgBOWgg/1N8p02tiPWTpb/Nfq1mIT+0SONzmX+BSWdW1yp7XXOVFg"
    "cxcZvwPPqNnMiRlBdTNGGCAv6394fjhQxfGy1/0pTO4ePbe5YTpkqQg2pb/lMry3NsDG2HHRNYEW8Af1XCnRsX53WgwA0ajPy5AZltsw2iVdDbLL"
    "gqQxc/FQPS4ssSRc3voJFYJsL24uOZc9LQ3neUWUJNCxdxdybzXkzc6fFnURF7iEnOBgDHUEBHXSRyTmLOFF8FF4BPyzPKgOuMq474U+WkAOOE3t"
    "xMRAZzZBmTja1fdSds78tdiN7RllF3gFT6EH7Khh57oSuN2VdReEauqJsDtLRvNfdRbFA+bvj3wd0mkRSar24tANBPSgfoAW9E8nwebEHv6abSrq"
    "280t3EkWLFsZqNVQJCS2fiHgxVkCLslmdXfz5rCbcOiKycukXZ+QGEadwDEV9Xe7icH6utVRV9tkhtS3yLv3tEnsYVVmWleULeMKGYHhVLfyyD2I"
    "sMCFnKEhPLVffI4V0kjIacLkYBz1IKhn/Q/W0W5LfxIbjFXKzdCGVSG/fWbtUj7M6agfu3Ey0mWDWVH12YVqKrS8GCueZZA9RowNXQsTSuW/E5xH"
    "5jYIYwdYHnTmDqOgowmIz20eC5u47tQnC9WFfPNZJxiv9AO9SWW4+IQTsk6DQaMtySv3o9Xe0/kiMlI3OVR8zTXGIcRBLIpFlUwNe+GkcG63wIeS"
    "4/G3KLafS03Pthr4SuX4Ss58vPak0iKpprz4Mcd38g4JBIbnDYqBZg+4toUPOp/W8Ym10PC9zrwC5FbJXsOQIezvpGGAc8xPVICzgbK0aIM8Cyw1"
    "l0wTg7CyJj/thRdalP0GAySkHz92dmyg8gUyyukjK55VfliiIPG6wpDJhMh2JjZHAlGmfoNmsV6P4vOiGd9xiSMYVXVH1YyYuL8J494ijoivqfVJ"
    "BrdJZAWzkPtb5yt7s6AxNVgdaumwR6apwcaJliE6W6UGq36L49MNvncLGlKqObp1ZVfV13JvOQz4PpUB9pmCbY4KYTuOfpEaOGXEyjqvLnpMjnwP"
    "nMiAsfSUEpAewidvfrze7SHEupYsvG4FAb9o18+OWXIRgFFxR1BVth83QEOB4GsvqrnZkHJw/JsJXh5nfpAAMO818qQfSRwl+Ni5hT0hWqA1gBKG"
    "SBxud2xGp35Yne0NNykJlgvRdxa9gn6mN7Zv5p931q5ZsZgmns+Kv1tyx2g+2WlCVUB0poXqniHL5Dq2BcKKuNG2VNeSA3z/2Q=="
)
"""64 x 64 pixels of noise by cjpeg -arithmetic, which Pillow does not write."""


@pytest.fixture(params=[False, True], ids=["strict", "lenient"])
def truncated_images(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Pillow's setting of LOAD_TRUNCATED_IMAGES, which must not matter."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", request.param)
    return bool(request.param)


def photo(mode: str = "RGB") -> Image.Image:
    """Smooth with noise, nowhere black."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = np.stack([x + 40, 2 * y + 30, x + y + 20], -1)
    noise = np.random.default_rng(3).integers(0, 25, smooth.shape)
    return Image.fromarray((smooth + noise).clip(1, 255).astype(np.uint8)).convert(mode)


def half_flat() -> Image.Image:
    """A photo with valid zeros in its scan, from optimised Huffman tables."""
    picture = Image.new("RGB", (400, 400), "white")
    picture.paste(photo(), (0, 300))
    return picture


def textured(seed: int, side: int = 64) -> Image.Image:
    """A photo with brightness variations at all scales."""
    chance = np.random.default_rng(seed)
    sizes = [size for size in (2, 8, 32, 100, 400) if size <= side]
    layers = [
        Image.fromarray(chance.integers(0, 256, (size, size, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for size in sizes
    ]
    return Image.fromarray(np.mean([np.asarray(layer) for layer in layers], 0).astype(np.uint8))


def content_of(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def scan_of(content: bytes) -> int:
    """Position of the last scan's data."""
    header = content.rindex(b"\xff\xda")
    return header + 2 + int.from_bytes(content[header + 2 : header + 4])


def refused(content: bytes, reason: str | None = None) -> None:
    with pytest.raises(MissingPixelsError, match=reason):
        load(opened(content))


def same(content: bytes, whole: bytes, *notes: str) -> None:
    """Check that `content` loads with all pixels of `whole` and these notes."""
    image = opened(content)
    assert load(image) == notes
    assert np.array_equal(np.asarray(image), np.asarray(opened(whole)))


JPEGS = {
    "baseline": {"quality": 90},
    "best": {"quality": 100, "subsampling": 0},
    "worst": {"quality": 1},
    "optimised": {"optimize": True},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "progressive, restarts": {"progressive": True, "restart_marker_rows": 1},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.slow
def test_a_whole_jpeg_is_loaded_as_by_pillow(options: dict[str, object], mode: str) -> None:
    pictures = (photo(mode), half_flat().convert(mode), Image.new(mode, (300, 200)), photo(mode).crop((0, 0, 1, 1)))
    for picture, rest in itertools.product(pictures, (b"", bytes(100), b"garbage")):
        content = content_of(picture, "JPEG", **options)
        same(content + rest, content)


def test_a_jpeg_with_further_pictures_is_loaded_as_by_pillow() -> None:
    content = content_of(photo(), "MPO", save_all=True, append_images=[half_flat()])
    same(content, content)


def test_luma_alone_is_loaded_as_by_pillow() -> None:
    content = content_of(photo(), "JPEG")
    ours, theirs = opened(content), opened(content)
    for image in (ours, theirs):
        image.draft("L", None)
    assert load(ours) == ()
    assert ours.mode == "L" and np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("tail", [b"", EOI, b"zeros", b"zeros" + EOI])
@pytest.mark.slow
def test_a_jpeg_without_a_part_of_its_scan_is_refused(
    options: dict[str, object], share: float, tail: bytes, truncated_images: bool
) -> None:
    content = content_of(photo(), "JPEG", **options)
    begin = scan_of(content)
    cut = begin + int(share * (len(content) - 2 - begin))
    refused(content[:cut] + tail.replace(b"zeros", bytes(len(content) - 2 - cut)))
    assert truncated_images == ImageFile.LOAD_TRUNCATED_IMAGES


def test_the_reason_tells_how_much_is_there() -> None:
    whole = content_of(photo("L"), "JPEG", quality=95)
    begin = scan_of(whole)
    with pytest.raises(MissingPixelsError, match=r"^the file ends after ([0-9]+)% of its rows$") as refusal:
        load(opened(whole[: begin + (len(whole) - begin) // 2] + EOI))
    assert 40 <= int(str(refusal.value).split("%")[0].split()[-1]) <= 60


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("end", [b"", b"\xff", b"\xff\xff"])
def test_a_jpeg_that_lacks_only_its_end_marker_is_loaded_with_a_note(
    options: dict[str, object], end: bytes, truncated_images: bool
) -> None:
    for picture in (photo(), half_flat()):
        content = content_of(picture, "JPEG", **options)
        same(content[:-2] + end, content, NO_END)


@pytest.mark.parametrize("options", [{"quality": 90}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("size", [64, 500])
def test_a_jpeg_with_a_hole_of_zeros_is_refused(options: dict[str, object], size: int) -> None:
    content = content_of(photo(), "JPEG", **options)
    begin = scan_of(content)
    for share in (0.05, 0.3, 0.7):
        hole = begin + int(share * (len(content) - begin))
        refused(content[:hole] + bytes(size) + content[hole + size :], "zeros|restart|ends after")


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("tail", [b"", EOI, bytes(64) + EOI], ids=["cut", "with EOI", "zeros"])
@pytest.mark.slow
def test_a_jpeg_without_its_last_bytes_is_refused_unless_its_pixels_are_there(
    options: dict[str, object], mode: str, tail: bytes
) -> None:
    for seed in range(2):
        content = content_of(textured(seed).convert(mode), "JPEG", **options)
        whole = np.asarray(opened(content))
        for missing in range(3, 25):
            image = opened(content[:-missing] + tail)
            with contextlib.suppress(OSError):
                load(image)
                assert np.array_equal(np.asarray(image), whole)


def test_fill_bytes_before_a_marker_are_no_data() -> None:
    content = content_of(photo("L"), "JPEG", progressive=True)
    filled = content.replace(b"\xff\xc4", b"\xff\xff\xff\xc4").replace(EOI, b"\xff\xff" + EOI)
    same(filled, content)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_hole_of_zeros_in_the_means_of_a_progressive_jpeg_is_refused(mode: str) -> None:
    for seed in range(8):
        content = content_of(textured(seed, 400).convert(mode), "JPEG", progressive=True)
        scan = layout_of(content).scans[0]
        for share in (0.1, 0.5, 0.8):
            hole = scan.begin + int(share * (scan.end - scan.begin))
            refused(content[:hole] + bytes(64) + content[hole + 64 :], "zeros|ends early|before all")


def test_a_hole_of_zeros_in_the_last_bits_of_means_is_noted() -> None:
    content = content_of(textured(1, 600), "JPEG", progressive=True)
    scan = next(scan for scan in layout_of(content).scans if scan.refines_means)
    for share in (0.1, 0.5, 0.7):
        hole = scan.begin + int(share * (scan.end - scan.begin))
        assert load(opened(content[:hole] + bytes(64) + content[hole + 64 :])) == (MAY_HAVE_HOLE,)


@pytest.mark.parametrize("quality", [30, 75, 100])
@pytest.mark.slow
def test_zeros_by_right_in_the_means_of_a_progressive_jpeg_are_loaded(quality: int) -> None:
    y, x = np.mgrid[:640, :2800]
    slopes = ((255 - x // 32 % 256), x // 11 % 256, (x // 8 % 8) * 32, 255 * (x // 400 % 2), 128 + 0 * y, y // 3)
    coarse = opened(content_of(textured(2, 400).convert("L"), "JPEG", quality=60))
    for picture in (*(Image.fromarray(slope.astype(np.uint8)) for slope in slopes), coarse):
        for mode in ("L", "RGB"):
            content = content_of(picture.convert(mode), "JPEG", progressive=True, quality=quality)
            same(content, content)


def test_zeros_after_the_last_block_are_no_hole_but_noted() -> None:
    content = content_of(photo(), "JPEG")
    same(content[:-2] + bytes(200) + EOI, content, SURPLUS)


def test_a_missing_restart_interval_is_refused() -> None:
    content = content_of(photo(), "JPEG", restart_marker_rows=1)
    refused(
        content[: content.index(b"\xff\xd1")] + content[content.index(b"\xff\xd2") :], "^restart markers are missing"
    )


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    content = content_of(photo(), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    refused(content[: content.rindex(b"\xff\xc4", 0, last)] + EOI, "^scans are missing")


def test_a_progressive_jpeg_whose_scan_lacks_data_is_refused_wherever_it_is() -> None:
    content = content_of(photo(), "JPEG", progressive=True)
    scans = layout_of(content).scans
    for number, scan in enumerate(scans, 1):
        if scan.end - scan.begin > 100:
            gap = (scan.begin + scan.end) // 2
            refused(content[:gap] + content[scan.end :], f"^scan {number} of {len(scans)} ends early$")
    assert len(scans) == 10


def test_an_arithmetic_coded_jpeg_is_judged_too() -> None:
    same(ARITHMETIC, ARITHMETIC)
    same(ARITHMETIC[:-2], ARITHMETIC, NO_END)
    begin = scan_of(ARITHMETIC)
    for share in (0.1, 0.4):
        cut = ARITHMETIC[: begin + int(share * (len(ARITHMETIC) - begin))]
        refused(cut, "^the file ends before all of its pixels")
        refused(cut + EOI, "^the file ends before all of its pixels")


def chunks_of(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4])
        yield content[place + 4 : place + 8], content[place + 8 : end]
        place = end + 4


def png_of(chunks: list[tuple[bytes, bytes]], wrong: bytes = b"") -> bytes:
    """A PNG in which chunks of kind `wrong` fail their checksums."""
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (kind == wrong))
        for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rows_of(pixels: np.ndarray, interlaced: bool) -> list[bytes]:
    """The passes of an unfiltered PNG."""
    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in steps] if interlaced else [pixels[:50], pixels[50:]]
    return [b"".join(b"\0" + row.tobytes() for row in part) for part in passes]


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_with_too_few_rows_is_refused(interlaced: bool, truncated_images: bool) -> None:
    parts = rows_of(np.asarray(photo()), interlaced)
    whole = content_of(photo(), "PNG")
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, interlaced)

    def png(data: bytes) -> bytes:
        return png_of([(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")])

    same(png(zlib.compress(b"".join(parts))), whole)
    refused(png(zlib.compress(b"".join(parts[:-1]))), "^the image data end after (50|52)%")
    for data in (zlib.compress(b"".join(parts))[:5000], zlib.compress(b"".join(parts)[:-7])):
        with pytest.raises(OSError, match=r"truncated|image data"):
            load(opened(png(data)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P"])
def test_a_whole_png_that_ends_in_black_is_loaded(mode: str) -> None:
    content = content_of(Image.new(mode, (WIDTH, HEIGHT)), "PNG")
    same(content, content)


def test_png_image_data_that_fail_their_checksum_are_refused(truncated_images: bool) -> None:
    chunks = list(chunks_of(content_of(photo(), "PNG")))
    refused(png_of(chunks, b"IDAT"), "^the image data fail their checksum$")


def test_a_png_that_lacks_only_its_end_is_loaded(truncated_images: bool) -> None:
    content = content_of(photo(), "PNG")
    for missing in (12, 9, 5, 14, 16):
        same(content[:-missing], content, NO_END)
    chunks = list(chunks_of(content))
    same(png_of([*chunks[:-1], (b"tEXt", b"a\0b"), chunks[-1]], b"tEXt"), content)


def test_a_gif_that_lacks_only_its_trailer_is_loaded() -> None:
    picture = photo().quantize(64)
    for options in ({}, {"save_all": True, "append_images": [photo().quantize(16)]}):
        content = content_of(picture, "GIF", **options)
        same(content, content)
        same(content[:-1], content, NO_END)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PPM", "TIFF", "WEBP"])
def test_a_cut_file_is_refused_whatever_pillow_is_told(kind: str, truncated_images: bool) -> None:
    content = content_of(photo().quantize(64) if kind == "GIF" else photo(), kind)
    for share in (0.5, 0.9):
        with pytest.raises(OSError):
            load(opened(content[: int(share * len(content))]))
    assert truncated_images == ImageFile.LOAD_TRUNCATED_IMAGES


def test_pillows_policy_is_restored_when_many_threads_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = content_of(photo(), "PNG")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: load(opened(content)), range(40)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def tiff_of(offsets: list[int] | None = None, strips: int = 6) -> bytes:
    """An uncompressed TIFF of six strips, with some of them left out or with other offsets."""
    pixels = photo("L").tobytes()
    rows = HEIGHT // 6
    begin = 8 + 2 + 9 * 12 + 4 + 8 * strips
    places = offsets or [begin + i * rows * WIDTH for i in range(strips)]
    entries = [
        (256, 3, 1, WIDTH),
        (257, 3, 1, HEIGHT),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, strips, begin - 8 * strips),
        (277, 3, 1, 1),
        (278, 3, 1, rows),
        (279, 4, strips, begin - 4 * strips),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    tables = struct.pack(f"<{2 * strips}I", *places, *[rows * WIDTH] * strips)
    return struct.pack("<2sHIH", b"II", 42, 8, 9) + directory + bytes(4) + tables + pixels


def test_a_tiff_without_some_of_its_strips_is_refused() -> None:
    whole = tiff_of()
    assert load(opened(whole)) == ()
    assert np.array_equal(np.asarray(opened(whole)), np.asarray(photo("L")))
    refused(tiff_of(strips=4), "^2 of its 6 strips are not in the file$")
    begin = 8 + 2 + 9 * 12 + 4 + 8 * 6
    refused(tiff_of([begin, begin + 16 * WIDTH, 0, 0, 0, begin]), "^3 of its 6 strips are not in the file$")


def test_what_comes_from_no_file_stays_as_it_is() -> None:
    assert load(photo()) == ()
    image = opened(content_of(photo(), "JPEG"))
    image.load()
    assert load(image) == ()


def test_an_arithmetic_jpeg_cut_by_some_bytes_is_refused() -> None:
    end = layout_of(ARITHMETIC).scans[-1].end
    with pytest.raises(MissingPixelsError):
        load(Image.open(io.BytesIO(ARITHMETIC[: end - 39] + EOI)))
