// The neural render in the browser: the model's own programs run by onnxruntime, and the rasterizer between them.

/**
 * Index of the nearest triangle at each pixel centre, -1 beside the mesh: the rules of the package's rasterizer.
 * A centre on a left or top edge is inside, on a right or bottom edge outside; at equal depth the smaller index wins.
 */
export function rasterize(points, faces, size) {
  const ids = new Int32Array(size * size).fill(-1);
  const depths = new Float32Array(size * size).fill(Infinity);
  for (let face = 0; face < faces.length / 3; face += 1) {
    let [a, b, c] = [0, 1, 2].map((corner) => 3 * faces[3 * face + corner]);
    const area = (points[b] - points[a]) * (points[c + 1] - points[a + 1]) - (points[c] - points[a]) * (points[b + 1] - points[a + 1]);
    if (area === 0) continue;
    if (points[b + 1] < points[a + 1]) [a, b] = [b, a];
    if (points[c + 1] < points[b + 1]) [b, c] = [c, b];
    if (points[b + 1] < points[a + 1]) [a, b] = [b, a];
    const [ax, ay, az] = [points[a], points[a + 1], points[a + 2]];
    const [bx, by, bz] = [points[b], points[b + 1], points[b + 2]];
    const [cx, cy, cz] = [points[c], points[c + 1], points[c + 2]];
    const signed = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay);
    const slopeX = ((bz - az) * (cy - ay) - (cz - az) * (by - ay)) / signed;
    const slopeY = ((bx - ax) * (cz - az) - (cx - ax) * (bz - az)) / signed;
    // The plane of a sliver is ill-conditioned; its depth never leaves the range of its corners.
    const [low, high] = [Math.min(az, bz, cz), Math.max(az, bz, cz)];
    const bottom = Math.min(Math.ceil(cy), size);
    for (let y = Math.max(Math.ceil(ay), 0); y < bottom; y += 1) {
      const isUpper = y < Math.ceil(by);
      const one = ax + ((y - ay) * (cx - ax)) / (cy - ay);
      const other = isUpper ? ax + ((y - ay) * (bx - ax)) / (by - ay) : bx + ((y - by) * (cx - bx)) / (cy - by);
      const right = Math.min(Math.ceil(Math.max(one, other)), size);
      for (let x = Math.max(Math.ceil(Math.min(one, other)), 0); x < right; x += 1) {
        const depth = Math.fround(Math.min(Math.max(az + (x - ax) * slopeX + (y - ay) * slopeY, low), high));
        const pixel = y * size + x;
        if (depth < depths[pixel]) {
          depths[pixel] = depth;
          ids[pixel] = face;
        }
      }
    }
  }
  return ids;
}

/**
 * Flat index of the covered pixel that is nearest to each pixel: among equally near ones the leftmost column, then
 * the upper row; -1 where there is none. Columns first, then, in each row, outwards from the pixel.
 */
export function nearestCovered(ids, size) {
  const far = 4 * size;
  const rows = new Int32Array(size * size);
  for (let x = 0; x < size; x += 1) {
    let above = -far;
    for (let y = 0; y < size; y += 1) {
      if (ids[y * size + x] >= 0) above = y;
      rows[y * size + x] = above;
    }
    let below = far;
    for (let y = size - 1; y >= 0; y -= 1) {
      if (ids[y * size + x] >= 0) below = y;
      if (below - y < y - rows[y * size + x]) rows[y * size + x] = below;
    }
  }
  const nearest = new Int32Array(size * size).fill(-1);
  for (let y = 0; y < size; y += 1) {
    for (let x = 0; x < size; x += 1) {
      let best = Infinity;
      let place = -1;
      // Outwards from the pixel; no farther than the best one found.
      for (let step = 0; step * step <= best && step < size; step += 1) {
        for (const column of step ? [x - step, x + step] : [x]) {
          if (column < 0 || column >= size) continue;
          const row = rows[y * size + column];
          if (row < 0 || row >= size) continue;
          const distance = step * step + (row - y) * (row - y);
          if (distance < best || (distance === best && column < place % size)) {
            best = distance;
            place = row * size + column;
          }
        }
      }
      nearest[y * size + x] = place;
    }
  }
  return nearest;
}

/** onnxruntime, for WebGPU or for WebAssembly alone. */
async function loadRuntime(address, onGpu) {
  const kind = onGpu ? "ort-wasm-simd-threaded.jsep" : "ort-wasm-simd-threaded";
  const ort = await import(address(onGpu ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs"));
  ort.env.wasm.wasmPaths = { mjs: address(`${kind}.mjs`), wasm: address(`${kind}.wasm`) };
  // Browsers share memory between threads only on pages that a host isolates by its headers.
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1;
  const create = (name, provider) => ort.InferenceSession.create(address(name), { executionProviders: [provider] });
  // What is posed is rasterized by this script, so that only the picture gains from WebGPU.
  const mesh = await create("mesh.onnx", "wasm");
  return { ort, mesh, picture: await create("picture.onnx", onGpu ? "webgpu" : "wasm") };
}

/**
 * Loads the programs of a folder; resolves to a function from expressions and poses to pictures.
 *
 * Its `backend` says what runs them: WebGPU, if it is wanted and the browser has it, or WebAssembly.
 */
export async function loadNeural(address, wantsGpu = false) {
  const answer = await fetch(address("neural.json"));
  if (!answer.ok) throw new Error("this folder has no neural render; export it with --neural");
  const about = await answer.json();
  const adapter = wantsGpu ? await navigator.gpu?.requestAdapter().catch(() => null) : null;
  // A graphics card that cannot run the network is no reason to show nothing.
  const onGpu = adapter && (await loadRuntime(address, true).catch((error) => void console.warn(error)));
  const { ort, mesh, picture } = onGpu || (await loadRuntime(address, false));
  const faces = new Uint16Array(await (await fetch(address("faces.bin"))).arrayBuffer());
  const { size } = about;

  /** Straight RGBA of weights by name, and rotation vectors of root, neck, jaw, left and right eye. */
  async function draw(weights, rotations) {
    const floats = (values) => new ort.Tensor("float32", Float32Array.from(values), [1, values.length]);
    const { vertices } = await mesh.run({
      expression: floats(about.expressions.map((name) => weights[name] ?? 0)),
      rotations: floats(rotations),
      camera: floats(about.camera),
    });
    const ids = rasterize(vertices.data, faces, size);
    if (!ids.some((id) => id >= 0)) throw new Error("the avatar is not in the picture");
    const whole = (values) => new ort.Tensor("int32", values, [1, size, size]);
    const drawn = await picture.run({ vertices, face_ids: whole(ids), nearest: whole(nearestCovered(ids, size)) });
    const values = drawn.picture.data;
    const pixels = new Uint8ClampedArray(4 * size * size);
    for (let pixel = 0; pixel < size * size; pixel += 1) {
      for (let channel = 0; channel < 4; channel += 1) pixels[4 * pixel + channel] = 255 * values[channel * size * size + pixel];
    }
    return new ImageData(pixels, size, size);
  }
  return Object.assign(draw, { backend: onGpu ? "WebGPU" : "WebAssembly" });
}
