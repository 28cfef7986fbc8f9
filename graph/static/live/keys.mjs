// Keys of the whole page, and the sheet that lists them.

import { signal } from "../vendor/signals-core-1.14.5.mjs";
import { areKeysEnabled } from "./storage.mjs";
import { html, mount, nothing } from "./template.mjs";

const groups = signal([]);
const isOpen = signal(false);
const dialog = document.getElementById("keys-sheet");

/** Binds keys, as `{ key, text, run }`; one without `run` is only listed. Returns a function that unbinds them. */
export function bindKeys(name, bindings) {
  const group = { name, bindings };
  groups.value = [...groups.value, group];
  return () => (groups.value = groups.value.filter((one) => one !== group));
}

export function showSheet() {
  isOpen.value = true;
  dialog.showModal();
}

const sheet = () => html`
  <form method="dialog">
    <h2 id="keys-title">Keys</h2>
    <div class="key-groups">
      ${groups.value.map(({ name, bindings }) => html`
        <section><h3>${name}</h3>
          <dl>${bindings.map(({ key, text }) => html`<div><dt><kbd>${key}</kbd></dt><dd>${text}</dd></div>`)}</dl>
        </section>`)}
    </div>
    <label class="check"><input type="checkbox" .checked=${areKeysEnabled.value} @change=${(event) => (areKeysEnabled.value = event.target.checked)}> Keys of one character also work outside the chart</label>
    <button>Close</button>
  </form>`;

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, textarea, dialog")) return;
  if (event.key.length === 1 && !areKeysEnabled.peek() && !event.target.closest(".chart")) return;
  const found = groups.peek().flatMap(({ bindings }) => bindings).find(({ key, run }) => run && key === event.key);
  if (!found) return;
  event.preventDefault();
  found.run();
}

mount(dialog, () => (isOpen.value ? sheet() : nothing));
dialog.addEventListener("close", () => (isOpen.value = false));
document.addEventListener("keydown", onKey);
bindKeys("Page", [{ key: "?", text: "Show this list", run: showSheet }]);
