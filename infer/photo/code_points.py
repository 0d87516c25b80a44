"""Colours by the code points of ITU-T H.273: cICP of a PNG (third edition, 11.3.2.6), nclx of AVIF and HEIC."""

SRGB_LIKE = frozenset({1, 2, 6, 7, 11, 12, 13, 14, 15})
EXPONENTS = {4: 1 / 2.2, 5: 1 / 2.8, 8: 1.0}
HDR = {16: "PQ", 18: "HLG"}
OTHERS = {9: "a logarithmic one", 10: "a logarithmic one", 17: "that of digital cinema"}
"""Transfer characteristics: curves close to sRGB's, pure powers, those of high dynamic range, and others."""

UNNAMED = 2
"""Code point of primaries and of a curve that are not named."""

REC709_PRIMARIES = frozenset({1, UNNAMED})
"""Primaries of sRGB, and none named."""

NCLX = b"colrnclx"
"""Type of a box with colours, and of its content (ISO/IEC 14496-12, 12.1.5)."""


SRGB_EXPONENT = 1 / 2.2
"""The exponent that stands for sRGB's tone curve."""

TOLERANCE = 0.05
"""Relative difference of an exponent that is not visible."""

POINT_TOLERANCE = 0.01
"""Difference of a chromaticity that is not visible: files round them."""


def unconverted(primaries: int, transfer: int, source: str) -> str | None:
    """Return a note on colours that are not converted to sRGB, None for those of sRGB's primaries and usual curves.

    Args:
        primaries: code point of the primaries.
        transfer: code point of the transfer characteristics.
        source: where the file names them.
    """
    if transfer in HDR:
        return f"its tone curve {HDR[transfer]}, of high dynamic range, is not converted"
    if transfer in OTHERS:
        return f"its tone curve, {OTHERS[transfer]}, is not converted"
    if primaries not in REC709_PRIMARIES:
        return f"its colours, of primaries {primaries} by {source}, are not converted to sRGB"
    return None


def nclx(head: bytes) -> tuple[int, int] | None:
    """Return the code points of primaries and transfer in the first part of an AVIF or HEIC, None if it has none."""
    place = head.find(NCLX)
    if place < 0 or len(head) < place + len(NCLX) + 4:
        return None
    return head[place + len(NCLX) + 1], head[place + len(NCLX) + 3]
