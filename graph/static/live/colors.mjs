// The colors of the style sheet, for drawings on a canvas.

/** Returns the current value of a color of the style sheet as `rgb(…)`. */
export function readColor(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** Returns a color `rgb(…)` with an opacity from 0 to 1. */
export function fade(color, opacity) {
  return color.replace(/^rgb\((.*)\)$/, `rgba($1, ${opacity})`);
}
