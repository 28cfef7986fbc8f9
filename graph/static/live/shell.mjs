// What surrounds each view: the state of the connection, the theme, the form for the API key, errors.

import { effect } from "../vendor/signals-core-1.14.5.mjs";
import { buildViewUrl } from "./address.mjs";
import { hasKey, nowSeconds, setKey } from "./api.mjs";
import { instantAfter } from "./format.mjs";
import { showSheet } from "./keys.mjs";
import { connection, follow, staleCount, tickers, view } from "./state.mjs";
import { lastSeen, theme } from "./storage.mjs";
import { html, mount, nothing } from "./template.mjs";

const STATES = { connecting: "Connecting", live: "Live", http: "Live over HTTP", polling: "Updated every 15 seconds", failing: "Subscription failed, retrying", rejected: "API key needed" };
const MAX_LISTED = 20;
const THEMES = { system: "System theme", light: "Light theme", dark: "Dark theme" };

function statusWords() {
  if (connection.value === "offline") {
    return lastSeen.value === null ? "Offline, reconnecting" : `Offline since ${instantAfter(lastSeen.value, nowSeconds())} UTC, reconnecting`;
  }
  const count = staleCount.value;
  return `${STATES[connection.value]}${count ? `, ${count} ${count === 1 ? "ticker" : "tickers"} stale` : ""}`;
}

function forgetKey() {
  setKey(null);
  location.reload();
}

const tools = () => html`
  <select aria-label="Theme" .value=${theme.value} @change=${(event) => (theme.value = event.target.value)}>
    ${Object.entries(THEMES).map(([name, text]) => html`<option value=${name} ?selected=${name === theme.value}>${text}</option>`)}
  </select>
  ${hasKey() ? html`<button type="button" class="framed" @click=${forgetKey}>Forget key</button>` : nothing}
  <button type="button" class="framed" aria-label="Keys" title="Keys (?)" @click=${showSheet}>?</button>`;

/** Starts the parts around the view. */
export function startShell() {
  const status = document.getElementById("status");
  const words = status.querySelector(".words");
  effect(() => {
    status.dataset.state = staleCount.value && connection.value !== "offline" ? "stale" : connection.value;
    const text = statusWords();
    if (words.textContent !== text) words.textContent = text; // screen readers repeat a text that is set again
  });
  mount(document.getElementById("tools"), tools);
  effect(() => (document.documentElement.dataset.theme = theme.value));
  for (const link of document.querySelectorAll("[data-view]")) link.addEventListener("click", follow);
  effect(() => {
    const { page } = view.value;
    for (const link of document.querySelectorAll("nav [data-view]")) {
      if (link.dataset.view === page) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  });
}

/** The parameters of the URL that are ignored. */
export const problems = () =>
  view.value.problems.length ? html`<div role="status"><ul class="problems">${view.value.problems.map((text) => html`<li>${text}</li>`)}</ul></div>` : nothing;

export function failure(error) {
  const message = error.message.replace(/ Tracked tickers: .*$/, ""); // they are listed as links
  const names = [...(tickers.value?.keys() ?? [])].slice(0, MAX_LISTED);
  return html`
    <div class="empty" role="alert">
      <h1>${error.code === "UNKNOWN_TICKER" ? "Unknown ticker" : "Something went wrong"}</h1>
      <p>${message[0].toUpperCase()}${message.slice(1)}${/[.!?]$/.test(message) ? "" : "."} ${error.code ? "" : "The page retries automatically."}</p>
      <p class="choices">${names.map((ticker) => html`<a href=${buildViewUrl({ page: "ticker", ticker })} @click=${follow}>${ticker}</a> `)}</p>
      <p><a href="./" @click=${follow}>All tickers</a></p>
    </div>`;
}

/** The form for the API key. `wasWrong`: the API rejected the last key. */
export function keyForm(wasWrong) {
  const submit = (event) => {
    event.preventDefault();
    const { key, remember } = event.target.elements;
    setKey(key.value.trim(), remember.checked);
    location.reload();
  };
  return html`
    <form class="empty" @submit=${submit}>
      <h1>Enter your API key</h1>
      <p id="key-problem" role=${wasWrong ? "alert" : nothing}>${wasWrong ? "The API rejected this key. Check it, or ask the operator for a new one." : "The operator of this Tickgraph gives you one."}</p>
      <label for="key">Key</label>
      <input type="password" autocomplete="current-password" id="key" name="key" required pattern="[\\x20-\\x7e]+" title="Letters, digits and signs" aria-describedby="key-problem">
      <label class="check"><input type="checkbox" name="remember"> Remember it in this browser</label>
      <button class="framed">Continue</button>
    </form>`;
}
