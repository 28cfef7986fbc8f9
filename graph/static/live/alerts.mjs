// Alerts of the server: rules that post webhooks. Listing and changing them needs the admin token.

import { signal } from "../vendor/signals-core-1.14.5.mjs";
import { execute } from "./api.mjs";
import { instant, price } from "./format.mjs";
import { tickers } from "./state.mjs";
import { html, nothing } from "./template.mjs";

const ALERT = "id kind ticker url format level hysteresis direction percent minutes muted deliveries(first: 1) { ts text attempts deliveredAt failedAt error }";
const LIST = `{ alerts { ${ALERT} } }`;
const CREATE = "mutation ($alert: AlertInput!) { createAlert(alert: $alert) { id } }";
const MUTE = "mutation ($id: ID!, $muted: Boolean!) { muteAlert(id: $id, muted: $muted) { id } }";
const DELETE = "mutation ($id: ID!) { deleteAlert(id: $id) }";
const TEST = "mutation ($id: ID!) { testAlert(id: $id) }";
const NUMBER = "A number like 68000.5";

// For each kind its words, and the fields that it needs.
const KINDS = {
  CROSSES: ["The price crosses a level", ["level", "direction", "hysteresis"]],
  MOVES: ["The price moves", ["percent", "minutes"]],
  STALE: ["No new price", ["minutes"]],
  GAP: ["Minutes are missing", ["minutes"]],
  STREAM_SILENT: ["No new ticks", ["minutes"]],
  DELIVERY_DIFFERS: ["The delivery price differs from our own mean", ["percent"]],
};
const FORMATS = { STANDARD: "Standard Webhooks", SLACK: "Slack", DISCORD: "Discord", NTFY: "ntfy" };
const DIRECTIONS = { EITHER: "from either side", UP: "from below", DOWN: "from above" };
const LABELS = { level: "Level", hysteresis: "Distance before it can fire again", percent: "Percent", minutes: "Minutes" };

let token = null; // lasts until the page is left: it may change alerts

/** Opens the view. Returns a function that ends its updates. */
export async function open(show) {
  const page = new AlertsPage();
  show(() => page.template());
  if (token !== null) await page.load();
  return () => {};
}

class AlertsPage {
  #alerts = signal(null);
  #problem = signal("");
  #done = signal(""); // what the last click did
  #kind = signal("CROSSES");

  async load() {
    await this.#run(async () => (this.#alerts.value = (await execute(LIST, {}, token)).alerts));
  }

