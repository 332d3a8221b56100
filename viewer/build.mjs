// Bundles each page's script and the part of three.js that it uses into the one file that the package ships.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const pages = { "viewer.mjs": "../rome_lightning/viewer/page/viewer.js", "web.mjs": "../rome_lightning/export/web/avatar.js" };

// What a page's source imports beside libraries.
const parts = { "viewer.mjs": [], "web.mjs": ["neural.mjs"] };

for (const [source, bundle] of Object.entries(pages)) {
  // A test compares this hash with the sources, so that the shipped bundle cannot fall behind them.
  const sources = createHash("sha256");
  for (const name of [source, ...parts[source], "package-lock.json"]) sources.update(readFileSync(here(name)));

  await build({
    entryPoints: [here(source)],
    outfile: here(bundle),
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    legalComments: "none",
    banner: {
      js: [
        "/*! Built by `make viewer` from viewer/" + source + "; do not edit. sources-sha256=" + sources.digest("hex"),
        "Contains three.js, https://threejs.org, under this licence:",
        "",
        readFileSync(here("node_modules/three/LICENSE"), "utf8").trim(),
        "*/",
      ].join("\n"),
    },
  });
}
