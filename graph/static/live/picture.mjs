// A picture of the chart with a title, to save or share.

import { readColor } from "./colors.mjs";

const TITLE_HEIGHT = 34; // in CSS pixels

/** Returns a canvas with a title above a picture of the chart. */
export function withTitle(picture, title) {
  const scale = devicePixelRatio;
  const canvas = document.createElement("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height + TITLE_HEIGHT * scale;
  const context = canvas.getContext("2d");
  context.fillStyle = readColor("panel");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = readColor("text");
  context.font = `${13 * scale}px ${getComputedStyle(document.body).fontFamily}`;
  context.fillText(title, 10 * scale, 22 * scale);
  context.drawImage(picture, 0, TITLE_HEIGHT * scale);
  return canvas;
}
