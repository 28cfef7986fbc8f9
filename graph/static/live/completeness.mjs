// What is stored and what is missing in the shown window, as text.

import { make, setText } from "./dom.mjs";
import { coverage, gap, instant } from "./format.mjs";

const MAX_GAPS = 20;

/** Creates the section. */
export function createCompleteness() {
  const words = make("p", { class: "words", text: "…" });
  const list = make("ul", { class: "gaps" });
  const element = make("section", { class: "panel coverage", "aria-labelledby": "coverage" },
    make("h2", { id: "coverage", text: "Data completeness" }), words, list);

  function say(text, label, onClick) {
    list.replaceChildren();
    words.replaceChildren(`${text} `, label ? make("button", { type: "button", class: "inline", text: label, onclick: onClick }) : "");
  }

  return {
    element,
    /** Shows the coverage of a window, and its newest gaps. */
    show(found, { begin, end }, zone) {
      setText(words, `From ${instant(begin)} to ${instant(end)} ${zone}. ${coverage(found)}`);
      const gaps = found.gaps.nodes;
      list.replaceChildren(...gaps.slice(-MAX_GAPS).reverse().map((one) => make("li", { "data-state": one.state, text: gap(one) })));
      if (found.gaps.pageInfo.hasNextPage) list.prepend(make("li", { text: "Not all gaps are listed. Select a shorter window to see all." }));
      else if (gaps.length > MAX_GAPS) list.append(make("li", { text: `and ${gaps.length - MAX_GAPS} earlier gaps` }));
    },
    /** Says where the prices are, if none is in the window. `first` and `last` are null if none is stored. */
    showNothing(first, last, zone, onAll) {
      if (first === null || last === null) say("No price is stored yet.");
      else say(`No prices in this window. They are from ${instant(first)} to ${instant(last)} ${zone}.`, "Show all prices", onAll);
    },
    showFailure(error, onRetry) {
      say(`The chart could not be loaded: ${error.message}`, "Try again", onRetry);
    },
  };
}
