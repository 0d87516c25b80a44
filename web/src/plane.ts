/** One channel of a picture. */

/** Values in rows, from top to bottom. */
export interface Plane<Values extends Uint8Array | Float32Array = Uint8Array> {
  width: number;
  height: number;
  data: Values;
}

export type Floats = Plane<Float32Array>;
