// Page of `rome avatar export --format web`: the exported GLB with sliders, and an API for other pages.
import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";

import { loadNeural } from "./neural.mjs";

const element = (id) => document.getElementById(id);
const options = new URLSearchParams(location.search);
const canvas = element("avatar");

const renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true, preserveDrawingBuffer: true });
const scene = new THREE.Scene();
const camera = new THREE.PerspectiveCamera(22, 1, 0.05, 20);
const controls = new OrbitControls(camera, canvas);
controls.enablePan = false;
controls.minDistance = 0.4;
controls.maxDistance = 4;

const page = { mesh: null, person: null, joints: {}, mixer: null, clips: [], inputs: new Map(), needsDrawing: true, recorders: 0, programs: null, image: null, isNeural: false, hasBody: false, background: null };
const parts = (document.documentElement.dataset.parts ?? "").split(" ");

function fail(text) {
  note("");
  element("status").textContent = text;
  document.documentElement.dataset.state = "failed";
}

/** A mouth cannot be closed further than the jaw is open. */
function apply() {
  const { morphTargetDictionary: index, morphTargetInfluences: weights } = page.mesh;
  for (const [name, place] of Object.entries(index)) weights[place] = values[name] ?? 0;
  if ("mouthClose" in index && "jawOpen" in index) {
    weights[index.mouthClose] = Math.min(weights[index.mouthClose], weights[index.jawOpen]);
  }
  page.needsDrawing = true;
}

const values = {};

/** What goes on; errors are written elsewhere. */
function note(text) {
  element("rate").textContent = text;
}

/** Weights of ARKit's expressions lie between 0 and 1; FLAME's coefficients, standard deviations, have both signs. */
function range() {
  return "jawOpen" in page.mesh.morphTargetDictionary ? [0, 1] : [-3, 3];
}

/** The neural render's programs, loaded once; they may be asked for again after a failure. */
function neuralPrograms() {
  const address = (name) => new URL(`neural/${name}`, document.baseURI).href;
  const wantsGpu = parts.includes("webgpu") && options.get("webgpu") !== "0";
  page.programs ??= loadNeural(address, wantsGpu).catch((error) => {
    page.programs = null;
    throw error;
  });
  return page.programs;
}

/** Camera or microphone. */
async function capture(wanted) {
  if (!navigator.mediaDevices) throw new Error("browsers give camera and microphone to https pages only");
  return navigator.mediaDevices.getUserMedia(wanted);
}

