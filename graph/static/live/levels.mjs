// Notifications of the browser when a price crosses a level. They need no server: they work while the page is open.

import { signal } from "../vendor/signals-core-1.14.5.mjs";
import { nowSeconds } from "./api.mjs";
import { price as formatPrice } from "./format.mjs";
import { onPrice } from "./prices.mjs";
import { levels } from "./storage.mjs";

const MAX_CROSSINGS = 20;

// Reading `Notification.permission` waits for the browser each time, so this follows its changes.
export const permission = signal(globalThis.Notification?.permission ?? "missing");
export const crossings = signal([]); // the newest ones: ticker, sentence, UNIX seconds

/** Returns whether a level lies between two prices: it is reached by the second and was not by the first. */
export function isCrossed(level, before, after) {
  const [from, to] = [Math.sign(Number(before) - Number(level)), Math.sign(Number(after) - Number(level))];
  return from !== 0 && from !== to;
}

export function addLevel(ticker, price) {
  levels.value = [...levels.value.filter((one) => one.ticker !== ticker || one.price !== price), { ticker, price }];
  if (permission.peek() === "default") Notification.requestPermission();
}

export function removeLevel(ticker, price) {
  levels.value = levels.value.filter((one) => one.ticker !== ticker || one.price !== price);
}

/** Compares each new price with the levels. */
export function startLevels() {
  followPermission().catch((error) => console.warn(error.message));
  onPrice((ticker, price, before) => {
    if (before === null) return;
    for (const level of levels.peek().filter((one) => one.ticker === ticker && isCrossed(one.price, before, price))) {
      const text = `${ticker} crossed ${formatPrice(level.price)}: ${formatPrice(price)}`;
      crossings.value = [{ ticker, text, at: nowSeconds() }, ...crossings.peek()].slice(0, MAX_CROSSINGS);
      notify(text, level);
    }
  });
}

/** Shows a notification, of which there is one for each level, however many tabs are open. Phones allow it to the service worker only. */
async function notify(text, { ticker, price }) {
  if (permission.peek() !== "granted") return;
  const options = { body: text, tag: `${ticker} ${price}`, renotify: true, data: { ticker } };
  try {
    const registration = await navigator.serviceWorker?.getRegistration();
    if (registration) await registration.showNotification("Tickgraph", options);
    else new Notification("Tickgraph", options);
  } catch (error) {
    console.warn(error.message); // the crossing is listed on the page
  }
}

async function followPermission() {
  const status = await navigator.permissions?.query({ name: "notifications" });
  if (!status) return;
  const read = () => (permission.value = status.state === "prompt" ? "default" : status.state);
  status.addEventListener("change", read);
  read();
}
