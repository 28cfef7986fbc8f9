// Health: how complete the history is and what the workers do, for people without a shell.

import { signal } from "../vendor/signals-core-1.14.5.mjs";
import { execute } from "./api.mjs";
import { buildViewUrl } from "./address.mjs";
import { calendar, calendarKey } from "./calendar.mjs";
import { duration, gap, instant, minutes } from "./format.mjs";
import { pairName } from "./names.mjs";
import { clock, follow, isStale, nowSeconds, tickers } from "./state.mjs";
import { html, nothing } from "./template.mjs";

const DAY = 86_400;
const WEEKS = 53;
const RELOAD_MS = 60_000;
const MAX_OUTAGES = 5;
const LATE_AFTER_S = 120; // a report is written each minute
const WORKERS = "{ workers { at workers queuedPrices queuedTicks clockSkewS streams connectedStreams newestTickAt failingJobs } }";
const TICKER = `query ($ticker: String!, $from: UnixTime!, $year: UnixTime!) {
  coverage(ticker: $ticker, from: $year) { expected stored missing days { day expected stored } }
  recent: coverage(ticker: $ticker, from: $from) { gaps(first: 1000) { nodes { from to reason state } pageInfo { hasNextPage } } }
  prices(ticker: $ticker, last: 60, order: OLDEST_FIRST) { nodes { ts observedAt source } }
}`;

/** Opens the view. Each ticker is loaded when it comes into sight. Returns a function that ends its updates. */
export async function open(show) {
  const report = signal(undefined); // null: no worker ever ran
  const failure = signal("");
  const details = signal(new Map()); // by ticker
  const load = async () => {
    try {
      report.value = (await execute(WORKERS)).workers;
      failure.value = "";
    } catch (error) {
      if (error.code === "UNAUTHENTICATED") throw error;
      failure.value = error.message;
    }
  };
  await load();
  const page = show(() => health(report.value, failure.value, details.value));
  const loadTicker = async (ticker) => {
    try {
      const found = await execute(TICKER, { ticker, year: nowSeconds() - WEEKS * 7 * DAY, from: nowSeconds() - 7 * DAY });
      details.value = new Map([...details.peek(), [ticker, { ...found, lateness: lateness(found.prices.nodes) }]]);
    } catch (error) {
      details.value = new Map([...details.peek(), [ticker, { failure: error.message }]]);
    }
  };
  const observer = new IntersectionObserver((entries) => entries.filter((one) => one.isIntersecting).forEach(({ target }) => {
    observer.unobserve(target);
    loadTicker(target.dataset.ticker);
  }), { rootMargin: "400px" });
  const observeAll = () => page.querySelectorAll("[data-ticker]:not([data-observed])").forEach((element) => {
    element.dataset.observed = "";
    observer.observe(element);
  });
  observeAll();
  const timers = [setInterval(load, RELOAD_MS), setInterval(observeAll, 1_000), setInterval(() => details.peek().forEach((_, ticker) => loadTicker(ticker)), 5 * RELOAD_MS)];
  return () => {
    observer.disconnect();
    timers.forEach(clearInterval);
  };
}

/** Returns how long after the start of a live minute its price was observed, in seconds: `{ median, latest }`; null if none is known. */
export function lateness(prices) {
  const delays = prices.filter((one) => one.source === "LIVE" && one.observedAt).map((one) => Date.parse(one.observedAt) / 1_000 - one.ts).sort((one, other) => one - other);
  return delays.length ? { median: delays[Math.floor(delays.length / 2)], latest: delays.at(-1) } : null;
}

function health(report, failure, details) {
  const found = [...(tickers.value?.values() ?? [])];
  return html`<h1>Health</h1>
    ${failure ? html`<p class="problem" role="status">The report of the workers could not be loaded: ${failure}</p>` : nothing}
    ${workers(report)}
    <section class="panel" aria-labelledby="coverage-title">
      <h2 id="coverage-title">Completeness by day, UTC</h2>
      ${calendarKey()}
    </section>
    <div class="panels">${found.map((ticker) => tickerPanel(ticker, details.get(ticker.name)))}</div>`;
}

