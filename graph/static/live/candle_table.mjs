// The candles in view as a table, for screen readers and for copying.

import { instant, price } from "./format.mjs";
import { html } from "./template.mjs";

const MAX_ROWS = 500;

/** The table, the newest candle first. Its rows are made while it is open. */
export function candleTable(candles, isOpen, onToggle) {
  const rows = isOpen ? candles.slice(-MAX_ROWS).reverse() : [];
  return html`<details class="panel" @toggle=${(event) => onToggle(event.target.open)}>
    <summary>Table of the candles in view</summary>
    <div class="scroll tall" tabindex="0" role="group" aria-label="Candles in view"><table class="candle-table">
      <caption>${candles.length > MAX_ROWS ? `The newest ${MAX_ROWS} of ${candles.length.toLocaleString("en")} candles` : `${candles.length} candles`}, the newest first</caption>
      <thead><tr><th scope="col">Start</th><th scope="col">Open</th><th scope="col">High</th><th scope="col">Low</th><th scope="col">Close</th><th scope="col">Minutes</th></tr></thead>
      <tbody>${rows.map((one) => html`<tr><th scope="row">${instant(one.ts)}</th>
        ${["open", "high", "low", "close"].map((name) => html`<td>${one[name] === null ? "–" : price(one[name])}</td>`)}
        <td>${one.count} of ${one.expected}</td></tr>`)}</tbody>
    </table></div>
  </details>`;
}
