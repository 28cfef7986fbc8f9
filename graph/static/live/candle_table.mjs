// The candles in view as a table, for screen readers and for copying.

import { instant, price } from "./format.mjs";
import { html, nothing } from "./template.mjs";

const MAX_ROWS = 500;

/** The table, the newest candle first. `candles` is null while it is closed. */
export function candleTable(candles, onToggle) {
  return html`<details class="panel" @toggle=${(event) => onToggle(event.target.open)}>
    <summary>Table of the candles in view</summary>
    ${candles ? table(candles) : nothing}
  </details>`;
}

function table(candles) {
  return html`<div class="scroll tall" tabindex="0" role="group" aria-label="Candles in view"><table class="candle-table">
      <caption>${candles.length > MAX_ROWS ? `The newest ${MAX_ROWS} of ${candles.length.toLocaleString("en")} candles` : `${candles.length} candles`}, the newest first</caption>
      <thead><tr><th scope="col">Start</th><th scope="col">Open</th><th scope="col">High</th><th scope="col">Low</th><th scope="col">Close</th><th scope="col">Minutes</th></tr></thead>
      <tbody>${candles.slice(-MAX_ROWS).reverse().map((one) => html`<tr><th scope="row">${instant(one.ts)}</th>
        ${["open", "high", "low", "close"].map((name) => html`<td>${one[name] === null ? "–" : price(one[name])}</td>`)}
        <td>${one.count} of ${one.expected}</td></tr>`)}</tbody>
    </table></div>`;
}
