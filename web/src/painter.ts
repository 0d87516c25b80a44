/**
 * Rows of the coloured photo: the network's colours at the size of the photo, in gamut at its luma. The same as
 * `bands` of infer/photo/bands.py with 8 bits a channel.
 */

import { type ColorMaps, LUMA, type Size } from "./colors.ts";
import type { Floats } from "./plane.ts";

/** Colour difference in levels that counts as none, which avoids division by zero. */
const TINY = 1e-3;

/** Paints a photo, or a smaller copy of it, in bands of rows. */
export class Painter {
  private readonly wide: { offset: Floats; slope: Floats }[];

  /**
   * @param maps colours of the photo.
   * @param size of the picture to paint, at least that of the maps.
   * @param strength factor of chroma, 0 for gray to 2; hue and luma stay.
   */
  constructor(
    maps: ColorMaps,
    private readonly size: Size,
    strength: number,
  ) {
    this.wide = [maps.red, maps.blue].map(({ offset, slope }) => ({
      offset: widened(offset, size.width, strength, 0),
      slope: widened(slope, size.width, strength, 1), // R and B instead of R - Y and B - Y
    }));
  }

  /**
   * Paint rows as RGBA.
   *
   * @param luma of the whole picture.
   * @param alpha of the whole picture; null if it is opaque.
   * @param top first row.
   * @param pixels result, rows x width x 4.
   */
  paint(luma: Uint8Array, alpha: Uint8Array | null, top: number, pixels: Uint8ClampedArray): void {
    const { width } = this.size;
    const rows = pixels.length / (4 * width);
    for (let row = 0; row < rows; row++) {
      const start = (top + row) * width;
      const line = pixels.subarray(row * width * 4, (row + 1) * width * 4);
      this.row(luma.subarray(start, start + width), top + row, line);
      for (let x = 0; x < width; x++) line[4 * x + 3] = alpha ? alpha[start + x] : 255;
    }
  }

  private row(luma: Uint8Array, y: number, pixels: Uint8ClampedArray): void {
    const { width, height } = this.size;
    const length = this.wide[0].offset.height;
    const { before, fraction } = position(y, length, height);
    const after = Math.min(before + 1, length - 1);
    const line = (plane: Floats, at: number) => plane.data.subarray(at * width, (at + 1) * width);
    const [red, blue] = this.wide.map(({ offset, slope }) => ({
      offset: [line(offset, before), line(offset, after)],
      slope: [line(slope, before), line(slope, after)],
    }));
    const [redOffset, redOffsetAfter, redSlope, redSlopeAfter] = [...red.offset, ...red.slope];
    const [blueOffset, blueOffsetAfter, blueSlope, blueSlopeAfter] = [...blue.offset, ...blue.slope];
    for (let x = 0; x < width; x++) {
      const level = luma[x];
      const redAt = redSlope[x] + fraction * (redSlopeAfter[x] - redSlope[x]);
      const blueAt = blueSlope[x] + fraction * (blueSlopeAfter[x] - blueSlope[x]);
      let r = redOffset[x] + fraction * (redOffsetAfter[x] - redOffset[x]) + redAt * level;
      let b = blueOffset[x] + fraction * (blueOffsetAfter[x] - blueOffset[x]) + blueAt * level;
      let g = (level - LUMA.red * r - LUMA.blue * b) / LUMA.green;
      const above = Math.max(r, g, b) - level;
      const below = level - Math.min(r, g, b);
      if (above > 255 - level || below > level) {
        // Moved towards gray by the largest share of colour that fits.
        const share = Math.min((255 - level) / Math.max(above, TINY), level / Math.max(below, TINY), 1);
        r = level + share * (r - level);
        g = level + share * (g - level);
        b = level + share * (b - level);
      }
      pixels[4 * x] = (r + 0.5) | 0;
      pixels[4 * x + 1] = (g + 0.5) | 0;
      pixels[4 * x + 2] = (b + 0.5) | 0;
    }
  }
}

/** Return a plane interpolated to a width, with values times `factor` plus `added`. */
function widened(plane: Floats, width: number, factor: number, added: number): Floats {
  const data = new Float32Array(plane.height * width);
  for (let x = 0; x < width; x++) {
    const { before, fraction } = position(x, plane.width, width);
    const after = Math.min(before + 1, plane.width - 1);
    for (let y = 0; y < plane.height; y++) {
      const [first, second] = [plane.data[y * plane.width + before], plane.data[y * plane.width + after]];
      data[y * width + x] = factor * (first + fraction * (second - first)) + added;
    }
  }
  return { width, height: plane.height, data };
}

/** Return the source value before a target value along a side, and the weight of the one after it. */
function position(index: number, length: number, full: number): { before: number; fraction: number } {
  const place = Math.min(Math.max((index + 0.5) * (length / full) - 0.5, 0), length - 1);
  const before = Math.floor(place);
  return { before, fraction: place - before };
}
