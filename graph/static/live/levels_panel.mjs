// The levels of a ticker: prices at which the browser notifies the reader.

import { instant, price as formatPrice } from "./format.mjs";
import { addLevel, crossings, permission, removeLevel } from "./levels.mjs";
import { levels } from "./storage.mjs";
import { html, nothing } from "./template.mjs";

const PRICE = /^\d{1,12}(\.\d{1,12})?$/;

const PERMISSIONS = {
  missing: "This browser has no notifications; crossings are listed here.",
  denied: "Notifications are blocked for this site in the browser's settings; crossings are listed here.",
};

export function levelsPanel(ticker) {
  const submit = (event) => {
    event.preventDefault();
    const input = event.target.elements.level;
    const text = input.value.trim().replaceAll(",", "");
    input.setCustomValidity(PRICE.test(text) && Number(text) > 0 ? "" : "Enter a price like 68000.5");
    if (!input.reportValidity()) return;
    addLevel(ticker, text);
    input.value = "";
  };
  const own = levels.value.filter((one) => one.ticker === ticker);
  return html`<section class="panel levels" aria-labelledby="levels">
    <h2 id="levels">Notify me</h2>
    <p class="hint">This browser shows a notification when a price crosses a level, while this page is open. Double-click the chart to add a level. ${PERMISSIONS[permission.value] ?? ""}</p>
    <form class="inline-form" @submit=${submit}>
      <label>Level <input type="text" name="level" inputmode="decimal" size="12" @input=${(event) => event.target.setCustomValidity("")}></label>
      <button class="framed">Add level</button>
    </form>
    ${own.length ? html`<ul class="chips" aria-label="Levels">${own.map((one) => html`<li>${formatPrice(one.price)} <button type="button" aria-label="Remove level ${one.price}" @click=${() => removeLevel(ticker, one.price)}>×</button></li>`)}</ul>` : nothing}
    <div role="status"><ul class="crossings">${crossings.value.filter((one) => one.ticker === ticker).map(({ text, at }) => html`<li>${instant(at)}: ${text}</li>`)}</ul></div>
  </section>`;
}
