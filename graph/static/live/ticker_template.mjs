// What the view of one ticker looks like. `page` is its state.

import { changesTable, periodWords } from "./changes.mjs";
import { changeWithin } from "./comparison.mjs";
import { completeness } from "./completeness.mjs";
import { controls, drawing } from "./controls.mjs";
import { candleTable } from "./candle_table.mjs";
import { change, direction, duration, instant, price } from "./format.mjs";
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
    <nav class="back" aria-label="Back"><a href="./" @click=${follow}>← All tickers</a></nav>
    ${head(page)}
    ${controls({
      view: view.value,
      range: page.window.range.value,
      follows: Boolean(visible?.follows),
      on: {
        interval: (name) => page.window.setInterval(name),
        range: (name) => page.window.setRange(name),
        window: (from, to) => page.window.setWindow(from, to),
        zone: (zone) => navigate({ zone }),
        now: () => page.window.goToNow(),
      },
    })}
    <section class="panel chart-panel" aria-label="Chart">
      ${drawing({
        style: page.style,
        scale: view.value.scale,
        compared: comparedTexts(page),
        others: [...(tickers.value?.keys() ?? [])].filter((name) => name !== ticker.name && !view.value.compare.split(",").includes(name)),
        on: {
          style: (style) => navigate({ style }),
          scale: (scale) => navigate({ scale }),
          compare: (names) => page.setCompared(names),
          fullScreen: () => page.fullScreen(),
        },
      })}
      ${page.comparison.failure.value ? html`<p class="problem" role="status">${page.comparison.failure.value}</p>` : nothing}
      ${legendLine(page)}
      <div class="chart" tabindex="0" role="group" aria-label="Candles of ${ticker.name}" aria-describedby="keys"></div>
      <p class="keys" id="keys">Arrow keys scroll, + and − zoom, End shows the newest candle. Shift and an arrow key select a candle. Shift and dragging measures. ? lists all keys.</p>
      <ul class="key">
        <li class="missing">missing</li><li class="backfilled">backfilled</li><li class="imported">imported</li><li class="sampled">one sample a minute</li>
      </ul>
    </section>
    <div class="below">
    ${completeness({
      found: history.coverage.value,
      failure: page.window.failure.value,
      isEmpty: page.window.shown.value !== null && !candles.length,
      first: page.firstTs.value,
      last: page.latest.value?.ts ?? null,
      zone: view.value.zone,
      onAll: () => page.window.setRange("All"),
    })}
    ${changesTable(page.periods.value, page.latest.value?.price ?? null, clock.value)}
    ${levelsPanel(ticker.name)}
    ${visible ? share(view.value, visible.begin, visible.follows ? null : visible.end, () => page.savePicture()) : nothing}
    ${statisticsPanel(page.statistics.value, (isOpen) => page.toggleStatistics(isOpen))}
    ${candleTable(visibleCandles(page), page.isTableOpen.value, (isOpen) => (page.isTableOpen.value = isOpen))}
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
      ${day?.summary ? html`<p class="dayrange">24 h: ${price(day.summary.low.price)} to ${price(day.summary.high.price)}</p>` : nothing}
    </div>
  </section>`;
}

function age(ticker, latest) {
  const stale = isStale({ ...ticker, latest }, clock.value);
  const note = ticker.tracked ? (stale ? " (stale)" : "") : "; no longer tracked";
  return html`<p class="age ${stale ? "stale" : ""}">${instant(latest.ts)} ${view.value.zone}, ${duration(clock.value - latest.ts)} ago${note}</p>`;
}

function visibleCandles(page) {
  const visible = page.window.visible.value;
  return visible ? overlapping(page.history.candles.value.map((one) => ({ ...one, from: one.ts, to: one.end })), { ts: visible.begin, end: visible.end }) : [];
}

function legendLine(page) {
  const { history } = page;
  const candles = history.candles.value;
  const hovered = page.hovered.value;
  const candle = hovered === null ? candles.at(-1) : candles.find((one) => one.ts === hovered);
  const begin = page.window.visible.value?.begin ?? 0;
  const left = candles.find((one) => one.end > begin && one.open !== null) ?? null;
  const isGap = candle && overlapping(history.gaps.value, candle).some((one) => one.state !== "FILLED");
  return html`<p class="legend ${isGap ? "gap" : ""}" role="status" aria-live="off">${legend(candle, history.gaps.value, history.parts.value, left)}</p>`;
}

/** The compared tickers with their change between the left edge and the crosshair. */
function comparedTexts(page) {
  const visible = page.window.visible.value;
  return page.compared.value.map(({ ticker, color, points }) => ({ ticker, color, text: visible ? changeWithin(points, visible.begin, page.hovered.value ?? visible.end) : "" }));
}
