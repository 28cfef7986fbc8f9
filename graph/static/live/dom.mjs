// Creates elements without markup in strings.

/** Creates an element. Attributes named `on…` are listeners, `text` is the text content. */
export function make(tag, attributes = {}, ...children) {
  const element = tag === "svg" || tag === "path" ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets the text if it differs, so that screen readers do not repeat an unchanged text. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
