// What the view of one ticker looks like. `page` is its state.

import { changesTable, periodWords } from "./changes.mjs";
import { changeWithin } from "./comparison.mjs";
import { completeness } from "./completeness.mjs";
import { controls, drawing } from "./controls.mjs";
import { candleTable } from "./candle_table.mjs";
import { change, direction, duration, higher, instant, lower, price } from "./format.mjs";
import { overlapping } from "./chart_data.mjs";
import { legend } from "./legend.mjs";
import { levelsPanel } from "./levels_panel.mjs";
import { pairName } from "./names.mjs";
import { share } from "./share.mjs";
import { clock, follow, isStale, navigate, tickers, view } from "./state.mjs";
import { statisticsPanel } from "./statistics_panel.mjs";
import { html, nothing } from "./template.mjs";

export function tickerTemplate(page) {
  const { ticker, history } = page;
  const visible = page.window.visible.value;
  const candles = history.candles.value;
  return html`
    <nav class="back" aria-label="Tickers"><a href="./" @click=${follow}>← All tickers</a> ${switcher(ticker.name)}</nav>
    <div class="stage">
    ${head(page)}
    ${controls({
      view: view.value,
      follows: Boolean(visible?.follows),
      on: {
        interval: (name) => page.window.setInterval(name),
        range: (name) => page.window.setRange(name),
        window: (from, to) => page.window.setWindow(from, to),
        zone: (zone) => navigate({ zone }),
        now: () => page.goToNow(),
      },
    })}
    <section class="panel chart-panel" aria-label="Chart">
      ${drawing({
        style: page.style,
        scale: page.comparedNames.length ? "percent" : view.value.scale,
        isFullScreen: page.isFullScreen.value,
        compared: comparedTexts(page),
        others: [...(tickers.value?.keys() ?? [])].filter((name) => name !== ticker.name && !page.comparedNames.includes(name)),
        on: {
          style: (style) => navigate({ style }),
          scale: (scale) => navigate({ scale }),
          compare: (names) => page.setCompared(names),
          fullScreen: () => page.fullScreen(),
        },
      })}
      ${problem(page)}
      ${legendLine(page)}
      <div class="chart-area">
        <div class="chart" tabindex="0" role="group" aria-label="Candles of ${ticker.name}" aria-describedby="keys"></div>
        ${message(page)}
      </div>
      <p class="keys" id="keys">Arrow keys scroll, + and − zoom, End shows the newest candle. Shift and an arrow key select a candle. Shift and dragging measures. ? lists all keys.</p>
      <ul class="key">
        <li class="missing">missing</li><li class="backfilled">backfilled</li><li class="imported">imported</li><li class="sampled">one sample a minute</li>
      </ul>
    </section>
    </div>
    <div class="below">
    ${completeness(history.coverage.value, page.window.shown.value !== null && !candles.length, view.value.zone)}
    ${changesTable(page.periods.value, page.latest.value?.price ?? null, clock.value)}
    ${levelsPanel(ticker.name)}
    ${visible ? share(view.value, visible.begin, visible.follows ? null : visible.end, () => page.savePicture()) : nothing}
    ${statisticsPanel(page.statistics.value, (isOpen) => page.toggleStatistics(isOpen))}
    ${candleTable(page.isTableOpen.value ? visibleCandles(page) : null, (isOpen) => (page.isTableOpen.value = isOpen))}
    </div>`;
}

function head(page) {
  const { ticker } = page;
  const latest = page.latest.value;
  const day = page.periods.value?.find((one) => one.key === "day");
  return html`<section class="head" aria-labelledby="name">
    <div class="names"><h1 id="name">${ticker.name}</h1><p class="full-name">${pairName(ticker.name)}</p></div>
    <div class="now">
      <p class="price big">${latest ? price(latest.price) : "no price yet"}</p>
      ${latest && day?.summary ? html`<p class="change" data-direction=${direction(day.summary.first.price, latest.price)}>${change(day.summary.first.price, latest.price)} ${periodWords(day, clock.value)}</p>` : nothing}
      ${latest ? age(page.ticker, latest) : nothing}
      ${latest && day?.summary ? html`<p class="dayrange">${periodWords(day, clock.value).replace(/^in /, "")}: ${price(lower(day.summary.lowest, latest.price))} to ${price(higher(day.summary.highest, latest.price))}</p>` : nothing}
    </div>
  </section>`;
}

function age(ticker, latest) {
  const stale = isStale({ ...ticker, latest }, clock.value);
  const note = ticker.tracked ? (stale ? " (stale)" : "") : "; no longer tracked";
  return html`<p class="age ${stale ? "stale" : ""}">${instant(latest.ts)} ${view.value.zone}, ${duration(clock.value - latest.ts)} ago${note}</p>`;
}

function switcher(name) {
  const names = [...(tickers.value?.keys() ?? [])];
  if (names.length < 2) return nothing;
  const go = (event) => navigate({ ticker: event.target.value, compare: "" });
  return html`<select aria-label="Ticker" @change=${go}>${names.map((one) => html`<option ?selected=${one === name}>${one}</option>`)}</select>`;
}

function problem(page) {
  const unknown = page.unknownNames;
  const text = page.comparison.failure.value || (unknown.length ? `Unknown, and not compared: ${unknown.join(", ")}.` : "");
  return text ? html`<p class="problem" role="status">${text}</p>` : nothing;
}

/** What the chart says if it has nothing to show. */
function message(page) {
  const failure = page.window.failure.value;
  const button = (text, onClick) => html`<button type="button" class="framed" @click=${onClick}>${text}</button>`;
  if (failure) return html`<p class="chart-message failed" role="alert">The chart could not be loaded: ${failure.message}. ${button("Try again", failure.retry)}</p>`;
  if (page.window.shown.value === null || visibleCandles(page).some((one) => one.close !== null)) return nothing;
  const [first, last] = [page.firstTs.value, page.latest.value?.ts ?? null];
  if (first === null || last === null) return html`<p class="chart-message" role="status">No price is stored yet.</p>`;
  return html`<p class="chart-message" role="status">No prices in this window. Prices are available from ${instant(first)} to ${instant(last)} ${view.value.zone}.
    ${button("Show all prices", () => page.window.setRange("All"))}</p>`;
}

function visibleCandles(page) {
  const visible = page.window.visible.value;
  return visible ? page.history.candles.value.filter((one) => one.ts < visible.end && one.end > visible.begin) : [];
}

function legendLine(page) {
  const { history } = page;
  const candles = history.candles.value;
  const hovered = page.hovered.value;
  const end = page.window.visible.value?.end ?? Infinity;
  const candle = hovered === null ? candles.findLast((one) => one.ts < end && (one.closed || one.close !== null)) : candles.find((one) => one.ts === hovered);
  const left = candles.find((one) => one.ts >= page.edge.value && one.close !== null) ?? null;
  const isGap = candle && overlapping(history.gaps.value, candle).some((one) => one.state !== "FILLED");
  return html`<p class="legend ${isGap ? "gap" : ""}" role="status" aria-live="off">${legend(candle, history.gaps.value, history.parts.value, left)}</p>`;
}

/** The compared tickers with their change between the left edge and the crosshair. */
function comparedTexts(page) {
  const end = page.hovered.value ?? page.window.visible.value?.end ?? 0;
  return page.comparedNames.map((ticker) => {
    const found = page.compared.value.find((one) => one.ticker === ticker);
    return { ticker, text: found ? changeWithin(found.points, page.edge.value, end) : "…" };
  });
}
