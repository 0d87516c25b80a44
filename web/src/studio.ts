/** The worker that colours photos, so that the page stays responsive. The page calls `Studio` through Comlink. */

import { expose, transfer } from "comlink";

import { type ColorMaps, colorMaps, type Size } from "./colors.ts";
import { marked } from "./mark.ts";
import { loadNetwork, MODEL, RENDER_SIZE } from "./model.ts";
import { Painter } from "./painter.ts";
import { bandsOf, canvasOf, decoded, type Photo } from "./photo.ts";
import { modelInput, reduced } from "./resample.ts";
import { COLOR_SPREAD } from "./spread.ts";

/** Quality of JPEG in [0, 1]: `QUALITY` of infer/photo/formats.py. */
const JPEG_QUALITY = 0.96;

type Pixels = Pick<Photo, "luma" | "alpha" | "width" | "height">;

/** A coloured photo. Its full-size pixels are not kept: many photos would not fit into the memory of a phone. */
interface Colored {
  file: Blob;
  maps: ColorMaps;
  /** Smaller copy of the photo, from which the pictures that are shown are painted. */
  shown: Pixels;
}

export interface Found extends Size {
  hasAlpha: boolean;
  wasColor: boolean;
}

class Studio {
  private readonly network = loadNetwork();
  private readonly photos = new Map<number, Colored>();

  /** Wait for the model. */
  async ready(): Promise<void> {
    await this.network;
  }

  /**
   * Colour a photo and keep it under a number.
   *
   * @param side largest side in pixels of what `pictures` returns.
   * @throws DOMException if the browser cannot read the photo.
   */
  async color(id: number, file: Blob, side: number): Promise<Found> {
    const network = await this.network;
    const photo = await decoded(file);
    const { width, height, alpha, spread } = photo;
    const gray = modelInput({ width, height, data: photo.luma }, RENDER_SIZE.height, RENDER_SIZE.width);
    const maps = colorMaps(photo, RENDER_SIZE, gray, await network(gray));
    this.photos.set(id, { file, maps, shown: reducedTo(side, photo) });
    return { width, height, hasAlpha: alpha !== null, wasColor: spread > COLOR_SPREAD };
  }

  /** Return the pictures that are shown of a photo: in gray, and with a strength of colour. */
  pictures(id: number, strength: number): { before: ImageBitmap; after: ImageBitmap } {
    const { shown, maps } = this.photo(id);
    const [before, after] = [0, strength].map((each) => painted(shown, maps, each).transferToImageBitmap());
    return transfer({ before, after }, [before, after]);
  }

  /** Return a coloured photo at its full size, as a file of a type. */
  async save(id: number, strength: number, type: "image/png" | "image/jpeg"): Promise<Blob> {
    const { file, maps } = this.photo(id);
    const content = await painted(await decoded(file), maps, strength).convertToBlob({ type, quality: JPEG_QUALITY });
    if (content.type !== type) throw new Error(`this browser cannot write ${type}; use another one`);
    return strength > 0 ? marked(content, MODEL.name, MODEL.digest) : content;
  }

  /** Forget a photo. */
  forget(id: number): void {
    this.photos.delete(id);
  }

  private photo(id: number): Colored {
    const photo = this.photos.get(id);
    if (!photo) throw new Error(`photo ${id} is not coloured`);
    return photo;
  }
}

export type { Studio };

/** Return a copy with sides of at most `side` pixels. */
function reducedTo(side: number, photo: Photo): Pixels {
  const factor = Math.ceil(Math.max(photo.width, photo.height) / side);
  const smaller = (data: Uint8Array) => reduced({ width: photo.width, height: photo.height, data }, factor, factor);
  const { width, height, data: luma } = smaller(photo.luma);
  return { width, height, luma, alpha: photo.alpha && smaller(photo.alpha).data };
}

function painted(photo: Pixels, maps: ColorMaps, strength: number): OffscreenCanvas {
  const { canvas, context } = canvasOf(photo);
  const painter = new Painter(maps, photo, strength);
  for (const { top, rows } of bandsOf(photo)) {
    const band = new ImageData(photo.width, rows);
    painter.paint(photo.luma, photo.alpha, top, band.data);
    context.putImageData(band, 0, top);
  }
  return canvas;
}

expose(new Studio());
