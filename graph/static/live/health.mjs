// Health: how complete the history is and what the workers do, for people without a shell.

import { effect, signal } from "../vendor/signals-core-1.14.5.mjs";
import { execute, nowSeconds } from "./api.mjs";
import { buildViewUrl } from "./address.mjs";
import { calendar, calendarKey, describeDay } from "./calendar.mjs";
import { duration, gap, instant, minutes, staleReason } from "./format.mjs";
import { pairName } from "./names.mjs";
import { CONNECTED, clock, connection, follow, isStale, tickers } from "./state.mjs";
import { html, nothing, render, repeat } from "./template.mjs";

const HOUR = 3_600;
const DAY = 24 * HOUR;
const WEEKS = 53;
const MIN_WEEKS = 13;
const RELOAD_MS = 60_000;
const MAX_OUTAGES = 5;
const MAX_DAYS = 30;
const LATE_AFTER_S = 120; // a report is written each minute
const WORKERS = "{ workers { at workers queuedPrices queuedTicks clockSkewS streams connectedStreams newestTickAt failingJobs } }";
const TICKER = `query ($ticker: String!, $hour: UnixTime!, $from: UnixTime!, $year: UnixTime!) {
  coverage(ticker: $ticker, from: $year) { expected stored missing days { day expected stored } }
  recent: coverage(ticker: $ticker, from: $from) { gaps(first: 1000) { nodes { from to reason state } pageInfo { hasNextPage } } }
  prices(ticker: $ticker, from: $hour, first: 60) { nodes { ts observedAt source } }
}`;

/** Opens the view. Each ticker is loaded when it comes into sight. Returns a function that ends its updates. */
export async function open(show) {
  const report = signal(undefined); // null: no worker ever ran
  const failure = signal("");
  const details = signal(new Map()); // by ticker
  const visible = new Set(); // tickers in sight
  const page = show(() => health(report.value, failure.value, details.value));
  const load = async () => {
    try {
      report.value = (await execute(WORKERS)).workers;
      failure.value = "";
    } catch (error) {
      failure.value = error.message;
    }
  };
  const loadTicker = async (ticker) => {
    const set = (found) => (details.value = new Map([...details.peek(), [ticker, found]]));
    try {
      set(toDetails(ticker, await execute(TICKER, { ticker, year: nowSeconds() - WEEKS * 7 * DAY, from: nowSeconds() - 7 * DAY, hour: nowSeconds() - HOUR })));
    } catch (error) {
      set({ ...details.peek().get(ticker), failure: error.message });
    }
  };
  const refresh = async () => {
    for (const ticker of [...visible]) await loadTicker(ticker); // one after another, because each counts a year of minutes
  };
  const observer = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
    const { ticker } = target.dataset;
    if (!isIntersecting) return visible.delete(ticker);
    visible.add(ticker);
    if (!details.peek().has(ticker)) loadTicker(ticker);
  }), { rootMargin: "300px" });
  const observe = () => page.querySelectorAll("[data-ticker]").forEach((element) => observer.observe(element));
  const timers = [setInterval(load, RELOAD_MS), setInterval(observe, 1_000), setInterval(refresh, 5 * RELOAD_MS)];
  await load();
  observe();
  let wasConnected = true;
  const stop = effect(() => {
    const isConnected = CONNECTED.includes(connection.value);
    if (isConnected && !wasConnected) load().then(refresh);
    wasConnected = isConnected;
  });
  return () => {
    stop();
    observer.disconnect();
    timers.forEach(clearInterval);
  };
}

/** Draws the calendar once, because the page is rendered each second. */
function toDetails(ticker, found) {
  const element = document.createElement("div");
  const { days } = found.coverage;
  const weeks = Math.max(MIN_WEEKS, Math.min(WEEKS, Math.ceil((nowSeconds() - (days[0]?.day ?? nowSeconds())) / (7 * DAY)) + 1));
  render(calendar(ticker, days, nowSeconds(), weeks), element);
  return { ...found, lateness: lateness(found.prices.nodes), calendar: element };
}

