// The site without a network, after a first visit. Every page of this version is copied once; what it does not hold is
// copied when it is first asked for. A new version has another name and replaces all of it.

const NAME = `peft-lessons ${VERSION}`;

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(NAME).then((cache) => cache.addAll(FILES.map((file) => new Request(file, { cache: "no-cache" })))).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const old = (names) => names.filter((name) => name.startsWith("peft-lessons ") && name !== NAME);
  event.waitUntil(
    caches.keys().then((names) => Promise.all(old(names).map((name) => caches.delete(name)))).then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && new URL(request.url).origin === location.origin) event.respondWith(answer(event));
});

async function answer(event) {
  const { request } = event;
  const cache = await caches.open(NAME);
  const kept = await cache.match(request, { ignoreSearch: true });
  if (kept) return kept;
  const fresh = await fetch(request, { cache: "no-cache" }); // else a copy of the version before could be kept for this one
  if (fresh.ok) event.waitUntil(cache.put(request, fresh.clone()).catch(() => {})); // a full disk is no reason not to show it
  return fresh;
}
