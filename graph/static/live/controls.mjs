// The controls of a chart: interval, range, window and time zone.

import { make } from "./dom.mjs";
import { INTERVALS, RANGES } from "./state.mjs";
import { UTC, fromInput, toInput, zones } from "./zones.mjs";

/** Creates the controls. `on` has the callbacks interval, range, window, zone and now. */
export function createControls(view, on) {
  const intervals = createChoice("Candle", INTERVALS, on.interval);
  const ranges = createChoice("Show", RANGES, on.range);
  const zone = make("select", { "aria-label": "Time zone", onchange: () => on.zone(zone.value) },
    ...zones(view.zone).map((name) => make("option", { value: name, text: name === UTC ? "UTC" : name.replaceAll("_", " "), selected: name === view.zone })));
  const clearError = () => to.setCustomValidity("");
  const field = (name) => make("input", { type: "text", inputmode: "numeric", size: "16", placeholder: "2026-01-31 12:00", "aria-label": name, oninput: clearError });
  const [from, to] = [field("From"), field("To")];

  function submit(event) {
    event.preventDefault();
    const [begin, end] = [from, to].map((input) => fromInput(input.value, zone.value));
    const isWrong = Number.isNaN(begin) || Number.isNaN(end);
    const problem = isWrong ? "Enter both times like 2026-01-31 12:00" : begin >= end ? "The end must be after the start" : "";
    to.setCustomValidity(problem);
    if (problem) to.reportValidity();
    else on.window(begin, end);
  }

  const form = make("form", { class: "window", onsubmit: submit },
    make("label", {}, "From ", from), make("label", {}, "to ", to), zone, make("button", { text: "Show" }));
  const now = make("button", { type: "button", class: "go-now", text: "Now", title: "Show the newest candles", onclick: on.now });
  const element = make("div", { class: "controls" }, intervals.element, ranges.element, now, form);
  return {
    element,
    showInterval: intervals.show,
    showRange: ranges.show,
    /** Shows the window, unless the user edits it. `follows`: it ends with the newest candle. */
    showWindow({ begin, end, follows }) {
      now.setAttribute("aria-pressed", String(follows));
      if (document.activeElement === from || document.activeElement === to) return;
      from.value = toInput(begin, zone.value);
      to.value = toInput(end, zone.value);
    },
  };
}

/** Creates a group of buttons with a visible name. The selected one is marked as pressed. */
function createChoice(name, values, onSelect) {
  const buttons = Object.entries(values).map(([key, one]) =>
    make("button", { type: "button", "aria-pressed": "false", "aria-label": `${one.short ?? key}: ${one.name}`, title: one.name, text: one.short ?? key, "data-key": key, onclick: () => onSelect(key) }));
  const element = make("div", { class: "choice", role: "group", "aria-label": name }, make("span", { class: "choice-name", text: name, "aria-hidden": "true" }), ...buttons);
  return { element, show: (key) => buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.key === key))) };
}
