/** Tells colour photos from gray ones, also from toned ones: `spread_of` of infer/photo/color_spread.py. */

/** Spread above which a photo counts as a colour photo. */
export const COLOR_SPREAD = 4.5;

/** Largest side in pixels of the copy that is measured. */
export const SPREAD_SIDE = 32;

/** Groups of pixels of similar luma, and the least pixels of one. */
const GROUPS = 32;
const LEAST_OF_GROUP = 8;

/** Alpha from which the colour of a pixel counts. */
const OPAQUE = 128;

/**
 * Return the standard deviation of Cb and Cr among pixels of similar luma, in levels.
 *
 * @param pixels RGBA of a small copy of the photo.
 */
export function colorSpread(pixels: Uint8ClampedArray): number {
  const colors: { luma: number; chroma: [number, number] }[] = [];
  for (let at = 0; at < pixels.length; at += 4) {
    const [red, green, blue, alpha] = pixels.subarray(at, at + 4);
    const luma = 0.299 * red + 0.587 * green + 0.114 * blue;
    if (alpha >= OPAQUE) colors.push({ luma, chroma: [(blue - luma) / 1.772, (red - luma) / 1.402] });
  }
  colors.sort((first, second) => first.luma - second.luma);
  const groups = Math.min(GROUPS, Math.floor(colors.length / LEAST_OF_GROUP)) || 1;
  const size = Math.floor(colors.length / groups);
  if (!size) return 0;
  let total = 0;
  for (let group = 0; group < groups; group++) {
    const members = colors.slice(group * size, (group + 1) * size);
    total += variance(members.map(({ chroma }) => chroma[0])) + variance(members.map(({ chroma }) => chroma[1]));
  }
  return Math.sqrt(total / groups);
}

function variance(values: number[]): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
}
