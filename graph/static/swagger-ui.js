"use strict";

// Follows the theme that the reader chose on the page of prices, or else that of the system.
const darkSystem = matchMedia("(prefers-color-scheme: dark)");

function applyTheme() {
  let theme = null;
  try {
    theme = JSON.parse(localStorage.getItem("tickgraph.theme"));
  } catch {
    // No storage, or not written by the page.
  }
  document.documentElement.classList.toggle("dark-mode", theme === "dark" || (theme !== "light" && darkSystem.matches));
}

applyTheme();
darkSystem.addEventListener("change", applyTheme);
addEventListener("storage", applyTheme);

SwaggerUIBundle({
  url: new URL("../openapi.json", document.currentScript.src).pathname,
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  onComplete: () => document.querySelector("#servers")?.setAttribute("aria-label", "Server"),
});
