// Bundles viewer.mjs and the part of three.js that it uses into the one file that the package ships.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
// A test compares this hash with the sources, so that the shipped bundle cannot fall behind them.
const sources = createHash("sha256");
for (const name of ["viewer.mjs", "package-lock.json"]) sources.update(readFileSync(here(name)));

await build({
  entryPoints: [here("viewer.mjs")],
  outfile: here("../rome_lightning/viewer/page/viewer.js"),
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  banner: {
    js: [
      "/*! Built by `make viewer` from viewer/viewer.mjs; do not edit. sources-sha256=" + sources.digest("hex"),
      "Contains three.js, https://threejs.org, under this licence:",
      "",
      readFileSync(here("node_modules/three/LICENSE"), "utf8").trim(),
      "*/",
    ].join("\n"),
  },
});
