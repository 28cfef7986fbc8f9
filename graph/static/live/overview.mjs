// The overview: a table of all tickers with their newest price and the last 24 hours.

import { effect, signal, untracked } from "../vendor/signals-core-1.14.5.mjs";
import { buildViewUrl } from "./address.mjs";
import { execute, nowSeconds } from "./api.mjs";
import { spark } from "./chart_data.mjs";
import { change, direction, duration, higher, lower, price, since, staleReason } from "./format.mjs";
import { bindKeys } from "./keys.mjs";
import { pairName } from "./names.mjs";
import { arrange, groupRows } from "./overview_rows.mjs";
import { onPrice } from "./prices.mjs";
import { clock, follow, isStale, navigate, tickers, view } from "./state.mjs";
import { columns, pinned } from "./storage.mjs";
import { html, nothing, repeat, svg } from "./template.mjs";

const DAY = 86_400;
const RELOAD_MS = 300_000;
const BATCH_SIZE = 10; // two root fields a ticker; a document may have 20
const SPARK_POINTS = 100;
const SPARK_BREAK_S = (2 * DAY) / (SPARK_POINTS / 4); // between neighbors of a thinned series lie at most two of its parts
const FLASH_MS = 900;
const WIDTH = 120;
const HEIGHT = 32;
const COLUMNS = { spark: "24 hours", price: "Price", change: "Change in 24 h", low: "Low in 24 h", high: "High in 24 h", age: "Age" };

/** Opens the overview. Returns a function that ends its updates. */
export async function open(show) {
  const days = signal(new Map()); // by name: the first, lowest and highest price of the last 24 hours, and the path of a line
  const page = show(() => overview(days.value));
  const requested = new Set();
  const load = (names) => {
    names.forEach((name) => requested.add(name));
    loadDays(names, days).catch((error) => {
      console.warn(error.message);
      names.filter((name) => !days.peek().has(name)).forEach((name) => requested.delete(name)); // with the next price, or reload
    });
  };
  const timer = setInterval(() => load([...(tickers.peek()?.keys() ?? [])]), RELOAD_MS);
  const stop = effect(() => {
    const names = [...(tickers.value?.keys() ?? [])].filter((name) => !requested.has(name));
    if (names.length) untracked(() => load(names));
  });
  const unbind = bindKeys("Prices", [{ key: "/", text: "Filter", run: () => page.querySelector("[name=filter]")?.focus() }]);
  const endFlashes = onPrice((name) => flash(page.querySelector(`[data-ticker="${name}"] .price`)));
  return () => [stop, unbind, endFlashes, () => clearInterval(timer)].forEach((end) => end());
}

/** Shows for a moment that a price is new. */
function flash(cell) {
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) cell?.animate([{ backgroundColor: "var(--flash)" }, { backgroundColor: "transparent" }], FLASH_MS);
}

/** Loads the last 24 hours of tickers. Throws an error of the API; what is loaded before remains. */
async function loadDays(names, days) {
  for (let start = 0; start < names.length; start += BATCH_SIZE) {
    const batch = names.slice(start, start + BATCH_SIZE);
    const fields = batch.map((_, n) => `s${n}: summary(ticker: $n${n}, from: $from) { first { ts price } highest lowest }
      p${n}: series(ticker: $n${n}, from: $from, maxPoints: ${SPARK_POINTS}) { ts price }`);
    const variables = Object.fromEntries(batch.map((name, n) => [`n${n}`, name]));
    const data = await execute(`query (${batch.map((_, n) => `$n${n}: String!`).join(", ")}, $from: UnixTime!) { ${fields.join("\n")} }`, { ...variables, from: nowSeconds() - DAY });
    days.value = new Map([...days.peek(), ...batch.map((name, n) => [name, toDay(data[`s${n}`], data[`p${n}`])])]);
  }
}

function toDay(summary, series) {
  const points = series.ts.map((ts, index) => ({ ts, price: series.price[index] }));
  return { first: summary?.first ?? null, low: summary?.lowest ?? null, high: summary?.highest ?? null, path: spark(points, WIDTH, HEIGHT, SPARK_BREAK_S) };
}

function overview(days) {
  if (tickers.value === null) return html`<h1>Index prices</h1><p class="hint">Loading…</p>`;
  if (!tickers.value.size) {
    return html`<h1>Index prices</h1><div class="empty"><h2>No prices yet</h2>
      <p>The worker stores the first prices within a minute of its start. This page shows them automatically.</p></div>`;
  }
  const rows = [...tickers.value.values()].map((ticker) => toRow(ticker, days.get(ticker.name)));
  const shown = arrange(rows, view.value, pinned.value);
  return html`<h1>Index prices</h1>
    ${tools(shown.length, rows.length)}
    <div class="panel list">
      <table role="table" class="tickers" aria-label="Tickers">
        <thead role="rowgroup"><tr role="row">${heading("name", "Ticker")}${Object.entries(COLUMNS).filter(([key]) => columns.value.includes(key)).map(([key, text]) => heading(key, text))}</tr></thead>
        ${groupRows(shown, view.value.group, pinned.value).map(({ title, rows: found }) => html`<tbody role="rowgroup">
          ${title ? html`<tr role="row" class="group"><th role="rowheader" colspan="7" scope="rowgroup">${title}</th></tr>` : nothing}
          ${repeat(found, (row) => row.name, rowTemplate)}
        </tbody>`)}
      </table>
      ${shown.length ? nothing : html`<p class="hint no-match">No ticker matches the filter.</p>`}
    </div>`;
}

