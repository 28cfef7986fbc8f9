// Entry point: selects the view by the URL, opens the WebSocket, asks for an API key if one is required.

import { headers, setKey } from "./api.mjs";
import { make, setText } from "./dom.mjs";
import { showOverview } from "./overview.mjs";
import { Socket } from "./socket.mjs";
import { parseView, buildViewUrl } from "./state.mjs";
import { showTicker } from "./ticker.mjs";

const STATE_LABELS = { connecting: "Connecting", live: "Live", http: "Live over HTTP", polling: "Updated every 15 seconds", failing: "Subscription failed, retrying", offline: "Offline, reconnecting" };

const main = document.getElementById("main");
const status = document.getElementById("status");
let closeView = () => {};
let viewNumber = 0;
let retryTimer = null;

function onState(state) {
  status.dataset.state = state;
  setText(status.querySelector(".words"), STATE_LABELS[state]);
}

const url = new URL("graphql", location.href.replace(/^http/, "ws")).href;
const socket = new Socket(url, { onState, payload: headers });

function go(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  history.pushState(null, "", event.currentTarget.href);
  show().then(() => main.focus({ preventScroll: true }));
  scrollTo(0, 0);
}

async function show() {
  const number = ++viewNumber;
  const isCurrent = () => number === viewNumber;
  const onMove = (moved) => isCurrent() && history.replaceState(null, "", buildViewUrl(moved)); // the URL always shows the view
  clearTimeout(retryTimer);
  const view = parseView(location.search);
  closeView();
  closeView = () => {};
  try {
    const close = view.ticker
      ? await showTicker(main, view, { socket, go, onMove, isCurrent })
      : await showOverview(main, { socket, go, isCurrent });
    if (isCurrent()) closeView = close;
    else close();
  } catch (error) {
    if (isCurrent()) showError(error);
  }
}

function showError(error) {
  if (error.code === "UNAUTHENTICATED") return main.replaceChildren(askForKey());
  main.replaceChildren(
    make("div", { class: "empty", role: "alert" },
      make("h1", { text: "Something went wrong" }),
      make("p", { text: error.code ? error.message : "The API does not respond. This page retries automatically." }),
      make("p", {}, make("a", { href: "./", text: "All tickers", onclick: go })),
    ),
  );
  if (error.code !== "UNKNOWN_TICKER") retryTimer = setTimeout(show, 3_000);
}

function askForKey() {
  const input = make("input", { type: "password", autocomplete: "current-password", id: "key", required: true });
  const saveKey = (event) => {
    event.preventDefault();
    setKey(input.value.trim());
    location.reload();
  };
  return make("form", { class: "empty", onsubmit: saveKey },
    make("h1", { text: "Enter your API key" }), make("label", { for: "key", text: "Key" }), input, make("button", { text: "Continue" }));
}

for (const link of document.querySelectorAll("[data-go]")) link.addEventListener("click", go);
addEventListener("popstate", show);
show();
