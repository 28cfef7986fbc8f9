// The controls of a chart: interval, range, window, time zone; and how it is drawn.

import { nowSeconds } from "./api.mjs";
import { MAX_COMPARED, SCALES, STYLES } from "./address.mjs";
import { INTERVALS, RANGES } from "./intervals.mjs";
import { html } from "./template.mjs";
import { UTC, fromInput, toInput, zones } from "./zones.mjs";

/** What is shown. `follows`: the window ends with the newest candle; `on` has the callbacks interval, range, window, zone and now. */
export function controls({ view, follows, on }) {
  const submit = (event) => {
    event.preventDefault();
    const { from, to } = event.target.elements;
    const [begin, end] = [from, to].map((input) => fromInput(input.value, view.zone));
    const isWrong = Number.isNaN(begin) || Number.isNaN(end);
    const problem = isWrong ? "Enter both times like 2026-01-31 12:00" : begin >= end ? "The end must be after the start" : begin >= nowSeconds() ? "The start must not be in the future" : "";
    to.setCustomValidity(problem);
    if (problem) return to.reportValidity();
    for (const input of [from, to]) input.dataset.shown = input.value; // no longer being edited
    on.window(begin, end);
  };
  const field = (name, label) => html`<label>${label} <input type="text" name=${name} inputmode="numeric" size="16" placeholder="2026-01-31 12:00" aria-label=${label === "to" ? "To" : label}
    @input=${(event) => event.target.form.elements.to.setCustomValidity("")}></label>`;
  return html`<div class="controls">
    ${choice("Candle", INTERVALS, view.interval, on.interval)}
    ${choice("Range", RANGES, view.range, on.range)}
    <button type="button" class="framed" title="Show the newest candles" aria-pressed=${String(follows)} @click=${on.now}>Now</button>
    <form class="window" @submit=${submit}>
      ${field("from", "From")} ${field("to", "to")}
      <select aria-label="Time zone" @change=${(event) => on.zone(event.target.value)}>
        ${zones(view.zone).map((name) => html`<option value=${name} ?selected=${name === view.zone}>${name === UTC ? "UTC" : name.replaceAll("_", " ")}</option>`)}
      </select>
      <button class="framed">Show</button>
    </form>
  </div>`;
}

/** Puts a window into the form, unless the user edits it. */
export function showWindow(form, { begin, end }, zone) {
  const { from, to } = form.elements;
  const isEdited = (input) => form.contains(document.activeElement) && input.value !== (input.dataset.shown ?? "");
  if (isEdited(from) || isEdited(to)) return;
  for (const [input, time] of [[from, begin], [to, end]]) input.value = input.dataset.shown = toInput(time, zone);
}

/** How the chart is drawn. `compared` are `{ ticker, text }`, `others` the names that can be added; `on` has style, scale, compare and fullScreen. */
export function drawing({ style, scale, isFullScreen, compared, others, on }) {
  const names = compared.map((one) => one.ticker);
  const add = (event) => {
    const name = event.target.value;
    event.target.value = "";
    on.compare([...names, name]);
  };
  return html`<div class="drawing">
    ${choice("Style", STYLES, style, on.style)}
    ${choice("Scale", SCALES, scale, on.scale, names.length > 0)}
    <select aria-label="Compare with" ?disabled=${names.length >= MAX_COMPARED} @change=${add}>
      <option value="">Compare with …</option>
      ${others.map((name) => html`<option>${name}</option>`)}
    </select>
    <button type="button" class="framed" @click=${on.fullScreen}>${isFullScreen ? "Leave full screen" : "Full screen"}</button>
    <ul class="compared" aria-label="Compared tickers">
      ${compared.map(({ ticker, text }, index) => html`<li><i class="swatch" data-number=${index + 1}></i>${ticker} ${text}
        <button type="button" aria-label="Remove ${ticker}" @click=${() => on.compare(names.filter((name) => name !== ticker))}>×</button></li>`)}
    </ul>
  </div>`;
}

/** A group of buttons with a visible name. The selected one is marked as pressed. `isFixed`: no other can be chosen. */
function choice(name, values, selected, onSelect, isFixed = false) {
  const button = (key, one) => html`<button type="button" data-key=${key} title=${one.name ?? one} aria-label=${one.name ? `${one.short ?? key}: ${one.name}` : one}
    aria-pressed=${String(key === selected)} ?disabled=${isFixed && key !== selected} @click=${() => onSelect(key)}>${one.name ? (one.short ?? key) : one}</button>`;
  return html`<div class="choice" role="group" aria-label=${name}><span class="choice-name" aria-hidden="true">${name}</span>${Object.entries(values).map(([key, one]) => button(key, one))}</div>`;
}
