// Page of `rome avatar view`: the exported GLB with sliders, and beside it the neural render of the same
// parameters, drawn by the server that this page came from.
import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";

const element = (id) => document.getElementById(id);
const canvas = element("mesh");
const image = element("neural");

const renderer = new THREE.WebGLRenderer({ canvas, antialias: true, preserveDrawingBuffer: true });
renderer.setClearColor(0xffffff);
const scene = new THREE.Scene();
scene.add(new THREE.HemisphereLight(0xffffff, 0x8d8d99, 1.6));
const lamp = new THREE.DirectionalLight(0xffffff, 1.8);
lamp.position.set(0.5, 0.7, 1.5);
scene.add(lamp);

// The model's camera is a weak perspective one, which is an orthographic camera with a zoom.
const camera = new THREE.OrthographicCamera(-1, 1, 1, -1, 0.01, 10);
const controls = new OrbitControls(camera, canvas);
const DISTANCE = 2;

const page = { about: null, mesh: null, joints: {}, values: new Map(), materials: {}, edits: 0 };

function fail(text) {
  element("status").textContent = text;
  element("status").className = "error";
  document.documentElement.dataset.state = "failed";
}

// A browser that takes a picture does so when the page has loaded: this image comes once all is drawn.
if (location.search === "?picture") document.body.append(Object.assign(new Image(), { hidden: true, src: "drawn.png" }));

/** Tell the server that the page is as it shall be. */
async function finish() {
  const state = document.documentElement.dataset;
  state.state ??= "ready";
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  await fetch("drawn", { method: "POST", body: "{}" });
}

// ---------------------------------------------------------------- parameters

/** Expression weights as they are applied: a mouth cannot be closed further than the jaw is open. */
function expression() {
  const weights = page.about.expressions.map((name) => page.values.get(name) ?? 0);
  const close = page.about.expressions.indexOf("mouthClose");
  const open = page.about.expressions.indexOf("jawOpen");
  if (close >= 0 && open >= 0) weights[close] = Math.min(weights[close], weights[open]);
  return weights;
}

function rotation(joint) {
  return ["x", "y", "z"].map((axis) => page.values.get(`${joint}.${axis}`) ?? 0);
}

function posed() {
  const joints = Object.fromEntries(page.about.joints.map((name) => [name, rotation(name)]));
  camera.updateMatrixWorld();
  const view = camera.matrixWorldInverse.elements;
  return {
    expression: expression(),
    joints,
    // Rows of the rotation, then the shift, of head space as this page's camera sees it.
    view: [0, 1, 2].map((row) => [0, 4, 8, 12].map((column) => view[column + row])),
    scale: camera.zoom / page.about.view.half_width,
  };
}

function applyToMesh() {
  if (!page.mesh) return;
  const influences = page.mesh.morphTargetInfluences;
  const targets = page.mesh.morphTargetDictionary;
  expression().forEach((weight, index) => {
    const target = targets[page.about.expressions[index]];
    if (target !== undefined) influences[target] = weight;
  });
  for (const name of page.about.joints) {
    const vector = new THREE.Vector3(...rotation(name));
    const angle = vector.length();
    if (angle > 0) vector.divideScalar(angle);
    page.joints[name]?.quaternion.setFromAxisAngle(vector, angle);
  }
}

// ---------------------------------------------------------------- drawing

let pending = false;
let drawing = false;

/** Ask for the neural render of the present state; one request at a time, the latest state wins. */
async function requestNeural() {
  if (drawing) {
    pending = true;
    return;
  }
  drawing = true;
  try {
    do {
      pending = false;
      const start = performance.now();
      const answer = await fetch("render", { method: "POST", body: JSON.stringify(posed()) });
      if (!answer.ok) throw new Error(await answer.text());
      const picture = URL.createObjectURL(await answer.blob());
      const before = image.src;
      image.src = picture;
      await image.decode();
      if (before.startsWith("blob:")) URL.revokeObjectURL(before);
      const model = Number(answer.headers.get("X-Render-Ms"));
      element("status").className = "";
      element("status").textContent =
        `model ${model.toFixed(0)} ms, shown after ${(performance.now() - start).toFixed(0)} ms`;
    } while (pending);
  } catch (error) {
    fail(`no neural render: ${error.message}`);
  } finally {
    drawing = false;
  }
}

