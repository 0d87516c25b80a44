/** Build of the page. All addresses in it are relative, so it works below any path. */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";

import { defineConfig, type Plugin, type Rollup } from "vite";

const read = (path: string) => readFileSync(new URL(path, import.meta.url));
const version = /^version = "(.+)"$/m.exec(read("../pyproject.toml").toString())![1];

/** Refuse a model that is not the one of its contract, or whose contract the page does not support. */
function checkModel(): Plugin {
  return {
    name: "check-model",
    buildStart() {
      const { spec, file_sha256 } = JSON.parse(read("../infer/models/flowers-int8.onnx.json").toString());
      const found = createHash("sha256").update(read("../infer/models/flowers-int8.onnx")).digest("hex");
      if (found !== file_sha256) this.error(`flowers-int8.onnx: found SHA-256 ${found}, expected ${file_sha256}`);
      if (spec.schema !== 1 || spec.dynamic_size) this.error("flowers-int8.onnx: expected schema 1 and a fixed size");
    },
  };
}

/** Emit the service worker with the list of all files. */
function serviceWorker(): Plugin {
  return {
    name: "service-worker",
    enforce: "post",
    generateBundle(_, bundle) {
      const index = bundle["index.html"] as Rollup.OutputAsset;
      const built = Object.keys(bundle).filter((name) => name !== "index.html");
      const copied = readdirSync(new URL("public", import.meta.url));
      const digest = createHash("sha256").update(index.source);
      for (const name of copied) digest.update(read(`public/${name}`));
      const files = ["./", ...[...built, ...copied].map((name) => `./${name}`)];
      const head = `const FILES = ${JSON.stringify(files)};\nconst VERSION = "${digest.digest("hex").slice(0, 16)}";\n`;
      const source = head + read("src/service-worker.js");
      this.emitFile({ type: "asset", fileName: "service-worker.js", source });
    },
  };
}

export default defineConfig({
  base: "./",
  define: { CGAN_VERSION: JSON.stringify(version) },
  assetsInclude: ["**/*.onnx"],
  build: { assetsInlineLimit: 0, target: "es2022", chunkSizeWarningLimit: 1000 },
  worker: { format: "es" },
  plugins: [checkModel(), serviceWorker()],
});
