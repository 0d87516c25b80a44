/** The page: photos are coloured one after another, in the order in which they came. */

import "./style.css";
import "./card.css";

import { wrap } from "comlink";

import { Card } from "./card.ts";
import { receive } from "./intake.ts";
import type { Studio } from "./studio.ts";

const find = <Kind extends HTMLElement>(selector: string) => document.querySelector<Kind>(selector)!;
const problem = find("#problem");
const say = (text: string) => void (find("#status").textContent = text);
const stop = (text: string) => {
  problem.textContent = text;
  problem.hidden = false;
};

function start(): void {
  const worker = new Worker(new URL("./studio.ts", import.meta.url), { type: "module" });
  worker.addEventListener("error", (event) =>
    stop(`Colouring stopped: ${event.message || "no memory"}. Reload the page.`),
  );
  const studio = wrap<Studio>(worker);
  let last = Promise.resolve();

  const take = (files: File[]) => {
    const cards = files.map((file) => new Card(file, studio, say));
    for (const card of cards) {
      find("#photos").append(card.element);
      last = last.then(() => card.color());
    }
    cards[0]?.element.scrollIntoView({ block: "nearest" });
    if (files.length) say(files.length === 1 ? `Colouring ${files[0].name}.` : `Colouring ${files.length} photos.`);
  };
  receive(find<HTMLInputElement>("#chooser"), take, say);
  for (const button of document.querySelectorAll<HTMLButtonElement>("#examples button")) {
    button.addEventListener("click", async () => {
      const { src } = button.querySelector("img")!;
      const answer = await fetch(src);
      const content = await answer.blob();
      take([new File([content], button.dataset.name!, { type: content.type })]);
    });
  }
  studio
    .ready()
    .then(keepForOffline, (error: Error) => stop(`The model was not loaded: ${error.message}. Reload the page.`));
}

/** Keep the page for use without a network, which browsers allow on https and on this machine. */
async function keepForOffline(): Promise<void> {
  if (!("serviceWorker" in navigator) || !import.meta.env.PROD) return;
  await navigator.serviceWorker.register("./service-worker.js");
  await navigator.serviceWorker.ready;
  find("#offline").hidden = false;
}

problem.hidden = true;
if (typeof OffscreenCanvas === "undefined" || typeof WebAssembly === "undefined") {
  stop("This browser is too old: found no OffscreenCanvas or WebAssembly. Use one of 2023 or newer.");
} else {
  start();
}
