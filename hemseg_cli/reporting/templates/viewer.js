"use strict";
/* The slice viewer. Packing is described in reporting/viewer.py. */
const Viewer = (() => {
  const byId = (id) => document.getElementById(id);
  const root = byId("viewer");
  if (!root) return { open: () => false };
  const data = JSON.parse(byId("data").textContent).viewer;
  const [huLow, huHigh] = data.hu;
  const canvas = byId("viewer-canvas");
  const strip = byId("viewer-strip");
  const slider = byId("viewer-slice");
  const state = { scan: 0, run: 0, layer: 0, slice: 0, unpacked: null };
  const cache = new Map();
  const mostUnpacked = 4;

  async function inflate(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /* A scan's own part of the page is read when it is first shown, and then stays. */
  function load(index) {
    const scan = data.scans[index];
    if (!scan.image) Object.assign(scan, JSON.parse(byId(`viewer-scan-${index}`).textContent));
  }

  async function unpack(index) {
    if (!cache.has(index)) {
      const scan = data.scans[index];
      const grey = await inflate(scan.image.data);
      for (let row = 0; row < grey.length; row += scan.image.columns) {
        for (let n = row + 1; n < row + scan.image.columns; n++) grey[n] = (grey[n] + grey[n - 1]) & 255;
      }
      const layers = [];
      for (const layer of [scan, ...scan.classes]) {
        const masks = [];
        for (const mask of [layer.truth, ...layer.predictions]) masks.push(await inflate(mask.data));
        layers.push({ truth: masks[0], predictions: masks.slice(1) });
      }
      if (cache.size >= mostUnpacked) cache.delete(cache.keys().next().value);
      cache.set(index, { grey, layers });
    }
    return cache.get(index);
  }

  /* Counts and numbers of all classes together, or of the one that is chosen. */
  function layer() {
    const scan = data.scans[state.scan];
    return state.layer === 0 ? scan : scan.classes[state.layer - 1];
  }

  function colourOf(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  /* A function (row, column) -> whether the bit is set, for one slice of a packed mask; outside is not set. */
  function bits(mask, slice, rows, columns) {
    const start = slice * rows * columns;
    return (row, column) => {
      if (row < 0 || column < 0 || row >= rows || column >= columns) return 0;
      const place = start + row * columns + column;
      return (mask[place >> 3] >> (7 - (place & 7))) & 1;
    };
  }

  function drawMask(context, mask, total, colour, filled) {
    if (!total) return;
    const scan = data.scans[state.scan];
    const { rows, columns } = scan.mask;
    const set = bits(mask, state.slice, rows, columns);
    const across = canvas.width / columns;
    const down = canvas.height / rows;
    context.beginPath();
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        if (!set(row, column)) continue;
        const [left, top, right, bottom] = [column * across, row * down, (column + 1) * across, (row + 1) * down];
        if (filled) {
          context.rect(left, top, across, down);
          continue;
        }
        if (!set(row - 1, column)) { context.moveTo(left, top); context.lineTo(right, top); }
        if (!set(row + 1, column)) { context.moveTo(left, bottom); context.lineTo(right, bottom); }
        if (!set(row, column - 1)) { context.moveTo(left, top); context.lineTo(left, bottom); }
        if (!set(row, column + 1)) { context.moveTo(right, top); context.lineTo(right, bottom); }
      }
    }
    if (filled) {
      context.globalAlpha = 0.38;
      context.fillStyle = colour;
      context.fill();
      context.globalAlpha = 1;
    } else {
      context.strokeStyle = colour;
      context.lineWidth = 1.6 * (window.devicePixelRatio || 1);
      context.lineCap = "round";
      context.stroke();
    }
  }

  function fit() {
    const stage = canvas.parentElement;
    const aspect = data.scans[state.scan].aspect;
    const width = Math.min(stage.clientWidth, stage.clientHeight * aspect);
    const ratio = window.devicePixelRatio || 1;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${width / aspect}px`;
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round((width / aspect) * ratio));
  }

  function drawImage(context) {
    const scan = data.scans[state.scan];
    const { rows, columns } = scan.image;
    const level = Number(byId("viewer-level").value);
    const width = Number(byId("viewer-width").value);
    const lookup = new Uint8ClampedArray(256);
    for (let n = 0; n < 256; n++) {
      const hu = huLow + (n * (huHigh - huLow)) / 255;
      lookup[n] = ((hu - (level - width / 2)) / width) * 255;
    }
    const picture = new ImageData(columns, rows);
    const start = state.slice * rows * columns;
    for (let n = 0; n < rows * columns; n++) {
      const grey = lookup[state.unpacked.grey[start + n]];
      picture.data[4 * n] = picture.data[4 * n + 1] = picture.data[4 * n + 2] = grey;
      picture.data[4 * n + 3] = 255;
    }
    const small = document.createElement("canvas");
    small.width = columns;
    small.height = rows;
    small.getContext("2d").putImageData(picture, 0, 0);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    /* The image was padded to whole blocks: it reaches a little beyond the masks. */
    const right = (canvas.width * columns * scan.factor) / scan.mask.columns;
    const bottom = (canvas.height * rows * scan.factor) / scan.mask.rows;
    context.drawImage(small, 0, 0, right, bottom);
  }

  function drawStrip() {
    const scan = data.scans[state.scan];
    const ratio = window.devicePixelRatio || 1;
    strip.width = Math.max(1, Math.round(strip.clientWidth * ratio));
    strip.height = Math.max(1, Math.round(strip.clientHeight * ratio));
    const context = strip.getContext("2d");
    const series = [[layer().truth.voxels, "--truth"], [layer().predictions[state.run].voxels, "--prediction"]];
    const most = Math.max(1, ...series.flatMap(([values]) => values));
    const inset = 8 * ratio;
    const place = (n) => inset + ((strip.width - 2 * inset) * n) / Math.max(1, scan.slices - 1);
    context.fillStyle = colourOf("--muted");
    context.fillRect(place(state.slice) - ratio / 2, 0, ratio, strip.height);
    for (const [values, name] of series) {
      context.beginPath();
      values.forEach((value, n) => context.lineTo(place(n), strip.height - 2 - (value / most) * (strip.height - 5)));
      context.strokeStyle = colourOf(name);
      context.lineWidth = 1.8 * ratio;
      context.stroke();
    }
  }

  function words() {
    const scan = data.scans[state.scan];
    const [truth, prediction] = [layer().truth, layer().predictions[state.run]];
    byId("viewer-level-text").textContent = byId("viewer-level").value;
    byId("viewer-width-text").textContent = byId("viewer-width").value;
    const volume = (mask) => `${mask.ml[state.slice].toFixed(2)} mL`;
    byId("viewer-status").textContent =
      `Slice ${state.slice + 1} of ${scan.slices}${scan.step > 1 ? ` (1 slice in ${scan.step} is shown)` : ""}: truth ${volume(truth)}, prediction ${volume(prediction)}`;
    canvas.setAttribute("aria-label", `CT slice ${state.slice + 1} of ${scan.slices} of scan ${scan.scan}; arrow keys change the slice`);
    const shown = layer().results[state.run];
    const rows = [["Dice", shown.dice, 3, ""], ["HD95", shown.hd95_mm, 1, " mm"], ["Truth", shown.truth_ml, 2, " mL"], ["Predicted", shown.predicted_ml, 2, " mL"]];
    byId("viewer-numbers").replaceChildren(
      ...rows.filter(([, value]) => value !== null).flatMap(([name, value, digits, unit]) => {
        const [term, number] = [document.createElement("dt"), document.createElement("dd")];
        term.textContent = name;
        number.textContent = value.toFixed(digits) + unit;
        return [term, number];
      }));
  }

  function draw() {
    if (!state.unpacked) return;
    fit();
    const counts = layer();
    const unpacked = state.unpacked.layers[state.layer];
    const context = canvas.getContext("2d");
    drawImage(context);
    const filled = byId("viewer-fill").checked;
    const masks = [
      ["viewer-truth", unpacked.truth, counts.truth, "--truth"],
      ["viewer-prediction", unpacked.predictions[state.run], counts.predictions[state.run], "--prediction"],
    ];
    for (const [toggle, mask, found, name] of masks) {
      if (byId(toggle).checked) drawMask(context, mask, found.voxels[state.slice], colourOf(name), filled);
    }
    drawStrip();
    words();
  }

  function goTo(slice) {
    const last = data.scans[state.scan].slices - 1;
    const wanted = Math.min(last, Math.max(0, slice));
    const moved = wanted !== state.slice;
    state.slice = wanted;
    slider.value = wanted;
    if (moved) draw();
    return moved;
  }

  /* The slice with the most of the truth, or (of a class that is absent) of the prediction. */
  function largest() {
    const [truth, prediction] = [layer().truth.voxels, layer().predictions[state.run].voxels];
    const values = Math.max(...truth) > 0 ? truth : prediction;
    return values.indexOf(Math.max(...values));
  }

  function showClass(index) {
    state.layer = index;
    byId("viewer-class").value = index;
    const voxels = layer().truth.voxels[state.slice] + layer().predictions[state.run].voxels[state.slice];
    if (!voxels) goTo(largest());
    draw();
  }

  async function select(index) {
    load(index);
    state.scan = index;
    const scan = data.scans[index];
    root.querySelectorAll("[data-scan]").forEach((tab) => tab.setAttribute("aria-pressed", String(Number(tab.dataset.scan) === index)));
    state.unpacked = null;
    try {
      const unpacked = await unpack(index);
      if (state.scan !== index) return;
      state.unpacked = unpacked;
    } catch (error) {
      byId("viewer-status").textContent = `This browser cannot unpack the images (${error.message}); one from 2023 or later can.`;
      return;
    }
    slider.max = scan.slices - 1;
    state.slice = largest();
    slider.value = state.slice;
    draw();
    root.dataset.ready = String(index);
  }

  function setWindow(text) {
    [byId("viewer-level").value, byId("viewer-width").value] = text.split(",");
    draw();
  }

  let turned = 0;
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey) return;
    turned += event.deltaMode === 0 ? event.deltaY / 40 : event.deltaY;
    const steps = Math.trunc(turned);
    turned -= steps;
    /* At either end the page scrolls on. */
    const last = data.scans[state.scan].slices - 1;
    const atEnd = event.deltaY > 0 ? state.slice === 0 : state.slice === last;
    if (!atEnd) event.preventDefault();
    if (steps) goTo(state.slice - Math.sign(steps) * Math.min(3, Math.abs(steps)));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const last = data.scans[state.scan].slices - 1;
    const moves = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5, Home: -last, End: last };
    const toggles = { t: "viewer-truth", p: "viewer-prediction", f: "viewer-fill" };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) {
      goTo(state.slice + moves[event.key]);
      event.preventDefault();
    } else if (event.key.toLowerCase() in toggles) {
      byId(toggles[event.key.toLowerCase()]).click();
      event.preventDefault();
    } else if (event.key.toLowerCase() === "c" && byId("viewer-class")) {
      showClass((state.layer + 1) % byId("viewer-class").options.length);
      event.preventDefault();
    }
  });
  canvas.addEventListener("pointermove", (event) => {
    const scan = data.scans[state.scan];
    if (!state.unpacked) return;
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((((event.clientX - box.left) / box.width) * scan.mask.columns) / scan.factor);
    const row = Math.floor((((event.clientY - box.top) / box.height) * scan.mask.rows) / scan.factor);
    const grey = state.unpacked.grey[(state.slice * scan.image.rows + row) * scan.image.columns + column];
    const edge = grey === 0 ? "≤ " : grey === 255 ? "≥ " : "";
    byId("viewer-probe").textContent = grey === undefined ? "" : `${edge}${Math.round(huLow + (grey * (huHigh - huLow)) / 255)} HU`;
  });
  canvas.addEventListener("pointerleave", () => { byId("viewer-probe").textContent = ""; });
  strip.addEventListener("pointerdown", (event) => {
    const share = (event.offsetX - 8) / Math.max(1, strip.clientWidth - 16);
    goTo(Math.round(share * (data.scans[state.scan].slices - 1)));
  });
  slider.addEventListener("input", () => goTo(Number(slider.value)));
  for (const id of ["viewer-truth", "viewer-prediction", "viewer-fill"]) byId(id).addEventListener("change", draw);
  for (const id of ["viewer-level", "viewer-width"]) byId(id).addEventListener("input", draw);
  root.querySelectorAll("[data-window]").forEach((button) => button.addEventListener("click", () => setWindow(button.dataset.window)));
  root.querySelectorAll("[data-scan]").forEach((tab) => tab.addEventListener("click", () => select(Number(tab.dataset.scan))));
  if (byId("viewer-run")) {
    byId("viewer-run").addEventListener("change", (event) => { state.run = Number(event.target.value); draw(); });
  }
  if (byId("viewer-class")) {
    byId("viewer-class").addEventListener("change", (event) => showClass(Number(event.target.value)));
  }
  window.addEventListener("resize", draw);
  /* The middle one first: in the worst there may be nothing to see. */
  select(Math.floor((data.scans.length - 1) / 2));

  return {
    redraw: draw,
    has: (scan) => data.scans.some((entry) => entry.scan === scan),
    open: (scan) => {
      const index = data.scans.findIndex((entry) => entry.scan === scan);
      if (index >= 0) {
        select(index);
        root.scrollIntoView({ block: "nearest" });
        canvas.focus({ preventScroll: true });
      }
      return index >= 0;
    },
  };
})();
