// Links to the shown data: GraphiQL, CSV, curl.

import { hasKey, headers } from "./api.mjs";
import { make, setText } from "./dom.mjs";
import { UTC } from "./zones.mjs";

/** Creates the links of a ticker. */
export function createLinks(ticker) {
  const graphiql = make("a", { text: "GraphQL" });
  const csv = make("a", { text: "CSV", download: "", onclick: (event) => hasKey() && download(event) });
  const curl = make("code", {});
  const copied = make("span", { class: "copied", role: "status" });

  /** Downloads the file with the API key, because a link cannot send a header. */
  async function download(event) {
    event.preventDefault();
    const response = await fetch(csv.href, { headers: headers() });
    if (!response.ok) return setText(copied, `The download failed: HTTP ${response.status}`);
    const address = URL.createObjectURL(await response.blob());
    make("a", { href: address, download: `${ticker}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(curl.textContent);
      setText(copied, "Copied");
    } catch {
      getSelection().selectAllChildren(curl);
      setText(copied, "Selected: press Ctrl-C to copy");
    }
  }

  const element = make("section", { class: "panel same", "aria-labelledby": "same" },
    make("h2", { id: "same", text: "Get this data" }),
    make("p", {}, graphiql, " in GraphiQL, ", csv, " with all minutes, or with curl:"),
    make("div", { class: "curl" }, curl, make("button", { type: "button", text: "Copy", onclick: copy }), copied));
  return {
    element,
    /** Shows the links of a window. `to` null: it ends now. */
    show({ interval, zone }, from, to) {
      const windowArguments = `from: ${from}${to === null ? "" : `, to: ${to}`}${zone === UTC ? "" : `, timeZone: "${zone}"`}`;
      const query = `{\n  candles(ticker: "${ticker}", interval: ${interval}, ${windowArguments}) {\n    ts open high low close count complete\n  }\n}`;
      graphiql.href = `graphql#${encodeURIComponent(query)}`;
      const path = `export?ticker=${ticker}&from=${from}${to === null ? "" : `&to=${to}`}&format=csv`;
      csv.setAttribute("href", path);
      setText(curl, `curl ${hasKey() ? "-H 'Authorization: Bearer …' " : ""}'${new URL(path, location.href)}'`);
    },
  };
}