/** What other scripts of this page use as `avatar`, and other pages by messages. */
const avatar = {
  /** Names of the expressions. */
  get names() {
    return Object.keys(page.mesh?.morphTargetDictionary ?? {});
  },
  /** Weights of expressions, 0 to 1 (FLAME: -3 to 3), by name; those that are not named stay. */
  set(weights) {
    const [least, most] = range();
    for (const [name, weight] of Object.entries(weights)) {
      if (!(name in page.mesh.morphTargetDictionary)) throw new Error(`there is no expression ${name}`);
      if (!Number.isFinite(weight)) throw new Error(`the weight of ${name} is no number`);
      values[name] = Math.min(Math.max(weight, least), most);
      const input = page.inputs.get(name);
      if (input) input.value = values[name];
    }
    apply();
  },
  /** Present weights by name. */
  get() {
    return { ...values };
  },
  /**
   * Rotation vectors of joints against rest, in radians, about the person's axes (x to their left, y up, z ahead):
   * root, neck, jaw, left_eye, right_eye; with a whole body also Mixamo's bones, such as LeftArm.
   */
  pose(rotations) {
    for (const [name, [x, y, z]] of Object.entries(rotations)) {
      if (!page.joints[name]) throw new Error(`there is no joint ${name}`);
      const { bone, rest, outer } = page.joints[name];
      const axis = new THREE.Vector3(x, y, z);
      const angle = axis.length();
      const turn = new THREE.Quaternion().setFromAxisAngle(angle ? axis.divideScalar(angle) : axis.set(1, 0, 0), angle);
      bone.quaternion.copy(outer).invert().multiply(turn).multiply(outer).multiply(rest);
    }
    page.needsDrawing = true;
  },
  /** Show the whole person, or the face of one who has a body. */
  view(what = "whole") {
    if (what !== "whole" && what !== "face") throw new Error(`a view is whole or face, not ${what}`);
    page.person.updateMatrixWorld(true);
    frame(new THREE.Box3().setFromObject(what === "face" ? page.mesh : page.person));
    page.needsDrawing = true;
  },
  /** Look from an angle: degrees to the person's left, and from above. */
  turn(yaw, pitch = 0) {
    const distance = camera.position.distanceTo(controls.target);
    const place = new THREE.Spherical(
      distance, Math.PI / 2 - THREE.MathUtils.degToRad(pitch), THREE.MathUtils.degToRad(yaw));
    camera.position.setFromSpherical(place).add(controls.target);
    controls.update();
    page.needsDrawing = true;
  },
  /** Everything back to rest. */
  reset() {
    avatar.stop();
    for (const name of avatar.names) avatar.set({ [name]: 0 });
    for (const { bone, rest } of Object.values(page.joints)) bone.quaternion.copy(rest);
    lowerArms();
    page.needsDrawing = true;
  },
  /** Names of the animation clips in the file. */
  get clips() {
    return page.clips.map((clip) => clip.name);
  },
  /** Play a clip, over and over. */
  play(name) {
    const clip = page.clips.find((each) => each.name === name);
    if (!clip) throw new Error(`there is no clip ${name}`);
    page.mixer.stopAllAction();
    page.mixer.clipAction(clip).play();
  },
  stop() {
    page.mixer?.stopAllAction();
  },
  /** Show the neural render instead of the mesh, or the mesh again. Only in folders exported with --neural. */
  async neural(wanted = true) {
    if (wanted && !page.programs) note("loading the neural render, about 50 MB ...");
    if (wanted) await neuralPrograms().catch((error) => {
      note("");
      throw error;
    });
    page.isNeural = wanted;
    element("neural").hidden = !wanted;
    if (!wanted) note("");
    // Invisible, the mesh is still turned with the mouse.
    canvas.style.opacity = wanted ? 0 : 1;
    page.needsDrawing = true;
    if (wanted) await drawNeural();
  },
  /** What computes the neural render: WebGPU or WebAssembly. */
  async backend() {
    return (await neuralPrograms()).backend;
  },
  /** The neural render of what is shown, as ImageData with straight alpha. */
  async picture() {
    const draw = await neuralPrograms();
    return draw(...neuralState());
  },
  /** Record what is shown for some seconds; resolves to a WebM blob. */
  record(seconds) {
    return new Promise((done, refuse) => {
      const parts = [];
      const shown = page.isNeural ? element("neural") : canvas;
      const recorder = new MediaRecorder(shown.captureStream(30), { mimeType: "video/webm" });
      recorder.ondataavailable = (event) => parts.push(event.data);
      recorder.onstop = () => {
        page.recorders -= 1;
        done(new Blob(parts, { type: "video/webm" }));
      };
      recorder.onerror = (event) => refuse(event.error);
      // A canvas that is not drawn gives no frames.
      page.recorders += 1;
      recorder.start();
      setTimeout(() => recorder.stop(), 1000 * seconds);
    });
  },
  /** Open the jaw with the volume of the microphone; returns a function that ends it. */
  async listen() {
    const stream = await capture({ audio: true });
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    let going = true;
    let opened = 0;
    const step = () => {
      if (!going) return;
      analyser.getFloatTimeDomainData(samples);
      const volume = Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length);
      // Opens at once, closes slowly, as lips do.
      opened = Math.max(Math.min(6 * volume, 0.8), 0.85 * opened);
      avatar.set({ jawOpen: opened });
      requestAnimationFrame(step);
    };
    step();
    return () => {
      going = false;
      stream.getTracks().forEach((track) => track.stop());
      context.close();
      avatar.set({ jawOpen: 0 });
    };
  },
  /**
   * Follow a face: the webcam's, or that of a video element. Resolves, when the face is looked for, to a function
   * that ends it. Only in folders exported with --webcam.
   */
  async follow(source = null) {
    const address = (name) => new URL(`tracking/${name}`, document.baseURI).href;
    const { FaceLandmarker } = await import(address("vision_bundle.mjs")).catch(() => {
      throw new Error("this folder has no face tracker; export it with --webcam");
    });
    const files = {
      wasmLoaderPath: address("vision_wasm_internal.js"),
      wasmBinaryPath: address("vision_wasm_internal.wasm"),
    };
    const wanted = { video: { width: 640, height: 480, facingMode: "user" } };
    const stream = source ? null : await capture(wanted).catch((error) => {
      throw new Error(`the webcam cannot be used: ${error.message}`);
    });
    let tracker = null;
    let going = true;
    note("loading the face tracker ...");
    const end = () => {
      going = false;
      note("");
      stream?.getTracks().forEach((track) => track.stop());
      tracker?.close();
    };
    let video = source;
    try {
      tracker = await FaceLandmarker.createFromOptions(files, {
        baseOptions: { modelAssetPath: address("face_landmarker.task"), delegate: "CPU" },
        runningMode: "VIDEO", numFaces: 1, outputFaceBlendshapes: true, outputFacialTransformationMatrixes: true,
      });
      if (!video) {
        video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
        await video.play();
      }
    } catch (error) {
      end();
      throw error;
    }
    note("");
    let last = 0;
    let hadFace = true;
    const step = () => {
      if (!going) return;
      // The tracker wants rising times; a video that is played again has falling ones.
      last = Math.max(last + 1, performance.now());
      if (video.readyState >= 2) {
        const hasFace = wear(tracker.detectForVideo(video, last));
        if (hasFace !== hadFace) note(hasFace ? "" : "no face in the picture");
        hadFace = hasFace;
      }
      video.requestVideoFrameCallback(step);
    };
    step();
    return end;
  },
};
window.avatar = avatar;