/** Returns how long after the start of a live minute its price was observed, in seconds: `{ median, latest }`; null if none is known. */
function lateness(prices) {
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
    <div class="panels">${repeat(found, (ticker) => ticker.name, (ticker) => tickerPanel(ticker, details.get(ticker.name)))}</div>`;
}

function workers(report) {
  if (report === undefined) return nothing;
  if (report === null) return html`<section class="panel"><h2>Workers</h2><p class="words bad">No worker has ever reported. Prices are collected by the worker: start it with <code>make up</code>.</p></section>`;
  const age = clock.value - report.at;
  const stale = [...(tickers.value?.values() ?? [])].filter((one) => isStale(one, clock.value)).map((one) => `${one.name}${staleReason(one)}`);
  const tick = report.newestTickAt ? `${duration(report.at - Date.parse(report.newestTickAt) / 1_000)} before the report` : "none yet";
  const facts = [
    ["Last report", `${duration(age)} ago`, age > LATE_AFTER_S],
    ["Workers", `on ${report.workers} ${report.workers === 1 ? "host" : "hosts"}`, !report.workers],
    ["Clock compared with Deribit's", report.clockSkewS === null ? "not measured" : `${report.clockSkewS < 0 ? "−" : "+"}${Math.abs(report.clockSkewS).toFixed(3)} s`, Math.abs(report.clockSkewS ?? 0) > 1],
    ["Prices waiting for the database", report.queuedPrices.toLocaleString("en"), report.queuedPrices > 0],
    ["Minutes of ticks waiting", report.queuedTicks.toLocaleString("en"), report.queuedTicks > 0],
    ["Streams", report.streams ? `${report.connectedStreams} of ${report.streams} connected` : "none runs", report.connectedStreams < report.streams],
    ["Newest tick", tick, false],
    ["Failing jobs", report.failingJobs.length ? report.failingJobs.join(", ") : "none", report.failingJobs.length > 0],
    ["Stale tickers", stale.length ? stale.join("; ") : "none", stale.length > 0],
  ];
  return html`<section class="panel" aria-labelledby="workers"><h2 id="workers">Workers</h2>
    ${age > LATE_AFTER_S ? html`<p class="words bad">No worker has reported since ${instant(report.at)}. The other figures are of that time.</p>` : nothing}
    <dl class="facts">${facts.map(([name, text, isBad]) => html`<div><dt>${name}</dt><dd class=${isBad ? "bad" : ""}>${text}</dd></div>`)}</dl></section>`;
}

function tickerPanel(ticker, found) {
  return html`<section class="panel" data-ticker=${ticker.name} aria-label=${ticker.name}>
    <h2><a href=${buildViewUrl({ page: "ticker", ticker: ticker.name })} @click=${follow}>${ticker.name}</a> <span class="full-name">${pairName(ticker.name)}</span></h2>
    ${found?.failure ? html`<p class="problem">Could not be loaded: ${found.failure}.</p>` : nothing}
    ${found?.coverage ? tickerDetails(ticker, found) : html`<p class="hint">${found ? "" : "Loading…"}</p>`}
  </section>`;
}

/** The days of the calendar as a list, for fingers, keyboards and screen readers. */
function incompleteDays(days) {
  const incomplete = days.filter((one) => one.stored < one.expected).reverse();
  if (!incomplete.length) return nothing;
  const more = incomplete.length - MAX_DAYS;
  return html`<details class="days"><summary>${incomplete.length} ${incomplete.length === 1 ? "day lacks" : "days lack"} minutes</summary>
    <ul>${incomplete.slice(0, MAX_DAYS).map((one) => html`<li>${describeDay(one.day, one)}</li>`)}${more > 0 ? html`<li>and ${more} earlier ones</li>` : nothing}</ul></details>`;
}

function tickerDetails(ticker, { coverage, recent, lateness: late, calendar: drawn }) {
  const { nodes, pageInfo } = recent.gaps;
  const outages = nodes.slice(-MAX_OUTAGES).reverse();
  const others = pageInfo.hasNextPage ? "and more than can be listed here" : nodes.length > MAX_OUTAGES ? `and ${nodes.length - MAX_OUTAGES} earlier ones` : "";
  const since = coverage.expected ? `since ${new Date(coverage.days[0].day * 1_000).toISOString().slice(0, 10)}` : "";
  const missing = coverage.missing ? `${minutes(coverage.missing)} of ${coverage.expected.toLocaleString("en")} ${since} are missing.` : `All ${minutes(coverage.expected)} ${since} are stored.`;
  return html`
    <p class="words">${coverage.expected ? missing : "Nothing was collected in the last 53 weeks."}
      ${late ? `In the last hour, prices were taken ${late.median.toFixed(1)} s after their minute began (median; latest ${late.latest.toFixed(1)} s).` : nothing}
      ${isStale(ticker, clock.value) ? html`<span class="bad">It is stale.</span>` : nothing}</p>
    <div class="scroll newest" tabindex="0" role="group" aria-label="Days of ${ticker.name}">${drawn}</div>
    ${incompleteDays(coverage.days)}
    <h3>Outages of the last 7 days</h3>
    ${outages.length ? html`<ul class="outages">${outages.map((one) => html`<li data-state=${one.state}>${gap(one)}</li>`)}${others ? html`<li>${others}</li>` : nothing}</ul>` : html`<p class="hint">None.</p>`}`;
}
