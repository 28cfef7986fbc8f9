// Which view is shown, by the address; the connection; what to do where reading needs a key.

import { headers, setKey } from "./api.mjs";
import { make, say } from "./dom.mjs";
import { overview } from "./overview.mjs";
import { Socket } from "./socket.mjs";
import { read, write } from "./state.mjs";
import { ticker } from "./ticker.mjs";

const WORDS = { connecting: "Connecting", live: "Live", refused: "Not told of new prices, trying again", offline: "Offline, trying again" };

const main = document.getElementById("main");
const status = document.getElementById("status");
let leave = () => {};
let shown = 0;
let again = null;

function onState(state) {
  status.dataset.state = state;
  say(status.querySelector(".words"), WORDS[state]);
}

const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/graphql`;
const socket = new Socket(url, { onState, payload: headers });

function go(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  history.pushState(null, "", event.currentTarget.href);
  show().then(() => main.focus({ preventScroll: true }));
  scrollTo(0, 0);
}

async function show() {
  const mine = ++shown;
  const isCurrent = () => mine === shown;
  const moved = (one) => isCurrent() && history.replaceState(null, "", write(one)); // the address follows the view
  clearTimeout(again);
  const view = read(location.search);
  leave();
  leave = () => {};
  try {
    const left = view.ticker ? await ticker(main, view, { socket, go, moved, isCurrent }) : await overview(main, { socket, go, isCurrent });
    if (isCurrent()) leave = left;
    else left();
  } catch (error) {
    if (isCurrent()) failed(error);
  }
}

function failed(error) {
  if (error.code === "UNAUTHENTICATED") return main.replaceChildren(askForKey());
  main.replaceChildren(
    make("div", { class: "empty", role: "alert" },
      make("h1", { text: "This could not be shown" }),
      make("p", { text: error.code ? error.message : "The API does not answer. This page tries again by itself." }),
      make("p", {}, make("a", { href: "/", text: "All tickers", onclick: go })),
    ),
  );
  if (error.code !== "UNKNOWN_TICKER") again = setTimeout(show, 3_000);
}

function askForKey() {
  const input = make("input", { type: "password", autocomplete: "current-password", id: "key", required: true });
  const use = (event) => {
    event.preventDefault();
    setKey(input.value.trim());
    location.reload();
  };
  return make("form", { class: "empty", onsubmit: use },
    make("h1", { text: "Reading needs a key" }), make("label", { for: "key", text: "Key" }), input, make("button", { text: "Use it" }));
}

for (const link of document.querySelectorAll("[data-go]")) link.addEventListener("click", go);
addEventListener("popstate", show);
show();
