// What is stored and what is missing in the visible window, as text.

import { coverage, gap, instant } from "./format.mjs";
import { html } from "./template.mjs";

const MAX_GAPS = 20;

/** The section. `found` is the coverage of the window; null until it is loaded; or why it could not be loaded, and how to retry. `isEmpty`: the window has no prices. */
export function completeness(found, isEmpty, zone) {
  return html`<section class="panel coverage" aria-labelledby="coverage">
    <h2 id="coverage">Data completeness</h2>
    ${found?.failure ? problem(found) : content(found, isEmpty, zone)}
  </section>`;
}

const problem = ({ failure, retry }) =>
  html`<p class="problem" role="status">It could not be loaded: ${failure}. <button type="button" class="framed" @click=${retry}>Try again</button></p>`;

function content(found, isEmpty, zone) {
  const words = found ? `From ${instant(found.begin)} to ${instant(found.end)} ${zone}. ${coverage(found.counts)}` : isEmpty ? "No prices in this window." : "…";
  return html`<p class="words">${words}</p>
    <ul class="gaps">${found ? gaps(found.counts.gaps) : ""}</ul>`;
}

function gaps({ nodes, pageInfo }) {
  const listed = nodes.slice(-MAX_GAPS).reverse();
  return html`
    ${pageInfo.hasNextPage ? html`<li>Not all gaps are listed. Select a shorter window to see all.</li>` : ""}
    ${listed.map((one) => html`<li data-state=${one.state}>${gap(one)}</li>`)}
    ${!pageInfo.hasNextPage && nodes.length > MAX_GAPS ? html`<li>and ${nodes.length - MAX_GAPS} earlier gaps</li>` : ""}`;
}
