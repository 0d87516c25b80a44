/** What the page computes of the small photos that test_numbers.py gives, as JSON on standard output. */

import { readFileSync } from "node:fs";

import { colorMaps } from "../../web/src/colors.ts";
import { packet } from "../../web/src/mark.ts";
import { Painter } from "../../web/src/painter.ts";
import { modelInput } from "../../web/src/resample.ts";
import { colorSpread } from "../../web/src/spread.ts";

interface Case {
  width: number;
  height: number;
  luma: number[];
  render: number;
  rgb: number[];
  strength: number;
}

const { cases, spreads, mark } = JSON.parse(readFileSync(0, "utf8"));

function painted({ width, height, luma, render, rgb, strength }: Case) {
  const photo = { width, height, data: new Uint8Array(luma) };
  const gray = modelInput(photo, render, render);
  const maps = colorMaps(photo, { width: render, height: render }, gray, new Float32Array(rgb));
  const pixels = new Uint8ClampedArray(width * height * 4);
  new Painter(maps, photo, strength).paint(photo.data, null, 0, pixels);
  return { gray: [...gray], pixels: [...pixels] };
}

const results = {
  cases: cases.map(painted),
  spreads: spreads.map((pixels: number[]) => colorSpread(new Uint8ClampedArray(pixels))),
  mark: packet(mark.model, mark.digest),
};
process.stdout.write(JSON.stringify(results));
