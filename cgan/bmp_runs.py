"""Run-length coded BMPs whose end mark comes before their last pixel, which Pillow calls damaged."""

import os
from typing import Any

from PIL import BmpImagePlugin, Image

RUNS_CODEC = "cgan_bmp_runs"
"""Name under which `RunsDecoder` is registered with Pillow."""

END_OF_BITMAP = b"\0\1"

NO_RUNS = "pixels that its compression leaves out have the first colour of its palette"


class RunsDecoder(BmpImagePlugin.BmpRleDecoder):
    """Pillow's decoder for BI_RLE4 and BI_RLE8; a list for notes comes before the arguments of Pillow's."""

    def init(self, args: tuple[Any, ...]) -> None:
        """Take the arguments of the decoder."""
        self.notes: list[str] = args[0]
        super().init(args[1:])

    def set_as_raw(self, data: bytes | bytearray, rawmode: str | None = None, extra: tuple[Any, ...] = ()) -> None:
        """Take decoded pixels; those behind an end mark are as those that a delta passes over."""
        assert self.fd is not None
        missing = self.state.xsize * self.state.ysize - len(data)
        if missing > 0:
            self.fd.seek(-len(END_OF_BITMAP), os.SEEK_CUR)
            if self.fd.read(len(END_OF_BITMAP)) == END_OF_BITMAP:
                self.notes.append(NO_RUNS)
                data = bytes(data) + bytes(missing)
        super().set_as_raw(data, rawmode, extra)


Image.register_decoder(RUNS_CODEC, RunsDecoder)