/** Degrees by which eyes turn at full weight of the expressions that look aside. */
const EYE_RANGE = 25;

/** Put on what MediaPipe found in a frame; without a face, nothing changes. Returns whether there was one. */
function wear(found) {
  const scores = found.faceBlendshapes[0]?.categories;
  if (!scores) return false;
  const weights = {};
  for (const { categoryName: name, score } of scores) {
    if (name in page.mesh.morphTargetDictionary) weights[name] = score;
  }
  avatar.set(weights);
  const look = (name) => THREE.MathUtils.degToRad(EYE_RANGE) * (weights[name] ?? 0);
  // MediaPipe's canonical face has our axes: x to the person's left, y up, z ahead.
  const matrix = new THREE.Matrix4().fromArray(found.facialTransformationMatrixes[0].data);
  const turn = new THREE.Quaternion().setFromRotationMatrix(new THREE.Matrix4().extractRotation(matrix));
  const angle = 2 * Math.acos(Math.min(Math.abs(turn.w), 1));
  const axis = new THREE.Vector3(turn.x, turn.y, turn.z).multiplyScalar(turn.w < 0 ? -1 : 1);
  axis.setLength(axis.length() > 1e-9 ? angle : 0);
  avatar.pose({
    neck: axis.toArray(),
    left_eye: [look("eyeLookDownLeft") - look("eyeLookUpLeft"), look("eyeLookOutLeft") - look("eyeLookInLeft"), 0],
    right_eye: [look("eyeLookDownRight") - look("eyeLookUpRight"), look("eyeLookInRight") - look("eyeLookOutRight"), 0],
  });
  window.dispatchEvent(new CustomEvent("avatar-face", { detail: { weights, neck: axis.toArray() } }));
  return true;
}

// Other pages: iframe.contentWindow.postMessage({ avatar: { set: { jawOpen: 0.4 } } }, "*")
const ALLOWED = ["set", "pose", "view", "turn", "reset", "play", "stop", "neural"];
window.addEventListener("message", async (event) => {
  const wanted = event.data?.avatar;
  if (typeof wanted !== "object" || wanted === null || !page.mesh) return;
  try {
    for (const [name, argument] of Object.entries(wanted)) {
      if (!ALLOWED.includes(name)) throw new Error(`a message may use ${ALLOWED.join(", ")}, not ${name}`);
      await (name === "turn" ? avatar.turn(...[argument].flat()) : avatar[name](argument));
    }
    event.source?.postMessage({ avatar: { done: Object.keys(wanted), values: avatar.get() } }, "*");
  } catch (error) {
    event.source?.postMessage({ avatar: { error: error.message } }, "*");
  }
});

// ---------------------------------------------------------------- controls

function groupOf(name) {
  if (name.startsWith("brow")) return "Brows";
  if (name.startsWith("eye")) return "Eyelids";
  if (name.startsWith("mouth")) return "Mouth";
  return "Jaw, cheeks, nose, tongue";
}

function slider(name) {
  const row = document.createElement("label");
  const label = Object.assign(document.createElement("span"), { textContent: name });
  const [min, max] = range();
  const input = Object.assign(document.createElement("input"), { type: "range", min, max, step: 0.01, value: 0, name });
  input.addEventListener("input", () => avatar.set({ [name]: Number(input.value) }));
  page.inputs.set(name, input);
  row.append(label, input);
  return row;
}

