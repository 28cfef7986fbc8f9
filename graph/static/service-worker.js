"use strict";

// Keeps the page available offline. It stores the page and its files, never answers of the API: without the API, the page says
// since when it is offline. Files with a version in their name never change; all others are requested from the network first.

const VERSIONED = /-\d+\.\d+\.\d+[./-]/;
const SCOPE = new URL(self.registration.scope).pathname;
const CACHE = `tickgraph-1 ${SCOPE}`;

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(activate()));

// The page sends the addresses of its files after its first visit, on which the service worker did not see them.
self.addEventListener("message", (event) => event.waitUntil(store([SCOPE, ...event.data])));

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(show(event.notification.data.ticker));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  const isPage = request.mode === "navigate" && pathname === SCOPE;
  const isFile = origin === location.origin && pathname.startsWith(`${SCOPE}static/`);
  if (request.method !== "GET" || request.headers.has("Range") || !(isPage || isFile)) return;
  event.respondWith(VERSIONED.test(pathname) ? fromCache(event) : fromNetwork(event, isPage ? SCOPE : request.url));
});

async function activate() {
  const isOld = (name) => name.startsWith("tickgraph-") && name.endsWith(` ${SCOPE}`) && name !== CACHE;
  for (const name of (await caches.keys()).filter(isOld)) await caches.delete(name);
  await self.clients.claim();
}

/** Shows a ticker in a tab of the page, or opens one. */
async function show(ticker) {
  const tabs = await self.clients.matchAll({ type: "window" });
  const tab = tabs.find((one) => new URL(one.url).pathname === SCOPE);
  if (!tab) return self.clients.openWindow(`${SCOPE}?ticker=${ticker}`);
  tab.postMessage({ ticker });
  return tab.focus();
}

async function store(addresses) {
  const cache = await caches.open(CACHE);
  const add = async (address) => (await cache.match(address)) ?? cache.add(address);
  await Promise.allSettled([...new Set(addresses)].map(add)); // a file that fails leaves the others
}

async function fromCache(event) {
  return (await caches.match(event.request)) ?? fromNetwork(event, event.request.url);
}

/** Requests from the network, and stores the response under a key. Without network, returns what is stored. */
async function fromNetwork(event, key) {
  try {
    const response = await fetch(event.request);
    if (response.status === 200) event.waitUntil(keep(key, response.clone()));
    return response;
  } catch (error) {
    const stored = await caches.match(key);
    if (stored) return stored;
    throw error;
  }
}

/** Stores a response. If that fails, for example because the disk is full, the page works as before. */
async function keep(key, response) {
  try {
    await (await caches.open(CACHE)).put(key, response);
  } catch (error) {
    console.warn(error.message);
  }
}
