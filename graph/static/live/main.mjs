// Entry point: opens the view of the URL, and the connection for its updates.

import { computed, effect, untracked } from "../vendor/signals-core-1.14.5.mjs";
import { hasKey, headers, isKeyRejected, nowSeconds } from "./api.mjs";
import { startLevels } from "./levels.mjs";
import { followPrices } from "./prices.mjs";
import { failure, keyForm, problems, startShell } from "./shell.mjs";
import { Socket } from "./socket.mjs";
import { CONNECTED, connection, show, view } from "./state.mjs";
import { lastSeen, reloadedAt } from "./storage.mjs";
import { mount } from "./template.mjs";

const VIEWS = {
  prices: () => import("./overview.mjs"),
  ticker: () => import("./ticker.mjs"),
  health: () => import("./health.mjs"),
  alerts: () => import("./alerts.mjs"),
};
const RETRY_MS = 3_000;
const RELOAD_PAUSE_MS = 60_000;
const PRELOAD_DELAY_MS = 2_000;
const PERMANENT_CODES = ["UNKNOWN_TICKER", "FORBIDDEN", "UNAUTHENTICATED"];

const main = document.getElementById("main");
let closeView = () => {};
let unmount = () => {};
let viewNumber = 0;
let retryTimer = null;

function onState(state) {
  if (CONNECTED.includes(connection.peek()) && state === "offline") lastSeen.value = nowSeconds();
  connection.value = state;
}

const url = new URL("graphql", location.href.replace(/^http/, "ws")).href;
const socket = new Socket(url, { onState, onRejected: () => (isKeyRejected.value = true), payload: headers });

function start() {
  followPrices(socket).catch((error) => PERMANENT_CODES.includes(error.code) || setTimeout(start, RETRY_MS));
}

async function showView() {
  const number = ++viewNumber;
  const isCurrent = () => number === viewNumber;
  clearTimeout(retryTimer);
  closeView();
  closeView = () => {};
  try {
    const { open } = await loadView(view.peek().page);
    if (!isCurrent()) return;
    const close = await open(showTemplate, { socket, isCurrent });
    if (isCurrent()) closeView = close;
    else close();
  } catch (error) {
    if (isCurrent()) showError(error);
  }
}

/** Loads the module of a view. A browser never loads a module again that failed, so the page is reloaded then. */
async function loadView(page) {
  try {
    return await VIEWS[page]();
  } catch (error) {
    console.warn(error.message);
    throw Object.assign(new Error("This part of the page could not be loaded"), { retry: reload });
  }
}

/** Reloads the page once the API responds again: without it, the browser would show a page of its own. Once a minute, for a file that is broken. */
function reload() {
  const isDue = Date.now() - reloadedAt.peek() > RELOAD_PAUSE_MS;
  if (!isDue || !CONNECTED.includes(connection.peek())) return (retryTimer = setTimeout(reload, RETRY_MS));
  reloadedAt.value = Date.now();
  location.reload();
}

/** Shows a template in place of the one before. Returns its element. */
function showTemplate(template) {
  unmount();
  const notices = document.createElement("div");
  const page = document.createElement("div");
  page.className = "page";
  main.replaceChildren(notices, page);
  const stops = [mount(notices, problems), mount(page, template)];
  unmount = () => stops.forEach((stop) => stop());
  return page;
}

function showError(error) {
  if (error.code === "UNAUTHENTICATED") return; // the form for the key is shown
  console.warn(error);
  showTemplate(() => failure(error));
  if (!PERMANENT_CODES.includes(error.code)) retryTimer = setTimeout(error.retry ?? showView, RETRY_MS);
}

function showKeyForm() {
  viewNumber++; // a view that is opening must not replace the form
  closeView();
  closeView = () => {};
  showTemplate(() => keyForm(hasKey()));
}

/** Loads the other views after the first one, so that they open offline, too, and are of the same version. */
async function preload() {
  await Promise.all(Object.values(VIEWS).map((load) => load()));
  if (!isSecureContext || !("serviceWorker" in navigator)) return;
  await navigator.serviceWorker.register("service-worker.js");
  const { active } = await navigator.serviceWorker.ready;
  active.postMessage(performance.getEntriesByType("resource").map((one) => one.name).filter((name) => name.includes("/static/")));
}

startShell();
start();
navigator.serviceWorker?.addEventListener("message", ({ data }) => show(`?ticker=${data.ticker}`)); // of a notification that was clicked
startLevels();
const shown = computed(() => `${view.value.page} ${view.value.ticker}`);
let isFirst = true;
effect(() => {
  if (!shown.value) return;
  untracked(showView);
  if (!isFirst) main.focus({ preventScroll: true });
  isFirst = false;
});
effect(() => {
  if (isKeyRejected.value) untracked(showKeyForm);
});
setTimeout(() => preload().catch((error) => console.warn(error.message)), PRELOAD_DELAY_MS);