function button(text, action) {
  const made = Object.assign(document.createElement("button"), { textContent: text });
  made.addEventListener("click", () => Promise.resolve(action(made)).catch((error) => {
    element("status").textContent = error.message;
  }));
  return made;
}

/** A button that begins something, and ends it when it is pressed again. */
function toggle(text, begin) {
  let end = null;
  return button(text, async (self) => {
    element("status").textContent = "";
    self.disabled = true;
    try {
      if (end) {
        end();
        end = null;
      } else end = await begin();
    } finally {
      self.disabled = false;
    }
    self.classList.toggle("on", end !== null);
  });
}

function buildControls() {
  if (options.get("controls") === "0") {
    document.body.classList.add("bare");
    return;
  }
  const groups = new Map();
  for (const name of avatar.names) {
    const title = groupOf(name);
    if (!groups.has(title)) groups.set(title, Object.assign(document.createElement("details"), { open: title === "Mouth" }));
    groups.get(title).append(slider(name));
  }
  for (const [title, box] of groups) box.prepend(Object.assign(document.createElement("summary"), { textContent: title }));
  const buttons = document.createElement("p");
  if (page.hasBody) {
    buttons.append(toggle("Face", () => {
      avatar.view("face");
      return () => avatar.view("whole");
    }));
  }
  for (const clip of avatar.clips) buttons.append(button(`Play ${clip}`, () => avatar.play(clip)));
  if (parts.includes("neural")) {
    buttons.append(toggle("Neural render", async () => {
      await avatar.neural();
      return () => avatar.neural(false);
    }));
  }
  if (parts.includes("tracking")) buttons.append(toggle("Webcam", () => avatar.follow()));
  if (avatar.names.includes("jawOpen")) buttons.append(toggle("Microphone", () => avatar.listen()));
  buttons.append(
    button("Record 5 s", async (self) => {
      self.disabled = true;
      self.textContent = "Recording ...";
      const address = URL.createObjectURL(await avatar.record(5));
      self.textContent = "Record 5 s";
      self.disabled = false;
      Object.assign(document.createElement("a"), { href: address, download: "avatar.webm" }).click();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
    }),
    button("Reset", () => avatar.reset()),
  );
  const hint = Object.assign(document.createElement("p"), { textContent: "Drag to turn, scroll or pinch to come nearer." });
  element("controls").append(hint, buttons, ...groups.values());
}

// ---------------------------------------------------------------- drawing

/** Joints of the head model, and their bones in a whole body. */
const JOINTS = { root: "Hips", neck: "Head", jaw: "Jaw", left_eye: "LeftEye", right_eye: "RightEye" };

/** Hanging arms instead of the T-pose that rigs start from. */
function lowerArms() {
  if (page.hasBody) avatar.pose({ LeftArm: [0, 0, -1.25], RightArm: [0, 0, 1.25] });
}

/** Bones by name at rest, those of the head model by its names too. */
function readJoints(person) {
  person.updateMatrixWorld(true);
  person.traverse((bone) => {
    if (!bone.isBone) return;
    const outer = bone.parent.getWorldQuaternion(new THREE.Quaternion());
    page.joints[bone.name] = { bone, outer, rest: bone.quaternion.clone() };
  });
  page.hasBody = !page.joints.root;
  if (page.hasBody) for (const [name, bone] of Object.entries(JOINTS)) page.joints[name] = page.joints[bone];
}

/** Weights as the mesh has them, clips included, and rotation vectors; the view turns the person instead. */
function neuralState() {
  const { morphTargetDictionary: index, morphTargetInfluences: values } = page.mesh;
  const weights = Object.fromEntries(Object.entries(index).map(([name, place]) => [name, values[place]]));
  const view = new THREE.Quaternion().setFromEuler(
    new THREE.Euler(Math.PI / 2 - controls.getPolarAngle(), -controls.getAzimuthalAngle(), 0, "XYZ"));
  const rotations = Object.keys(JOINTS).flatMap((name) => {
    const { bone, rest, outer } = page.joints[name];
    const turn = outer.clone().multiply(bone.quaternion).multiply(rest.clone().invert()).multiply(outer.clone().invert());
    if (name === "root") turn.premultiply(view);
    const angle = 2 * Math.atan2(Math.hypot(turn.x, turn.y, turn.z), turn.w);
    const axis = new THREE.Vector3(turn.x, turn.y, turn.z).normalize();
    return axis.multiplyScalar(angle > Math.PI ? angle - 2 * Math.PI : angle).toArray();
  });
  return [weights, rotations];
}

