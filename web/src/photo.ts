/** Pixels of a photo, as the browser decodes it: 8 bits a channel in sRGB, upright. */

import type { Size } from "./colors.ts";
import { colorSpread, SPREAD_SIDE } from "./spread.ts";

/** Pixels that are read at a time: 4 MiB of RGBA. */
const BAND_PIXELS = 2 ** 20;

/** `LUMA_FIXED_POINT` of cgan/spec.py: weights of luma in units of 2 ** -16, as Pillow's mode L rounds them. */
const [RED, GREEN, BLUE] = [19595, 38470, 7471];

export interface Photo extends Size {
  luma: Uint8Array;
  /** null if the photo is opaque. */
  alpha: Uint8Array | null;
  /** See `colorSpread`. */
  spread: number;
}

/**
 * Decode a photo.
 *
 * @throws DOMException if the browser cannot read it.
 */
export async function decoded(file: Blob): Promise<Photo> {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "default", imageOrientation: "from-image" });
  try {
    return { width: bitmap.width, height: bitmap.height, ...planes(bitmap), spread: spreadOf(bitmap) };
  } finally {
    bitmap.close();
  }
}

/** Return a canvas with its context. */
export function canvasOf(size: Size, settings?: CanvasRenderingContext2DSettings) {
  const canvas = new OffscreenCanvas(size.width, size.height);
  const context = canvas.getContext("2d", settings);
  if (!context) throw new Error(`this browser cannot hold ${size.width} x ${size.height} pixels; use a smaller photo`);
  return { canvas, context };
}

/** Yield first rows and numbers of rows of bands of a picture. */
export function* bandsOf(size: Size): Generator<{ top: number; rows: number }> {
  const step = Math.max(1, Math.floor(BAND_PIXELS / size.width));
  for (let top = 0; top < size.height; top += step) yield { top, rows: Math.min(step, size.height - top) };
}

function planes(bitmap: ImageBitmap): Pick<Photo, "luma" | "alpha"> {
  const { width, height } = bitmap;
  const [luma, alpha] = [new Uint8Array(width * height), new Uint8Array(width * height)];
  const [highest] = bandsOf(bitmap);
  const { context } = canvasOf({ width, height: highest.rows }, { willReadFrequently: true });
  context.globalCompositeOperation = "copy";
  let common = 255;
  for (const { top, rows } of bandsOf(bitmap)) {
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, width, rows);
    for (let from = 0, to = top * width; from < data.length; from += 4, to++) {
      luma[to] = (data[from] * RED + data[from + 1] * GREEN + data[from + 2] * BLUE + 2 ** 15) >> 16;
      alpha[to] = data[from + 3];
      common &= data[from + 3];
    }
  }
  return { luma, alpha: common === 255 ? null : alpha };
}

function spreadOf(bitmap: ImageBitmap): number {
  const size = { width: Math.min(bitmap.width, SPREAD_SIDE), height: Math.min(bitmap.height, SPREAD_SIDE) };
  const { context } = canvasOf(size, { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, size.width, size.height);
  return colorSpread(context.getImageData(0, 0, size.width, size.height).data);
}
