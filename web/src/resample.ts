/**
 * Pillow's resizing, bit for bit, as `infer/photo/decode.py` uses it: a reduction by means of blocks (Reduce.c), then a
 * resampling with a filter (Resample.c).
 */

import type { Floats, Plane } from "./plane.ts";

/** Pillow's reducing_gap; `REDUCING_GAP` in infer/photo/decode.py. */
const REDUCING_GAP = 2;

/** Pillow keeps the weights of 8-bit pixels with this many bits after the point. */
const WEIGHT_STEPS = 2 ** 22;

interface Filter {
  /** Distance in source pixels from which the weight is zero, where the picture is not reduced. */
  support: number;
  weight(distance: number): number;
}

const BILINEAR: Filter = { support: 1, weight: (distance) => Math.max(0, 1 - Math.abs(distance)) };

/** Keys' cubic convolution with a = -0.5. */
const BICUBIC: Filter = {
  support: 2,
  weight(distance) {
    const x = Math.abs(distance);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
  },
};

/** First source pixel and weights of one target pixel. */
interface Window {
  first: number;
  weights: Float64Array;
}

/** Return luma squashed to the render size, height x width in [0, 1]: `model_input` of infer/photo/decode.py. */
export function modelInput(luma: Plane, height: number, width: number): Float32Array {
  return Float32Array.from(resized(luma, height, width).data, (level) => level / 255);
}

/** Return the means of blocks of `across` x `down` pixels; those at the right and lower edge can be smaller. */
export function reduced(plane: Plane, across: number, down: number): Plane {
  const [width, height] = [Math.ceil(plane.width / across), Math.ceil(plane.height / down)];
  const data = new Uint8Array(width * height);
  const sums = new Uint32Array(width);
  for (let y = 0; y < height; y++) {
    const rows = Math.min(down, plane.height - y * down);
    sums.fill(0);
    for (let row = 0; row < rows; row++) {
      const start = (y * down + row) * plane.width;
      for (let x = 0; x < width; x++) {
        const end = start + Math.min((x + 1) * across, plane.width);
        let sum = 0;
        for (let at = start + x * across; at < end; at++) sum += plane.data[at];
        sums[x] += sum;
      }
    }
    for (let x = 0; x < width; x++) {
      data[y * width + x] = mean(sums[x], rows * Math.min(across, plane.width - x * across));
    }
  }
  return { width, height, data };
}

/** Return a plane of floats shrunk with a linear filter, Pillow's mode F. */
export function shrunk(plane: Floats, height: number, width: number): Floats {
  if (plane.width === width && plane.height === height) return plane;
  const columns = windows(plane.width, plane.width, width, BILINEAR);
  const rows = windows(plane.height, plane.height, height, BILINEAR);
  return resampled(plane, columns, rows, (sum) => sum);
}

function resized(plane: Plane, height: number, width: number): Plane | Floats {
  if (plane.width === width && plane.height === height) return plane;
  const across = Math.max(1, Math.trunc(plane.width / width / REDUCING_GAP));
  const down = Math.max(1, Math.trunc(plane.height / height / REDUCING_GAP));
  const small = across > 1 || down > 1 ? reduced(plane, across, down) : plane;
  const columns = windows(small.width, plane.width / across, width, BICUBIC).map(inSteps);
  const rows = windows(small.height, plane.height / down, height, BICUBIC).map(inSteps);
  const level = (sum: number) => Math.min(Math.max(Math.floor(sum + 0.5), 0), 255);
  return resampled({ ...small, data: Float32Array.from(small.data) }, columns, rows, level);
}

/** Return the rounded mean, with the reciprocal of `count` as Pillow rounds it: in float32, then down. */
function mean(sum: number, count: number): number {
  const reciprocal = Math.trunc(Math.fround(2 ** 32 / Math.fround(256 * count)));
  return Math.floor(((sum + (count >> 1)) * reciprocal) / 2 ** 24);
}

/**
 * Return the windows of the target pixels along a side.
 *
 * @param length source pixels.
 * @param covered length of the part of them that the target covers; the last of reduced pixels can stand out.
 * @param target target pixels.
 */
function windows(length: number, covered: number, target: number, filter: Filter): Window[] {
  const scale = Math.fround(covered) / target;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  return Array.from({ length: target }, (_, index) => {
    const center = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(length, Math.trunc(center + support + 0.5));
    const weights = new Float64Array(end - first);
    let total = 0;
    for (let at = 0; at < weights.length; at++) {
      weights[at] = filter.weight((at + first - center + 0.5) * (1 / stretch));
      total += weights[at];
    }
    return { first, weights: total ? weights.map((weight) => weight / total) : weights };
  });
}

function inSteps({ first, weights }: Window): Window {
  const round = (weight: number) => Math.trunc(weight * WEIGHT_STEPS + (weight < 0 ? -0.5 : 0.5)) / WEIGHT_STEPS;
  return { first, weights: weights.map(round) };
}

/**
 * Resample rows and columns, and finish the sums of both.
 *
 * Which goes first is Pillow's choice since version 13, and changes the rounding.
 */
function resampled(plane: Floats, columns: Window[], rows: Window[], finish: (sum: number) => number): Floats {
  const lost = { width: plane.width - columns.length, height: plane.height - rows.length };
  const wide = (from: Floats): Floats => {
    const data = new Float32Array(columns.length * from.height);
    for (let y = 0; y < from.height; y++) line(from.data, y * from.width, 1, columns, finish, data, y * columns.length);
    return { width: columns.length, height: from.height, data };
  };
  const high = (from: Floats): Floats => {
    const data = new Float32Array(from.width * rows.length);
    for (let x = 0; x < from.width; x++) line(from.data, x, from.width, rows, finish, data, x);
    return { width: from.width, height: rows.length, data };
  };
  return lost.height > 0 && lost.height > 2 * lost.width ? wide(high(plane)) : high(wide(plane));
}

/** Resample a line of values that lie `step` apart, in the source and in the result. */
function line(
  source: Float32Array,
  start: number,
  step: number,
  targets: Window[],
  finish: (sum: number) => number,
  result: Float32Array,
  to: number,
): void {
  targets.forEach(({ first, weights }, index) => {
    let sum = 0;
    for (let at = 0; at < weights.length; at++) sum += weights[at] * source[start + (first + at) * step];
    result[to + index * step] = finish(sum);
  });
}