let isDrawingNeural = false;

function showImage() {
  const target = element("neural");
  // Setting a size clears the canvas, which a recording would show.
  if (target.width !== page.image.width) [target.width, target.height] = [page.image.width, page.image.height];
  const context = target.getContext("2d");
  context.putImageData(page.image, 0, 0);
  if (!page.background) return;
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = page.background;
  context.fillRect(0, 0, target.width, target.height);
  context.globalCompositeOperation = "source-over";
}

/** One picture at a time: what changes meanwhile is drawn with the next. */
async function drawNeural() {
  if (isDrawingNeural || !page.isNeural) return;
  isDrawingNeural = true;
  const began = performance.now();
  try {
    page.image = await avatar.picture();
    showImage();
    const took = performance.now() - began;
    const rate = `${Math.round(took)} ms a picture, ${(1000 / took).toFixed(1)} frames/s`;
    if (page.isNeural) note(`neural render: ${rate} (${await avatar.backend()})`);
  } catch (error) {
    element("status").textContent = error.message;
  } finally {
    isDrawingNeural = false;
  }
}

function frame(box) {
  const size = box.getSize(new THREE.Vector3());
  box.getCenter(controls.target);
  const height = Math.max(size.y, size.x / camera.aspect);
  const distance = (0.6 * height) / Math.tan(THREE.MathUtils.degToRad(camera.fov / 2)) + size.z / 2;
  controls.maxDistance = Math.max(4, 1.5 * distance);
  camera.position.set(0, 0, distance).add(controls.target);
  controls.update();
}

function resize() {
  const { clientWidth: width, clientHeight: height } = canvas.parentElement;
  renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
  renderer.setSize(width, height, false);
  camera.aspect = width / height;
  camera.updateProjectionMatrix();
  page.needsDrawing = true;
}

const timer = new THREE.Timer();

function draw() {
  timer.update();
  const passed = timer.getDelta();
  if (page.mixer && page.clips.some((clip) => page.mixer.existingAction(clip)?.isRunning())) {
    page.mixer.update(passed);
    page.needsDrawing = true;
  }
  controls.update();
  if (page.isNeural) {
    if (page.recorders && page.image) showImage();
    if (isDrawingNeural) return;
    if (page.needsDrawing) drawNeural();
  } else if (page.needsDrawing || page.recorders) renderer.render(scene, camera);
  page.needsDrawing = false;
}

async function start() {
  note("loading the avatar ...");
  const gltf = await new GLTFLoader().loadAsync("avatar.glb");
  page.person = gltf.scene;
  scene.add(page.person);
  page.person.traverse((node) => {
    if (!node.isSkinnedMesh) return;
    // The photograph has its own light, and the body's texture too.
    node.material = new THREE.MeshBasicMaterial({ map: node.material.map, side: THREE.DoubleSide });
    node.frustumCulled = false;
    if (node.morphTargetDictionary) page.mesh = node;
  });
  readJoints(page.person);
  page.clips = gltf.animations;
  page.mixer = new THREE.AnimationMixer(gltf.scene);
  lowerArms();
  buildControls();
  resize();
  avatar.view();
  new ResizeObserver(resize).observe(canvas.parentElement);
  controls.addEventListener("change", () => { page.needsDrawing = true; });
  const background = options.get("background");
  if (background && /^[0-9a-f]{6}$/i.test(background)) page.background = `#${background}`;
  else if (!document.body.classList.contains("bare")) page.background = "#f2f3f5";
  if (page.background) {
    // In the picture too, so that recordings have it.
    document.body.style.background = page.background;
    renderer.setClearColor(page.background, 1);
  }
  renderer.setAnimationLoop(draw);
  draw();
  note("");
  document.documentElement.dataset.state = "ready";
  avatar.mesh = page.mesh;
  const say = (error) => { element("status").textContent = error.message; };
  if (options.get("neural") === "1") avatar.neural().catch(say);
  if (options.get("webcam") === "1") avatar.follow().catch(say);
  window.parent?.postMessage({ avatar: { ready: true, names: avatar.names, clips: avatar.clips } }, "*");
  window.dispatchEvent(new Event("avatar-ready"));
}

start().catch((error) => fail(`the avatar cannot be shown: ${error.message}`));
