/** The packaged int8 model in ONNX Runtime, in WebAssembly: WebGPU computes quantised convolutions wrongly. */

import * as ort from "onnxruntime-web/wasm";
import runtime from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";

import file from "../../infer/models/flowers-int8.onnx?url";
import { file_sha256, spec } from "../../infer/models/flowers-int8.onnx.json";

/** File name and SHA-256, as the mark of a coloured photo names them. */
export const MODEL = { name: "flowers-int8.onnx", digest: file_sha256 };

/** Height and width of the network's input and output in pixels. */
export const RENDER_SIZE = { width: spec.render_size, height: spec.render_size };

export type Network = (gray: Float32Array) => Promise<Float32Array>;

/**
 * Load the model.
 *
 * @returns the network: luma, height x width in [0, 1], to RGB, 3 x height x width in [0, 1].
 * @throws Error if a file cannot be fetched.
 */
export async function loadNetwork(): Promise<Network> {
  ort.env.wasm.wasmPaths = { wasm: new URL(runtime, import.meta.url).href };
  const answer = await fetch(new URL(file, import.meta.url));
  if (!answer.ok) throw new Error(`found status ${answer.status} for the model; reload the page`);
  const session = await ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), {
    executionProviders: ["wasm"], // one thread where the page is not isolated from other origins
  });
  return async (gray) => {
    const input = new ort.Tensor("float32", gray, [1, 1, RENDER_SIZE.height, RENDER_SIZE.width]);
    const { [spec.output.name]: output } = await session.run({ [spec.input.name]: input });
    return output.data as Float32Array;
  };
}
