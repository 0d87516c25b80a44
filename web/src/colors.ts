/**
 * The network's colours as functions of luma, at the size of its output: `color_maps` of infer/photo/chroma.py, with the
 * slopes of He et al. 2013, "Guided image filtering".
 */

import type { Floats } from "./plane.ts";
import { shrunk } from "./resample.ts";

/** Weights of R, G and B in luma (ITU-R BT.601-7, section 2.5.1). */
export const LUMA = { red: 0.299, green: 0.587, blue: 0.114 };

/** Radius of the regression's window in pixels of the render size, and its regularisation; reasons in chroma.py. */
const GUIDED_RADIUS = 8;
const GUIDED_EPSILON = 1e-4;

/** R - Y and B - Y in levels of 0 to 255, each as `offset` + `slope` * Y with Y in levels. */
export interface ColorMaps {
  red: { offset: Floats; slope: Floats };
  blue: { offset: Floats; slope: Floats };
}

/**
 * Return the colours of a photo.
 *
 * @param size of the photo in pixels.
 * @param render size of the network's input and output.
 * @param gray input of the network, height x width in [0, 1].
 * @param rgb output of the network, 3 x height x width in [0, 1].
 */
export function colorMaps(size: Size, render: Size, gray: Float32Array, rgb: Float32Array): ColorMaps {
  const count = render.width * render.height;
  const [red, green, blue] = [0, 1, 2].map((channel) => rgb.subarray(channel * count, (channel + 1) * count));
  const plane = (value: (at: number) => number): Floats => ({
    ...render,
    data: Float32Array.from({ length: count }, (_, at) => value(at)),
  });
  const luma = plane((at) => LUMA.red * red[at] + LUMA.green * green[at] + LUMA.blue * blue[at]).data;
  const isLarger = size.width > render.width || size.height > render.height;
  const guide = { ...render, data: gray };
  const [height, width] = [Math.min(size.height, render.height), Math.min(size.width, render.width)];
  const [redMap, blueMap] = [red, blue].map((color) => {
    const difference = plane((at) => color[at] - luma[at]);
    const { offset, slope } = isLarger ? guided(guide, difference) : { offset: difference, slope: plane(() => 0) };
    offset.data.forEach((value, at) => (offset.data[at] = value * 255));
    return { offset: shrunk(offset, height, width), slope: shrunk(slope, height, width) };
  });
  return { red: redMap, blue: blueMap };
}

export interface Size {
  width: number;
  height: number;
}

/** Return offset and slope of values as locally linear functions of a guide: `_guided_coefficients` of chroma.py. */
function guided(guide: Floats, values: Floats): { offset: Floats; slope: Floats } {
  const plane = (value: (at: number) => number): Floats => ({
    ...guide,
    data: Float32Array.from(guide.data, (_, at) => value(at)),
  });
  const [g, v] = [guide.data, values.data];
  const meanG = boxMean(guide).data;
  const meanV = boxMean(values).data;
  const meanGG = boxMean(plane((at) => g[at] * g[at])).data;
  const meanGV = boxMean(plane((at) => g[at] * v[at])).data;
  const slope = boxMean(
    plane((at) => {
      const variance = Math.max(meanGG[at] - meanG[at] * meanG[at], 0);
      return (meanGV[at] - meanG[at] * meanV[at]) / (variance + GUIDED_EPSILON);
    }),
  );
  return { offset: plane((at) => v[at] - slope.data[at] * g[at]), slope };
}

/** Return the mean over the window around each pixel, cropped at the borders. */
function boxMean({ width, height, data }: Floats): Floats {
  const rows = new Float32Array(data.length);
  const means = new Float32Array(data.length);
  for (let y = 0; y < height; y++) meanLine(data, y * width, 1, width, rows);
  for (let x = 0; x < width; x++) meanLine(rows, x, width, height, means);
  return { width, height, data: means };
}

function meanLine(source: Float32Array, start: number, step: number, length: number, result: Float32Array): void {
  for (let index = 0; index < length; index++) {
    const first = Math.max(0, index - GUIDED_RADIUS);
    const last = Math.min(length - 1, index + GUIDED_RADIUS);
    let sum = 0;
    for (let at = first; at <= last; at++) sum += source[start + at * step];
    result[start + index * step] = sum / (last - first + 1);
  }
}
