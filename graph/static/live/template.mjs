// Templates that stay up to date.

import { repeat } from "../vendor/lit-html-3.3.3/directives/repeat.js";
import { html, nothing, render, svg } from "../vendor/lit-html-3.3.3/lit-html.js";
import { effect } from "../vendor/signals-core-1.14.5.mjs";

export { html, nothing, render, repeat, svg };

/** Renders a template into an element, again each time that a signal changes which it read. Returns a function that ends this. */
export function mount(element, template) {
  return effect(() => {
    render(template(), element);
  });
}
