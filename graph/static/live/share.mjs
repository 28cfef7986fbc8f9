// The shown data elsewhere: as a query, a command, a program, a file, a picture, a link.

import { hasKey, headers } from "./api.mjs";
import { copyText } from "./copy.mjs";
import { html } from "./template.mjs";
import { UTC } from "./zones.mjs";

/** Returns the query, the command and the program that read a window. `to` null: it ends now. `base` is the URL of the API. */
function requestsFor({ ticker, interval, zone }, from, to, base, needsKey) {
  const windowArguments = `from: ${from}${to === null ? "" : `, to: ${to}`}${zone === UTC ? "" : `, timeZone: "${zone}"`}`;
  const path = (format) => `export?ticker=${ticker}&from=${from}${to === null ? "" : `&to=${to}`}&format=${format}`;
  const url = new URL(path("csv"), base).href;
  const python = needsKey
    ? `import pandas\n\nprices = pandas.read_csv(\n    "${url}",\n    storage_options={"Authorization": "Bearer …"},\n)\n`
    : `import pandas\n\nprices = pandas.read_csv("${url}")\n`;
  return {
    graphql: `{\n  candles(ticker: "${ticker}", interval: ${interval}, ${windowArguments}) {\n    ts open high low close count complete\n  }\n}`,
    curl: `curl ${needsKey ? "-H 'Authorization: Bearer …' " : ""}'${url}'`,
    python,
    csv: path("csv"),
    parquet: path("parquet"),
  };
}

/** Downloads a file with the API key, which a link cannot send; without a key, the browser does. Says why if the API cannot write Parquet. */
async function download(event, name) {
  const isParquet = name.endsWith(".parquet");
  if (!hasKey() && !isParquet) return;
  event.preventDefault();
  const link = event.currentTarget;
  delete link.dataset.said;
  try {
    const response = await fetch(link.href, { method: hasKey() ? "GET" : "HEAD", headers: headers() });
    if (isParquet && response.status === 406) throw new Error("this server cannot write Parquet. Its operator can install pyarrow");
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    if (hasKey()) save(await response.blob(), name);
    else Object.assign(document.createElement("a"), { href: link.href, download: "" }).click();
  } catch (error) {
    link.dataset.said = `The download failed: ${error.message}`;
  }
}

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** The section. `onPicture` saves a picture of the chart. */
export function share(view, from, to, onPicture) {
  const found = requestsFor(view, from, to, location.href, hasKey());
  const copy = (text) => (event) => copyText(event.currentTarget, text);
  return html`<section class="panel share" aria-labelledby="share">
    <h2 id="share">Use this data</h2>
    <p class="buttons">
      <button type="button" class="framed" @click=${(event) => copyText(event.currentTarget, location.href)}>Copy link</button>
      <button type="button" class="framed" @click=${copy(found.graphql)}>Copy GraphQL</button>
      <button type="button" class="framed" @click=${copy(found.curl)}>Copy curl</button>
      <button type="button" class="framed" @click=${copy(found.python)}>Copy Python</button>
      <a class="button" href="graphql#${encodeURIComponent(found.graphql)}">GraphiQL</a>
      <a class="button" href=${found.csv} download @click=${(event) => download(event, `${view.ticker}.csv`)}>CSV</a>
      <a class="button" href=${found.parquet} download @click=${(event) => download(event, `${view.ticker}.parquet`)}>Parquet</a>
      <button type="button" class="framed" @click=${onPicture}>PNG of the chart</button>
    </p>
    <p class="curl"><code>${found.curl}</code></p>
  </section>`;
}
