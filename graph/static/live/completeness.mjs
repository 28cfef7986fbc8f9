// What is stored and what is missing in the visible window, as text.

import { coverage, gap, instant } from "./format.mjs";
import { html } from "./template.mjs";

const MAX_GAPS = 20;

/** The section. `found` is the coverage or null; `failure` replaces it, as `{ message, retry }`; `first` and `last` are the outermost stored minutes or null. */
export function completeness({ found, failure, isEmpty, first, last, zone, onAll }) {
  return html`<section class="panel coverage" aria-labelledby="coverage">
    <h2 id="coverage">Data completeness</h2>
    <p class="words">${words({ found, failure, isEmpty, first, last, zone, onAll })}</p>
    <ul class="gaps">${found && !failure && !isEmpty ? gaps(found.counts.gaps) : ""}</ul>
  </section>`;
}

function words({ found, failure, isEmpty, first, last, zone, onAll }) {
  const button = (text, onClick) => html`<button type="button" class="framed inline" @click=${onClick}>${text}</button>`;
  if (failure) return html`The chart could not be loaded: ${failure.message} ${button("Try again", failure.retry)}`;
  if (isEmpty && first === null) return "No price is stored yet.";
  if (isEmpty) return html`No prices in this window. They are from ${instant(first)} to ${instant(last)} ${zone}. ${button("Show all prices", onAll)}`;
  if (!found) return "…";
  return `From ${instant(found.begin)} to ${instant(found.end)} ${zone}. ${coverage(found.counts)}`;
}

function gaps({ nodes, pageInfo }) {
  const listed = nodes.slice(-MAX_GAPS).reverse();
  return html`
    ${pageInfo.hasNextPage ? html`<li>Not all gaps are listed. Select a shorter window to see all.</li>` : ""}
    ${listed.map((one) => html`<li data-state=${one.state}>${gap(one)}</li>`)}
    ${!pageInfo.hasNextPage && nodes.length > MAX_GAPS ? html`<li>and ${nodes.length - MAX_GAPS} earlier gaps</li>` : ""}`;
}
