// The keys of the chart: some while it has the focus, others in the whole view.

import { INTERVALS } from "./intervals.mjs";
import { navigate, view } from "./state.mjs";

/** Adds the keys to the chart's element. Returns the list for the sheet of keys. */
export function addChartKeys(element, chart, { onNow, onSelect }) {
  const select = (step) => onSelect(chart.selectNext(step));
  const actions = {
    ArrowLeft: (event) => (event.shiftKey ? select(-1) : chart.range.scroll(-0.1)),
    ArrowRight: (event) => (event.shiftKey ? select(1) : chart.range.scroll(0.1)),
    "+": () => chart.range.zoom(0.75),
    "=": () => chart.range.zoom(0.75),
    "-": () => chart.range.zoom(4 / 3),
    Home: () => chart.range.goToStart(),
    End: onNow,
  };
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(actions, event.key)) return; // keys of the browser
    event.preventDefault();
    event.stopPropagation();
    actions[event.key](event);
  });
  return [
    { key: "← →", text: "Scroll" },
    { key: "Shift ← →", text: "Select a candle" },
    { key: "+ −", text: "Zoom" },
    { key: "Home", text: "Show the oldest loaded candle" },
    { key: "End", text: "Show the newest candles" },
    { key: "Shift + drag", text: "Measure" },
    { key: "Double click", text: "Add a level for a notification" },
  ];
}

/** Returns the keys of the view of a ticker. */
export function viewKeys(page, element) {
  const style = (name) => () => navigate({ style: name });
  const scale = (name) => () => navigate({ scale: view.peek().scale === name ? "linear" : name });
  return [
    { key: "c", text: "Draw candles", run: style("candles") },
    { key: "l", text: "Draw a line", run: style("line") },
    { key: "a", text: "Draw an area", run: style("area") },
    { key: "g", text: "Logarithmic scale", run: scale("log") },
    { key: "p", text: "Percent scale", run: scale("percent") },
    { key: "v", text: "Compare with another ticker", run: () => element.querySelector('[aria-label="Compare with"]').focus() },
    { key: "m", text: "Measure from the selected candle", run: () => page.toggleMeasure() },
    { key: "Escape", text: "End measuring", run: () => page.clearMeasure() },
    { key: "f", text: "Full screen", run: () => page.fullScreen() },
    { key: "n", text: "Show the newest candles", run: () => page.goToNow() },
    ...Object.entries(INTERVALS).map(([name, one], index) => ({ key: String((index + 1) % 10), text: `Candles of ${one.name}`, run: () => page.window.setInterval(name) })),
  ];
}
