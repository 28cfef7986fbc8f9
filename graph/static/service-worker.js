"use strict";

// Keeps the page available offline. It stores the page and its files, never answers of the API: without the API, the page says
// since when it is offline. Files with a version in their name never change; all others are requested from the network first.

const CACHE = "tickgraph-1";
const VERSIONED = /-\d+\.\d+\.\d+[.-]/;
const SCOPE = new URL(self.registration.scope).pathname;

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(activate()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  const path = new URL(request.url).pathname;
  const isPage = request.mode === "navigate" && path === SCOPE;
  if (request.method !== "GET" || !(isPage || path.startsWith(`${SCOPE}static/`))) return;
  event.respondWith(VERSIONED.test(path) ? fromCache(request) : fromNetwork(request, isPage ? SCOPE : request.url));
});

async function activate() {
  for (const name of await caches.keys()) if (name !== CACHE) await caches.delete(name);
  await self.clients.claim();
}

async function fromCache(request) {
  return (await caches.match(request)) ?? fromNetwork(request, request.url);
}

/** Requests from the network, and stores the response under a key. Without network, returns what is stored. */
async function fromNetwork(request, key) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(key, response.clone());
    return response;
  } catch (error) {
    const stored = await cache.match(key);
    if (stored) return stored;
    throw error;
  }
}