function toRow(ticker, day) {
  const { latest } = ticker;
  const first = day?.first ?? null;
  // The newest price may lie outside of what was loaded up to five minutes before.
  const [low, high] = latest && day?.low ? [lower(day.low, latest.price), higher(day.high, latest.price)] : [null, null];
  return { ...ticker, day, low, high, change: first && latest ? (Number(latest.price) / Number(first.price) - 1) * 100 : null };
}

function tools(count, total) {
  const toggle = (key) => (event) => (columns.value = event.target.checked ? [...columns.value, key] : columns.value.filter((one) => one !== key));
  return html`<div class="tools">
    <input type="search" name="filter" aria-label="Filter tickers" placeholder="Filter (/)" .value=${view.value.filter} @input=${(event) => navigate({ filter: event.target.value }, { replace: true })}>
    <label class="check"><input type="checkbox" .checked=${view.value.group === "quote"} @change=${(event) => navigate({ group: event.target.checked ? "quote" : "none" })}> Group by quote currency</label>
    <label class="sorter">Sort by <select @change=${(event) => navigate({ sort: event.target.value, order: event.target.value === "name" ? "up" : "down" })}>
      ${Object.entries({ name: "Ticker", ...COLUMNS }).filter(([key]) => key !== "spark").map(([key, text]) => html`<option value=${key} ?selected=${key === view.value.sort}>${text}</option>`)}
    </select></label>
    <details class="columns"><summary>Columns</summary><div>
      ${Object.entries(COLUMNS).map(([key, text]) => html`<label class="check"><input type="checkbox" .checked=${columns.value.includes(key)} @change=${toggle(key)}> ${text}</label>`)}
    </div></details>
    <p class="count" role="status">${count === total ? `${total} ${total === 1 ? "ticker" : "tickers"}` : `${count} of ${total} tickers`}</p>
  </div>`;
}

function heading(key, text) {
  if (key === "spark") return html`<th scope="col" role="columnheader" class="spark-heading">${text}</th>`;
  const isSorted = view.value.sort === key;
  const isUp = view.value.order === "up";
  const order = isSorted ? (isUp ? "down" : "up") : key === "name" ? "up" : "down"; // the largest first
  return html`<th scope="col" class=${key} role="columnheader" aria-sort=${isSorted ? (isUp ? "ascending" : "descending") : nothing}>
    <button type="button" @click=${() => navigate({ sort: key, order })}>${text}${isSorted ? (isUp ? " ↑" : " ↓") : ""}</button></th>`;
}

function rowTemplate(row) {
  const { name, latest, day, tracked } = row;
  const first = day?.first ?? null;
  const stale = isStale(row, clock.value);
  const cells = {
    spark: () => html`<td role="cell" class="spark-cell"><svg class="spark" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true">${svg`<path d=${day?.path ?? ""}></path>`}</svg></td>`,
    price: () => html`<td role="cell" class="price">${latest ? price(latest.price) : "–"}</td>`,
    change: () => html`<td role="cell" class="change">${first && latest ? change(first.price, latest.price) : ""}${first ? html` <small>${since(first.ts, nowSeconds() - DAY, nowSeconds())}</small>` : nothing}</td>`,
    low: () => html`<td role="cell" class="low">${row.low ? price(row.low) : ""}</td>`,
    high: () => html`<td role="cell" class="high">${row.high ? price(row.high) : ""}</td>`,
    age: () => html`<td role="cell" class="age">${ageText(row, stale)}</td>`,
  };
  const isPinned = pinned.value.includes(name);
  const pin = (event) => {
    pinned.value = isPinned ? pinned.value.filter((one) => one !== name) : [...pinned.value, name];
    event.target.focus(); // the row has moved, which takes the focus from it
  };
  return html`<tr role="row" data-ticker=${name} class="row ${stale ? "stale" : ""} ${tracked ? "" : "untracked"}" data-direction=${first && latest ? direction(first.price, latest.price) : "even"}>
    <th role="rowheader" scope="row" class="name">
      <button type="button" class="pin" aria-pressed=${String(isPinned)} aria-label="Pin ${name}" title="Pin" @click=${pin}>${isPinned ? "★" : "☆"}</button>
      <a href=${buildViewUrl({ page: "ticker", ticker: name })} @click=${follow}>${name}</a> <span class="full-name">${pairName(name)}</span>
    </th>
    ${Object.keys(COLUMNS).filter((key) => columns.value.includes(key)).map((key) => cells[key]())}
  </tr>`;
}

function ageText(row, stale) {
  const { latest, tracked } = row;
  if (!latest) return `no price yet${stale ? staleReason(row) : ""}`;
  const age = duration(clock.value - latest.ts);
  return tracked ? `${age} ago${stale ? `, stale${staleReason(row)}` : ""}` : `last price ${age} ago, no longer tracked`;
}
