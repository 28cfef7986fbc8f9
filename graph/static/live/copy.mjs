// Copies texts to the clipboard.

const SHOWN_MS = 2_000;

/** Copies a text, and says so on the button for a moment. */
export async function copyText(button, text) {
  const label = button.dataset.label ?? button.textContent;
  button.dataset.label = label;
  try {
    await navigator.clipboard.writeText(text);
    button.dataset.said = "Copied";
  } catch {
    button.dataset.said = "The browser does not allow to copy";
  }
  setTimeout(() => delete button.dataset.said, SHOWN_MS);
}