function workers(report) {
  if (report === undefined) return nothing;
  if (report === null) return html`<section class="panel"><h2>Workers</h2><p class="words bad">No worker has ever reported. Prices are collected by the worker: start it with <code>make up</code>.</p></section>`;
  const age = clock.value - report.at;
  const stale = [...(tickers.value?.values() ?? [])].filter((one) => isStale(one, clock.value)).map((one) => one.name);
  const tick = report.newestTickAt ? `${duration(clock.value - Date.parse(report.newestTickAt) / 1_000)} ago` : "none yet";
  const facts = [
    ["Last report", `${duration(age)} ago`, age > LATE_AFTER_S],
    ["Workers", `on ${report.workers} ${report.workers === 1 ? "host" : "hosts"}`, !report.workers],
    ["Clock compared with Deribit's", report.clockSkewS === null ? "not measured" : `${report.clockSkewS < 0 ? "−" : "+"}${Math.abs(report.clockSkewS).toFixed(3)} s`, Math.abs(report.clockSkewS ?? 0) > 1],
    ["Prices waiting for the database", report.queuedPrices.toLocaleString("en"), report.queuedPrices > 0],
    ["Minutes of ticks waiting", report.queuedTicks.toLocaleString("en"), report.queuedTicks > 0],
    ["Streams", report.streams ? `${report.connectedStreams} of ${report.streams} connected` : "none runs", report.connectedStreams < report.streams],
    ["Newest tick at that time", tick, false],
    ["Failing jobs", report.failingJobs.length ? report.failingJobs.join(", ") : "none", report.failingJobs.length > 0],
    ["Stale tickers", stale.length ? stale.join(", ") : "none", stale.length > 0],
  ];
  return html`<section class="panel" aria-labelledby="workers"><h2 id="workers">Workers</h2>
    ${age > LATE_AFTER_S ? html`<p class="words bad">No worker has reported since ${instant(report.at)}. The other figures are of that time.</p>` : nothing}
    <dl class="facts">${facts.map(([name, text, isBad]) => html`<div><dt>${name}</dt><dd class=${isBad ? "bad" : ""}>${text}</dd></div>`)}</dl></section>`;
}

function tickerPanel(ticker, found) {
  return html`<section class="panel" data-ticker=${ticker.name} aria-label=${ticker.name}>
    <h2><a href=${buildViewUrl({ page: "ticker", ticker: ticker.name })} @click=${follow}>${ticker.name}</a> <span class="full-name">${pairName(ticker.name)}</span></h2>
    ${found?.failure ? html`<p class="problem">${found.failure}</p>` : found ? tickerDetails(ticker, found) : html`<p class="hint">Loading…</p>`}
  </section>`;
}

function tickerDetails(ticker, { coverage, recent, lateness: late }) {
  const outages = recent.gaps.nodes.slice(-MAX_OUTAGES).reverse();
  const missing = coverage.missing ? `${minutes(coverage.missing)} of ${coverage.expected.toLocaleString("en")} are missing in the last 53 weeks.` : `All ${minutes(coverage.expected)} of the last 53 weeks are stored.`;
  return html`
    <p class="words">${coverage.expected ? missing : "Nothing was collected in the last 53 weeks."}
      ${late ? `A price is from ${late.median.toFixed(1)} s after the start of its minute (median of the last hour, at most ${late.latest.toFixed(1)} s).` : nothing}
      ${isStale(ticker, clock.value) ? html`<span class="bad">It is stale.</span>` : nothing}</p>
    <div class="scroll" tabindex="0" role="group" aria-label="Days of ${ticker.name}">${calendar(ticker.name, coverage.days, clock.value, WEEKS)}</div>
    <h3>Outages of the last 7 days</h3>
    ${outages.length ? html`<ul class="outages">${outages.map((one) => html`<li data-state=${one.state}>${gap(one)}</li>`)}</ul>` : html`<p class="hint">None.</p>`}`;
}
