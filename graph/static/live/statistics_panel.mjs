// The statistics of the visible window: a table of its minutes, hours and days, and the same as text to copy.

import { execute } from "./api.mjs";
import { copyText } from "./copy.mjs";
import { decimalsOf, instant, price } from "./format.mjs";
import { describe, volatilityByHour } from "./statistics.mjs";
import { html } from "./template.mjs";

const MAX_CANDLES = 10_000; // the limit of the API
const LENGTHS = { ONE_MINUTE: ["Minutes", 60], ONE_HOUR: ["Hours", 3_600], ONE_DAY: ["Days", 86_400] };
const QUERY = `query ($ticker: String!, $interval: Interval!, $from: UnixTime!, $to: UnixTime!, $zone: String!) {
  candles(ticker: $ticker, interval: $interval, from: $from, to: $to, timeZone: $zone) { ts end high low close count twap }
}`;

/** Loads the statistics of a window: rows `{ name, found }`, where `found` is null without prices and undefined if the window is too long. */
export async function loadStatistics(ticker, { begin, end }, zone) {
  const rows = await Promise.all(Object.entries(LENGTHS).map(async ([interval, [name, seconds]]) => {
    if ((end - begin) / seconds >= MAX_CANDLES) return { name }; // a window may touch one candle more
    const { candles } = await execute(QUERY, { ticker, interval, from: begin, to: end, zone });
    return { name, found: describe(candles), byHour: interval === "ONE_HOUR" ? volatilityByHour(candles, zone) : null };
  }));
  return { ticker, begin, end, zone, rows };
}

const percent = (value) => (value === null || value === undefined ? "–" : `${value < 0 ? "−" : ""}${Math.abs(value).toFixed(3)} %`);
const at = (one) => (one ? `${percent(one.change)}, ${instant(one.ts)}` : "–");
const COLUMNS = [
  ["Number", ({ count }) => count.toLocaleString("en")],
  ["Mean close", ({ mean }) => number(mean)],
  ["TWAP", ({ twap }) => number(twap)],
  ["Volatility", ({ volatility }) => percent(volatility)],
  ["Largest rise", ({ rise }) => at(rise)],
  ["Largest fall", ({ fall }) => at(fall)],
  ["Drawdown", ({ drawdown }) => (drawdown ? `${percent(drawdown.change)}, ${instant(drawdown.from)} to ${instant(drawdown.to)}` : "–")],
];

function number(value) {
  return price(value.toFixed(decimalsOf(value)));
}

function cells({ found }) {
  if (found === undefined) return ["the window is too long", ...COLUMNS.slice(1).map(() => "–")];
  return COLUMNS.map(([, text]) => (found === null ? "–" : text(found)));
}

const byHourOf = ({ rows }) => rows.find((row) => row.byHour?.some((value) => value !== null))?.byHour;
const hourName = (hour) => `${String(hour).padStart(2, "0")}:00`;

/** Returns the statistics as lines of text with tabs, which spreadsheets read as a table. */
function toText(statistics) {
  const { ticker, begin, end, zone, rows } = statistics;
  const lines = [`${ticker}, ${instant(begin)} to ${instant(end)} ${zone}`, ["", ...COLUMNS.map(([name]) => name)].join("\t")];
  lines.push(...rows.map((row) => [row.name, ...cells(row)].join("\t")));
  const byHour = byHourOf(statistics);
  if (byHour) lines.push("Volatility by hour of the day", ...byHour.map((value, hour) => `${hourName(hour)}\t${percent(value)}`));
  return lines.join("\n");
}

/** The panel. `statistics` is null until it is loaded, or an error. */
export function statisticsPanel(statistics, onToggle) {
  return html`<details class="panel statistics" @toggle=${(event) => onToggle(event.target.open)}>
    <summary>Statistics of the view</summary>
    ${statistics instanceof Error ? html`<p class="problem">The statistics could not be loaded: ${statistics.message}.</p>` : statistics ? content(statistics) : html`<p class="hint">Loading…</p>`}
  </details>`;
}

function content(statistics) {
  const byHour = byHourOf(statistics);
  return html`
    <p class="hint">From ${instant(statistics.begin)} to ${instant(statistics.end)} ${statistics.zone}. Minutes, hours and days in progress are left out.</p>
    <div class="scroll" tabindex="0" role="group" aria-label="Statistics"><table>
      <thead><tr><td></td>${COLUMNS.map(([name]) => html`<th scope="col">${name}</th>`)}</tr></thead>
      <tbody>${statistics.rows.map((row) => html`<tr><th scope="row">${row.name}</th>${cells(row).map((text) => html`<td>${text}</td>`)}</tr>`)}</tbody>
    </table></div>
    ${byHour ? html`<details><summary>Volatility by hour of the day, ${statistics.zone}</summary>
      <ol class="hours">${byHour.map((value, hour) => html`<li><span>${hourName(hour)}</span> ${percent(value)}</li>`)}</ol></details>` : ""}
    <p class="hint">Volatility: the standard deviation of the change from one minute, hour or day to the next. Drawdown: the deepest fall from a high to a later low.</p>
    <button type="button" class="framed" @click=${(event) => copyText(event.currentTarget, toText(statistics))}>Copy as text</button>`;
}
