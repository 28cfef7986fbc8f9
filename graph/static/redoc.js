"use strict";

Redoc.init(
  new URL("../openapi.json", document.currentScript.src).pathname,
  { disableSearch: false, hideDownloadButton: false, nativeScrollbars: true, theme: { typography: { fontFamily: "system-ui, sans-serif", headings: { fontFamily: "system-ui, sans-serif" } } } },
  document.getElementById("redoc"),
);