function draw() {
  if (!page.about) return;
  applyToMesh();
  renderer.render(scene, camera);
}

function changed() {
  draw();
  return requestNeural();
}

function resize() {
  const side = canvas.clientWidth;
  renderer.setPixelRatio(window.devicePixelRatio);
  renderer.setSize(side, side, false);
  draw();
}

// ---------------------------------------------------------------- looks

function checker() {
  const size = 1024;
  const cell = size / 16;
  const drawn = Object.assign(document.createElement("canvas"), { width: size, height: size });
  const context = drawn.getContext("2d");
  context.font = `${cell * 0.36}px sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let row = 0; row < 16; row++) {
    for (let column = 0; column < 16; column++) {
      const light = (row + column) % 2 ? 78 : 62;
      context.fillStyle = `hsl(${column * 22} 55% ${light}%)`;
      context.fillRect(column * cell, row * cell, cell, cell);
      context.fillStyle = "#222";
      context.fillText(`${String.fromCharCode(65 + row)}${column}`, (column + 0.5) * cell, (row + 0.5) * cell);
    }
  }
  const texture = new THREE.CanvasTexture(drawn);
  texture.flipY = false;
  texture.colorSpace = THREE.SRGBColorSpace;
  return texture;
}

function setLook(name) {
  if (!page.mesh) return;
  page.mesh.material = page.materials[name];
  draw();
}

function makeMaterials(original) {
  const both = { side: THREE.DoubleSide };
  page.materials = {
    texture: new THREE.MeshBasicMaterial({ map: original.map, ...both }),
    lit: original,
    grey: new THREE.MeshStandardMaterial({ color: 0xb8bcc4, roughness: 0.7, ...both }),
    normals: new THREE.MeshNormalMaterial(both),
    uv: new THREE.MeshBasicMaterial({ map: checker(), ...both }),
    wire: new THREE.MeshBasicMaterial({ color: 0x335577, wireframe: true }),
  };
}

// ---------------------------------------------------------------- controls

function slider(key, label, least, most) {
  const row = document.createElement("label");
  row.className = "slider";
  const name = Object.assign(document.createElement("span"), { textContent: label });
  const shown = document.createElement("output");
  const input = Object.assign(document.createElement("input"), {
    type: "range", min: least, max: most, step: 0.01, value: page.values.get(key) ?? 0, name: key,
  });
  const show = () => { shown.textContent = Number(input.value).toFixed(2); };
  input.addEventListener("input", () => {
    page.values.set(key, Number(input.value));
    show();
    key.startsWith("component.") ? edit() : changed();
  });
  row.addEventListener("dblclick", () => {
    input.value = 0;
    input.dispatchEvent(new Event("input"));
  });
  show();
  row.append(name, input, shown);
  return row;
}

function group(title, rows, open = true) {
  const box = Object.assign(document.createElement("details"), { open });
  box.append(Object.assign(document.createElement("summary"), { textContent: title }), ...rows);
  return box;
}

function groupOf(name) {
  if (name.startsWith("brow")) return "Brows";
  if (name.startsWith("eye")) return "Eyelids";
  if (name.startsWith("mouth")) return "Mouth";
  return "Jaw, cheeks, nose, tongue";
}

function buildControls() {
  const about = page.about;
  const boxes = [];
  if (about.components.length) {
    const rows = about.components.map((label, index) => slider(`component.${index + 1}`, label, -3, 3));
    boxes.push(group("Hair and shoulders (standard deviations)", rows.slice(0, 10)));
    if (rows.length > 10) boxes.push(group("Further components", rows.slice(10), false));
  }
  const angles = about.joint_sliders.map((s) => slider(`${s.joint}.${s.axis}`, s.label, -s.limit, s.limit));
  boxes.push(group("Joints (radians)", angles));
  const groups = new Map();
  for (const name of about.expressions) {
    const title = groupOf(name);
    if (!groups.has(title)) groups.set(title, []);
    groups.get(title).push(slider(name, name, ...about.expression_range));
  }
  for (const [title, rows] of groups) boxes.push(group(title, rows));
  element("controls").replaceChildren(...boxes);
  for (const name of Object.keys(page.materials)) {
    const option = Object.assign(document.createElement("option"), { value: name, textContent: name });
    element("look").append(option);
  }
}

/** Set values from the address: #jawOpen=0.7&neck.y=0.4&look=uv&turn=30,10 */
function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const [key, text] of wanted) {
    if (key === "look") element("look").value = text;
    else if (key === "turn") turn(...text.split(",").map(Number));
    else page.values.set(key, Number(text));
  }
}

function turn(yaw, pitch = 0) {
  const place = new THREE.Spherical(DISTANCE, Math.PI / 2 - THREE.MathUtils.degToRad(pitch), THREE.MathUtils.degToRad(yaw));
  camera.position.setFromSpherical(place).add(controls.target);
  controls.update();
}

/** Bring the sliders to the values. */
function showValues() {
  for (const input of document.querySelectorAll("#controls input")) {
    input.value = page.values.get(input.name) ?? 0;
    input.nextElementSibling.textContent = Number(input.value).toFixed(2);
  }
}

function resetView() {
  const half = page.about.view.half_width;
  Object.assign(camera, { left: -half, right: half, top: half, bottom: -half, zoom: 1 });
  camera.updateProjectionMatrix();
  controls.target.set(...page.about.view.centre);
  turn(0);
}

// ---------------------------------------------------------------- loading

async function loadMesh() {
  const gltf = await new GLTFLoader().loadAsync(`avatar.glb?edit=${page.edits}`);
  if (page.root) scene.remove(page.root);
  page.root = gltf.scene;
  scene.add(gltf.scene);
  gltf.scene.traverse((node) => {
    if (node.isSkinnedMesh) page.mesh = node;
    if (node.isBone) page.joints[node.name] = node;
  });
  page.mesh.frustumCulled = false;
  makeMaterials(page.mesh.material);
  const position = page.mesh.geometry.attributes.position;
  element("facts").textContent =
    `${position.count} vertices, ${page.mesh.geometry.index.count / 3} triangles, ` +
    `${page.mesh.morphTargetInfluences.length} morph targets, ${Object.keys(page.joints).length} joints`;
}

let editTimer = 0;

/** Edit once the slider rests: a new mesh takes longer to make than a picture. */
function edit() {
  clearTimeout(editTimer);
  editTimer = setTimeout(() => applyEdit().catch((error) => fail(error.message)), 150);
}

/** Send the coefficients of the linear basis; the mesh comes back in a new file. */
async function applyEdit() {
  const amounts = {};
  page.about.components.forEach((_, index) => {
    const amount = page.values.get(`component.${index + 1}`) ?? 0;
    if (amount) amounts[index] = amount;
  });
  const answer = await fetch("edit", { method: "POST", body: JSON.stringify({ amounts }) });
  if (!answer.ok) throw new Error(`cannot edit: ${await answer.text()}`);
  page.edits += 1;
  await loadMesh();
  setLook(element("look").value);
  await changed();
}

async function start() {
  const answer = await fetch("about.json");
  if (!answer.ok) throw new Error(await answer.text());
  page.about = await answer.json();
  element("title").textContent = page.about.name;
  await loadMesh();
  resetView();
  buildControls();
  readAddress();
  showValues();
  setLook(element("look").value);
  controls.addEventListener("change", changed);
  element("look").addEventListener("change", (event) => setLook(event.target.value));
  element("reset").addEventListener("click", () => {
    page.values.clear();
    showValues();
    resetView();
    page.about.components.length ? edit() : changed();
  });
  new ResizeObserver(resize).observe(canvas);
  resize();
  const edited = [...page.values.keys()].some((key) => key.startsWith("component."));
  await (edited ? applyEdit() : changed());
}

start()
  .catch((error) => fail(error.message))
  .finally(finish);