  template() {
    return html`<h1>Alerts</h1>
      <p class="hint">The server sends a webhook when the condition of an alert becomes true. For a notification in this browser, add a level on a ticker's page; that needs no token.</p>
      ${this.#problem.value ? html`<p class="problem" role="alert">${this.#problem.value}</p>` : nothing}
      <p class="hint" role="status">${this.#done.value}</p>
      ${this.#alerts.value === null ? this.#tokenForm() : html`${this.#list(this.#alerts.value)}${this.#createForm()}`}`;
  }

  #tokenForm() {
    const submit = (event) => {
      event.preventDefault();
      token = event.target.elements.token.value.trim();
      this.load();
    };
    return html`<section class="panel"><h2>Admin token</h2>
      <p class="hint">Alerts contain secret URLs, so reading and changing them requires the ADMIN_TOKEN of this Tickgraph.</p>
      <form class="inline-form" @submit=${submit}><label>Token <input type="password" name="token" autocomplete="off" required></label><button class="framed">Show alerts</button></form></section>`;
  }

  #list(alerts) {
    if (!alerts.length) return html`<section class="panel"><h2>All alerts</h2><p class="hint">No alerts yet.</p></section>`;
    return html`<section class="panel"><h2>All alerts</h2><div class="scroll" tabindex="0" role="group" aria-label="All alerts"><table class="texts">
      <thead><tr><th scope="col">Alert</th><th scope="col">Webhook</th><th scope="col">Newest</th><td></td></tr></thead>
      <tbody>${alerts.map((one) => html`<tr><th scope="row">${describeAlert(one)}${one.muted ? " (muted)" : ""}</th>
        <td>${FORMATS[one.format]}: ${hostOf(one.url)}</td>
        <td>${one.deliveries.length ? describeDelivery(one.deliveries[0]) : "not fired yet"}</td>
        <td>
          <button type="button" class="framed" @click=${() => this.#change(MUTE, { id: one.id, muted: !one.muted })}>${one.muted ? "Unmute" : "Mute"}</button>
          <button type="button" class="framed" @click=${() => this.#change(TEST, { id: one.id }, "A worker sends a test message within a minute. Its state is in the list when you open this page again.")}>Test</button>
          <button type="button" class="framed" @click=${() => confirm(`Delete the alert "${describeAlert(one)}"?`) && this.#change(DELETE, { id: one.id })}>Delete</button>
        </td></tr>`)}</tbody></table></div></section>`;
  }

  #createForm() {
    const fields = KINDS[this.#kind.value][1];
    const submit = (event) => {
      event.preventDefault();
      const values = Object.fromEntries(new FormData(event.target));
      const alert = Object.fromEntries(Object.entries(values).filter(([name, value]) => value !== "" && (!(name in LABELS) || fields.includes(name))));
      if (alert.minutes) alert.minutes = Number(alert.minutes);
      this.#change(CREATE, { alert });
    };
    const options = (values) => Object.entries(values).map(([value, text]) => html`<option value=${value}>${text}</option>`);
    const number = (name) => html`<label>${LABELS[name]} <input name=${name} inputmode="decimal" pattern=${name === "minutes" ? "\\d{1,5}" : "\\d+(\\.\\d+)?"} title=${name === "minutes" ? "1 to 10080" : NUMBER} ?required=${name !== "hysteresis"}></label>`;
    return html`<section class="panel"><h2>New alert</h2><form @submit=${submit}>
      <div class="fields">
        <label>When <select name="kind" @change=${(event) => (this.#kind.value = event.target.value)}>${options(Object.fromEntries(Object.entries(KINDS).map(([kind, [text]]) => [kind, text])))}</select></label>
        <label>Ticker <select name="ticker">${[...(tickers.value?.keys() ?? [])].map((name) => html`<option>${name}</option>`)}</select></label>
        ${fields.map((name) => (name === "direction" ? html`<label>Direction <select name="direction">${options(DIRECTIONS)}</select></label>` : number(name)))}
        <label>URL of the webhook <input type="url" name="url" required></label>
        <label>Format <select name="format">${options(FORMATS)}</select></label>
      </div>
      <button class="framed">Create alert</button></form></section>`;
  }

  #change(mutation, variables, done = "") {
    this.#done.value = "";
    return this.#run(async () => {
      await execute(mutation, variables, token);
      this.#done.value = done;
      this.#alerts.value = (await execute(LIST, {}, token)).alerts;
    });
  }

  async #run(action) {
    try {
      await action();
      this.#problem.value = "";
    } catch (error) {
      const isWrongToken = ["UNAUTHENTICATED", "FORBIDDEN"].includes(error.code);
      this.#problem.value = isWrongToken ? `The API rejected this token: ${error.message}` : error.message;
      if (isWrongToken) this.#alerts.value = token = null;
    }
  }
}

/** Describes a rule in a sentence without its end. */
function describeAlert({ kind, ticker, level, hysteresis, direction, percent, minutes }) {
  const details = {
    CROSSES: () => `crosses ${price(level)} ${DIRECTIONS[direction]}${Number(hysteresis) ? `, again after ${price(hysteresis)}` : ""}`,
    MOVES: () => `moves by ${percent} % within ${minutes} min`,
    STALE: () => `has no newer price for ${minutes} min`,
    GAP: () => `lacks ${minutes} min or more`,
    STREAM_SILENT: () => `has no newer ticks for ${minutes} min`,
    DELIVERY_DIFFERS: () => `has a delivery price that differs by ${percent} %`,
  };
  return `${ticker} ${details[kind]()}`;
}

function describeDelivery({ ts, text, attempts, deliveredAt, failedAt, error }) {
  const state = deliveredAt ? "delivered" : failedAt ? `given up: ${error}` : attempts ? `${attempts} attempts: ${error}` : "pending";
  return `${instant(ts)}: ${text} (${state})`;
}

function hostOf(url) {
  return URL.canParse(url) ? new URL(url).host : url;
}
