// How far the price moved over usual periods, each with its lowest and highest price.

import { execute } from "./api.mjs";
import { change, direction, higher, lower, price, since } from "./format.mjs";
import { html } from "./template.mjs";

const HOUR = 3_600;
const DAY = 24 * HOUR;
const PERIODS = [
  { key: "hour", name: "1 hour", words: "in 1 h", start: (now) => now - HOUR },
  { key: "day", name: "24 hours", words: "in 24 h", start: (now) => now - DAY },
  { key: "week", name: "7 days", words: "in 7 days", start: (now) => now - 7 * DAY },
  { key: "month", name: "30 days", words: "in 30 days", start: (now) => now - 30 * DAY },
  { key: "year", name: "Since January", words: "since January", start: (now) => Date.UTC(new Date(now * 1_000).getUTCFullYear(), 0) / 1_000 },
];
const QUERY = `query ($ticker: String!, ${PERIODS.map(({ key }) => `$${key}: UnixTime!`).join(", ")}) {
  ${PERIODS.map(({ key }) => `${key}: summary(ticker: $ticker, from: $${key}) { first { ts price } highest lowest }`).join("\n  ")}
}`;

/** Loads the periods up to `now`: for each its name, the wanted start and its summary or null. */
export async function loadChanges(ticker, now) {
  const starts = Object.fromEntries(PERIODS.map(({ key, start }) => [key, start(now)]));
  const found = await execute(QUERY, { ticker, ...starts });
  return PERIODS.map(({ key, name, words }) => ({ key, name, words, start: starts[key], summary: found[key] }));
}

/** Returns the words for a period: how long, or since when if there are no earlier prices. */
export function periodWords({ words, start, summary }, now) {
  return since(summary.first.ts, start, now) || words;
}

/** The table of the periods. `latest` is the newest price as text, which may lie outside of what was loaded. */
export function changesTable(periods, latest, now) {
  if (!periods || latest === null) return "";
  // A history that is shorter than several periods has one row for them.
  const rows = periods.filter((one, index) => one.summary && periodWords(one, now) !== (periods[index - 1]?.summary && periodWords(periods[index - 1], now)));
  return html`<section class="panel changes" aria-labelledby="changes">
    <h2 id="changes">Changes</h2>
    <div class="scroll" tabindex="0" role="group" aria-labelledby="changes"><table>
      <thead><tr><th scope="col">Period</th><th scope="col">Change</th><th scope="col">Low</th><th scope="col">High</th></tr></thead>
      <tbody>${rows.map((one) => html`<tr>
        <th scope="row">${periodWords(one, now) === one.words ? one.name : periodWords(one, now)}</th>
        <td class="change" data-direction=${direction(one.summary.first.price, latest)}>${change(one.summary.first.price, latest)}</td>
        <td>${price(lower(one.summary.lowest, latest))}</td><td>${price(higher(one.summary.highest, latest))}</td>
      </tr>`)}</tbody>
    </table></div>
  </section>`;
}
