// The line about one candle.

import { isSampled, overlapping } from "./chart_data.mjs";
import { change, direction, gap, instant, instantAfter, minutes, price } from "./format.mjs";
import { html } from "./template.mjs";

const SOURCES = { BACKFILL: "backfilled", IMPORT: "imported", PEER: "from a peer" };
const PRICES = { open: "O", high: "H", low: "L", close: "C" };

/** Describes a candle with its gaps and sources. `left` is the candle at the left edge, from whose close changes count, or null. */
export function legend(candle, gaps, parts, left) {
  if (!candle) return "";
  const notes = [];
  if (candle.open === null) notes.push("no prices");
  else if (!candle.closed) notes.push("in progress");
  else if (!candle.complete) notes.push(`${candle.count} of ${minutes(candle.expected)}`);
  if (isSampled(candle)) notes.push("one sample a minute");
  notes.push(...overlapping(gaps, candle).slice(0, 2).map(gap));
  notes.push([...new Set(overlapping(parts, candle).map((one) => SOURCES[one.source]))].join(", "));
  return html`<span>${instant(candle.ts)}</span> ${candle.open === null ? "" : prices(candle, left)} ${notes.filter(Boolean).map((text) => html`<span class="note">${text}</span> `)}`;
}

function prices(candle, left) {
  const changes = [["candle", "±", candle.open], ...(left && left.ts < candle.ts ? [[`since ${instantAfter(left.ts, candle.ts)}`, "view", left.close]] : [])];
  return html`${Object.entries(PRICES).map(([name, short]) => html`<span><span class="term" data-short=${short}>${name}</span> ${price(candle[name])}</span> `)}
    ${changes.map(([name, short, from]) => html`<span class="change" data-direction=${direction(from, candle.close)}><span class="term" data-short=${short}>${name}</span> ${change(from, candle.close)}</span> `)}`;
}
