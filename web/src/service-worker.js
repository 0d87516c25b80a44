/**
 * Keeps all files of the page, so that it works without a network. The build puts FILES, their addresses, and VERSION,
 * a digest, in front of this.
 */

/* global FILES, VERSION */

const PREFIX = `cgan ${self.registration.scope} `;
const CACHE = PREFIX + VERSION;

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(FILES.map(asked)))
      .then(() => self.skipWaiting()),
  );
});

/** A request that asks the server: the browser may hold a page of an older version, which names files that are gone. */
function asked(address) {
  return new Request(address, { cache: "no-cache" });
}

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => names.filter((name) => name.startsWith(PREFIX) && name !== CACHE))
      .then((old) => Promise.all(old.map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  event.respondWith(answer(event.request));
});

async function answer(request) {
  const cache = await caches.open(CACHE);
  const page = new URL("./index.html", self.registration.scope).href; // the same as "./", where a server knows it
  return (await cache.match(request.url === page ? "./" : request)) ?? fetch(request);
}
