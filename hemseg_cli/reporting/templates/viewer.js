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
  /* Where the cross-hair stands within its slice, in shares of the slice's sides. */
  const point = { x: 0.5, y: 0.5 };
  const sides = { coronal: byId("viewer-coronal"), sagittal: byId("viewer-sagittal") };
  /* What is seen: the canvas shows 1 / zoom of the slice from (x, y) on, in shares of its sides. */
  const view = { zoom: 1, x: 0, y: 0 };
  const mostZoom = 12;
  /* A distance that was drawn, or none: its two ends as shares of the slice's sides, or, in a
     reformat (`view`), in mm. */
  let measured = null;
  let measuredIn = "axial";
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
      context.lineWidth = (1.6 * (window.devicePixelRatio || 1)) / view.zoom;
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

  /* What each stored grey value becomes on the screen in the window that is set. */
  function windowed() {
    const level = Number(byId("viewer-level").value);
    const width = Number(byId("viewer-width").value);
    const lookup = new Uint8ClampedArray(256);
    for (let n = 0; n < 256; n++) {
      const hu = huLow + (n * (huHigh - huLow)) / 255;
      lookup[n] = ((hu - (level - width / 2)) / width) * 255;
    }
    return lookup;
  }

  function drawImage(context) {
    const scan = data.scans[state.scan];
    const { rows, columns } = scan.image;
    const lookup = windowed();
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
    const series = [[layer().predictions[state.run].voxels, "--prediction"]];
    if (byId("viewer-truth")) series.unshift([layer().truth.voxels, "--truth"]);
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
    byId("viewer-distance").textContent = measured ? `${lengthMm(measured).toFixed(1)} mm` : "";
    byId("viewer-level-text").textContent = byId("viewer-level").value;
    byId("viewer-width-text").textContent = byId("viewer-width").value;
    const volume = (mask) => `${mask.ml[state.slice].toFixed(2)} mL`;
    const truthText = byId("viewer-truth") ? `truth ${volume(truth)}, ` : "";
    byId("viewer-status").textContent =
      `Slice ${state.slice + 1} of ${scan.slices}${scan.step > 1 ? ` (1 slice in ${scan.step} is shown)` : ""}: ${truthText}prediction ${volume(prediction)}`;
    canvas.setAttribute("aria-label", `CT slice ${state.slice + 1} of ${scan.slices} of scan ${scan.scan}; arrow keys change the slice`);
    const shown = layer().results[state.run];
    const rows = [["Dice", shown.dice, 3, ""], ["HD95", shown.hd95_mm, 1, " mm"], ["Truth", shown.truth_ml, 2, " mL"], ["Predicted", shown.predicted_ml, 2, " mL"]];
    const texts = rows.filter(([, value]) => value !== null).map(([name, value, digits, unit]) => [name, value.toFixed(digits) + unit]);
    if (shown.interval) texts.push(shown.interval);
    byId("viewer-numbers").replaceChildren(...texts.flatMap(([name, text]) => {
      const [term, number] = [document.createElement("dt"), document.createElement("dd")];
      [term.textContent, number.textContent] = [name, text];
      return [term, number];
    }));
  }

  function draw() {
    if (!state.unpacked) return;
    fit();
    const counts = layer();
    const unpacked = state.unpacked.layers[state.layer];
    const context = canvas.getContext("2d");
    const { width, height } = canvas;
    context.setTransform(
      view.zoom, 0, 0, view.zoom, -view.x * width * view.zoom, -view.y * height * view.zoom,
    );
    drawImage(context);
    const filled = byId("viewer-fill").checked;
    for (const { mask, counts, colour } of masksShown()) {
      drawMask(context, mask, counts.voxels[state.slice], colour, filled);
    }
    drawCrossHair(context);
    if (measuredIn === "axial") drawDistance(context);
    for (const view of Object.keys(sides)) drawReformat(view);
    drawStrip();
    words();
  }

  /* The masks that are switched on, each with its counts and its colour. Where there is no truth,
     all classes together show each in its own colour. */
  function masksShown() {
    const scan = data.scans[state.scan];
    const found = [];
    const add = (index, own) => {
      const [counts, unpacked] = [index ? scan.classes[index - 1] : scan, state.unpacked.layers[index]];
      if (byId("viewer-truth") && byId("viewer-truth").checked) {
        found.push({ mask: unpacked.truth, counts: counts.truth, colour: colourOf("--truth") });
      }
      if (byId("viewer-prediction").checked) {
        found.push({ mask: unpacked.predictions[state.run], counts: counts.predictions[state.run], colour: own || colourOf("--prediction") });
      }
    };
    const colours = data.colours;
    if (!colours.length) add(state.layer);
    else if (state.layer) add(state.layer, colours[state.layer - 1]);
    else scan.classes.forEach((_, n) => add(n + 1, colours[n]));
    return found;
  }

  function drawCrossHair(context) {
    if (!byId("viewer-cross").checked) return;
    const { width, height } = canvas;
    const [x, y] = [point.x * width, point.y * height];
    /* Open around the point, so that nothing of it is hidden. */
    const gap = (14 * (window.devicePixelRatio || 1)) / view.zoom;
    context.beginPath();
    for (const [from, to] of [[[0, y], [x - gap, y]], [[x + gap, y], [width, y]], [[x, 0], [x, y - gap]], [[x, y + gap], [x, height]]]) {
      context.moveTo(...from);
      context.lineTo(...to);
    }
    context.strokeStyle = "rgba(255, 255, 255, 0.45)";
    context.lineWidth = (window.devicePixelRatio || 1) / view.zoom;
    context.stroke();
  }

  const parsed = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));

  function drawReformat(side) {
    const scan = data.scans[state.scan];
    const place = sides[side];
    const box = Reformats.extent(scan, side);
    const stage = place.parentElement;
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    const scale = Math.min(stage.clientWidth / box.width, stage.clientHeight / box.height);
    const [width, height] = [box.width, box.height].map((mm) => Math.max(1, Math.round(mm * scale * ratio)));
    place.style.width = `${width / ratio}px`;
    place.style.height = `${height / ratio}px`;
    const here = { ...point, slice: state.slice };
    const at = Reformats.pointMm(scan, side, here);

    /* The picture stays while only the cross-hair moves within it. */
    const masks = masksShown();
    const drawn = [state.scan, state.layer, state.run, at.across.toFixed(2), width, height, byId("viewer-fill").checked,
      byId("viewer-level").value, byId("viewer-width").value, masks.map((one) => one.colour).join()].join("|");
    if (place.dataset.drawn !== drawn) {
      place.base = Reformats.picture(scan, side, state.unpacked.grey, windowed(),
        masks.map((one) => [one.mask, parsed(one.colour)]), here, width, height, byId("viewer-fill").checked);
      place.dataset.drawn = drawn;
    }
    [place.width, place.height] = [width, height];
    const context = place.getContext("2d");
    context.putImageData(place.base, 0, 0);
    const pixel = (mm) => [((mm.along - box.left) / box.width) * width, (1 - (mm.up - box.bottom) / box.height) * height];
    const [x, y] = pixel(at);
    context.beginPath();
    context.lineWidth = ratio;
    context.strokeStyle = "rgba(255, 255, 255, 0.45)";
    if (byId("viewer-cross").checked) {
      context.moveTo(x, 0);
      context.lineTo(x, height);
    }
    /* The slice that the large picture shows. */
    context.moveTo(0, y);
    context.lineTo(width, y);
    context.stroke();
    if (measured && measuredIn === side) {
      context.beginPath();
      context.moveTo(...pixel(measured[0]));
      context.lineTo(...pixel(measured[1]));
      context.strokeStyle = "#ffe14d";
      context.lineWidth = 2 * ratio;
      context.stroke();
    }
  }

  function lengthMm([from, to]) {
    if (measuredIn !== "axial") return Math.hypot(to.along - from.along, to.up - from.up);
    const scan = data.scans[state.scan];
    const across = (to.x - from.x) * scan.width_mm;
    const down = ((to.y - from.y) * scan.width_mm) / scan.aspect;
    return Math.hypot(across, down);
  }

  function drawDistance(context) {
    if (!measured) return;
    const [from, to] = measured;
    context.beginPath();
    context.moveTo(from.x * canvas.width, from.y * canvas.height);
    context.lineTo(to.x * canvas.width, to.y * canvas.height);
    context.strokeStyle = "#ffe14d";
    context.lineWidth = (2 * (window.devicePixelRatio || 1)) / view.zoom;
    context.stroke();
  }

  /* Where on the slice a pointer is, as shares of the slice's sides. */
  function placeOf(event) {
    const box = canvas.getBoundingClientRect();
    return {
      x: view.x + (event.clientX - box.left) / box.width / view.zoom,
      y: view.y + (event.clientY - box.top) / box.height / view.zoom,
    };
  }

  /* Show the slice from (x, y) on at this zoom, never beyond its edges. */
  function setView(zoom, x, y) {
    view.zoom = Math.min(mostZoom, Math.max(1, zoom));
    const most = 1 - 1 / view.zoom;
    view.x = Math.min(most, Math.max(0, x));
    view.y = Math.min(most, Math.max(0, y));
    /* Where the whole slice is seen, a finger that moves up and down scrolls the page. */
    canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
    draw();
  }

  /* Zoom by a factor; what lies at `place` stays where it is. */
  function zoomBy(factor, place) {
    const zoom = Math.min(mostZoom, Math.max(1, view.zoom * factor));
    const kept = view.zoom / zoom;
    setView(zoom, place.x - (place.x - view.x) * kept, place.y - (place.y - view.y) * kept);
  }

  function middle() {
    return { x: view.x + 0.5 / view.zoom, y: view.y + 0.5 / view.zoom };
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

  /* The middle of what is marked on a slice, or of the slice. */
  function middleOf(slice) {
    const { rows, columns } = data.scans[state.scan].mask;
    const unpacked = state.unpacked.layers[state.layer];
    for (const mask of [unpacked.truth, unpacked.predictions[state.run]]) {
      const set = bits(mask, slice, rows, columns);
      let [count, across, down] = [0, 0, 0];
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          if (!set(row, column)) continue;
          count++;
          across += column + 0.5;
          down += row + 0.5;
        }
      }
      if (count) return { x: across / count / columns, y: down / count / rows };
    }
    return { x: 0.5, y: 0.5 };
  }

  function showClass(index) {
    state.layer = index;
    byId("viewer-class").value = index;
    const voxels = layer().truth.voxels[state.slice] + layer().predictions[state.run].voxels[state.slice];
    if (!voxels) goTo(largest());
    listEverything();
    draw();
  }

  /* A button per lesion of what is shown, that puts the cross-hair into it. */
  function listLesions() {
    const [listed, more] = [layer().lesions[state.run], layer().lesions_left_out[state.run]];
    const place = byId("viewer-lesions");
    place.replaceChildren(...listed.map((lesion) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = `lesion ${lesion.kind}`;
      button.textContent = lesion.text;
      button.addEventListener("click", () => moveTo(lesion));
      return button;
    }));
    if (more) place.append(`and ${more} smaller`);
    byId("viewer-lesions-none").hidden = listed.length > 0;
  }

  /* Put the cross-hair somewhere; a zoomed slice is moved so that it is seen. */
  function moveTo(place) {
    [point.x, point.y] = [place.x, place.y];
    const last = data.scans[state.scan].slices - 1;
    state.slice = Math.min(last, Math.max(0, place.slice));
    slider.value = state.slice;
    const seen = 1 / view.zoom;
    const outside = point.x < view.x || point.x > view.x + seen || point.y < view.y || point.y > view.y + seen;
    if (outside) setView(view.zoom, point.x - seen / 2, point.y - seen / 2);
    else draw();
  }

  /* HU of the mask that is shown as bars, those of the truth as a line. */
  function drawHistogram() {
    const place = byId("viewer-histogram");
    const svgNames = "http://www.w3.org/2000/svg";
    const counts = layer().predictions[state.run].hu;
    const truth = byId("viewer-truth") ? layer().truth.hu : counts.map(() => 0);
    const picture = document.createElementNS(svgNames, "svg");
    picture.setAttribute("viewBox", `0 0 ${counts.length} 20`);
    picture.setAttribute("preserveAspectRatio", "none");
    const most = Math.max(1, ...counts, ...truth);
    counts.forEach((count, n) => {
      const bar = document.createElementNS(svgNames, "rect");
      const height = (20 * count) / most;
      const sides = { x: n, y: 20 - height, width: 0.9, height };
      for (const [name, value] of Object.entries(sides)) bar.setAttribute(name, value);
      picture.append(bar);
    });
    if (truth.some((count) => count > 0)) {
      const line = document.createElementNS(svgNames, "polyline");
      line.setAttribute("points", truth.map((count, n) => `${n + 0.45},${20 - (20 * count) / most}`).join(" "));
      picture.append(line);
    }
    place.replaceChildren(picture);
  }

  /* Which colour is which class, where all are shown together in their own. */
  function listColours() {
    byId("viewer-legend").replaceChildren(...data.colours.map((colour, n) => {
      const entry = document.createElement("span");
      entry.textContent = data.scans[state.scan].classes[n].key;
      entry.style.setProperty("--class", colour);
      return entry;
    }));
  }

  /* What stands beside the pictures for this scan, class and run. */
  function listEverything() {
    listColours();
    listLesions();
    drawHistogram();
  }

  async function select(index) {
    load(index);
    state.scan = index;
    Object.assign(view, { zoom: 1, x: 0, y: 0 });
    canvas.style.touchAction = "pan-y";
    measured = null;
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
    Object.assign(point, middleOf(state.slice));
    listEverything();
    draw();
    root.dataset.ready = String(index);
  }

  function setWindow(text) {
    [byId("viewer-level").value, byId("viewer-width").value] = text.split(",");
    draw();
  }

  let turned = 0;
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey) { /* also two fingers on a touch pad */
      zoomBy(Math.exp(-event.deltaY / 200), placeOf(event));
      event.preventDefault();
      return;
    }
    /* At either end the page scrolls on. */
    const last = data.scans[state.scan].slices - 1;
    const atEnd = event.deltaY > 0 ? state.slice === 0 : state.slice === last;
    if (!atEnd) event.preventDefault();
    /* One notch of a wheel is one slice, however far it says that it turned; a touch pad, which
       reports a few pixels at a time, takes 40 of them. */
    const isNotch = event.deltaMode !== 0 || Math.abs(event.deltaY) >= 40;
    turned = isNotch ? Math.sign(event.deltaY) : turned + event.deltaY / 40;
    const step = Math.trunc(turned);
    turned -= step;
    if (step) goTo(state.slice - Math.sign(step));
  }, { passive: false });

  /* One pointer draws a distance or moves the zoomed slice, two pinch. */
  const pointers = new Map();
  const apart = () => {
    const [one, other] = [...pointers.values()];
    return Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  };
  let pressed = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (!state.unpacked || event.button !== 0) return;
    pointers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
    pressed = event;
    if (pointers.size === 1 && byId("viewer-measure").checked) {
      measuredIn = "axial";
      measured = [placeOf(event), placeOf(event)];
      draw();
    }
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    if (pointers.size === 2) {
      const were = apart();
      pointers.set(event.pointerId, event);
      const [one, other] = [...pointers.values()].map(placeOf);
      const between = { x: (one.x + other.x) / 2, y: (one.y + other.y) / 2 };
      if (were > 0) zoomBy(apart() / were, between);
      return;
    }
    pointers.set(event.pointerId, event);
    if (byId("viewer-measure").checked && measured && measuredIn === "axial") {
      measured[1] = placeOf(event);
      draw();
    } else if (view.zoom > 1) {
      const [from, to] = [placeOf(before), placeOf(event)];
      setView(view.zoom, view.x - (to.x - from.x), view.y - (to.y - from.y));
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      /* Where the pointer was only pressed, not moved, stands the cross-hair. */
      const moved = !pressed || Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) > 4;
      if (name === "pointerup" && !moved && !byId("viewer-measure").checked && pressed.pointerId === event.pointerId) {
        moveTo({ ...placeOf(event), slice: state.slice });
      }
    });
  }
  /* In a reformat a pointer moves the cross-hair, and with it the slice, or draws a distance. */
  for (const [side, place] of Object.entries(sides)) {
    const mmOf = (event) => {
      const box = Reformats.extent(data.scans[state.scan], side);
      const frame = place.getBoundingClientRect();
      return {
        along: box.left + ((event.clientX - frame.left) / frame.width) * box.width,
        up: box.bottom + (1 - (event.clientY - frame.top) / frame.height) * box.height,
      };
    };
    const follow = (event) => {
      if (byId("viewer-measure").checked) {
        measured[1] = mmOf(event);
        draw();
      } else {
        moveTo(Reformats.pointAt(data.scans[state.scan], side, mmOf(event), { ...point, slice: state.slice }));
      }
    };
    place.addEventListener("pointerdown", (event) => {
      if (!state.unpacked || event.button !== 0) return;
      place.setPointerCapture(event.pointerId);
      if (byId("viewer-measure").checked) [measuredIn, measured] = [side, [mmOf(event), mmOf(event)]];
      follow(event);
    });
    place.addEventListener("pointermove", (event) => {
      if (place.hasPointerCapture(event.pointerId)) follow(event);
    });
    /* The wheel goes to the next plane: a pixel of the image across the view. */
    place.addEventListener("wheel", (event) => {
      const { rows, columns } = data.scans[state.scan].image;
      const way = Math.sign(event.deltaY);
      const [name, step] = side === "coronal" ? ["y", 1 / rows] : ["x", 1 / columns];
      const next = point[name] + way * step;
      if (event.ctrlKey || next < 0 || next >= 1) return;
      event.preventDefault();
      point[name] = next;
      draw();
    }, { passive: false });
  }

  canvas.addEventListener("dblclick", () => setView(1, 0, 0));
  canvas.addEventListener("keydown", (event) => {
    const last = data.scans[state.scan].slices - 1;
    const moves = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5, Home: -last, End: last };
    const toggles = { t: "viewer-truth", p: "viewer-prediction", f: "viewer-fill", d: "viewer-measure", x: "viewer-cross" };
    const zooms = { "+": 1.25, "=": 1.25, "-": 0.8, "0": 0 };
    const scanSteps = { n: 1, b: -1 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in zooms) {
      if (zooms[event.key]) zoomBy(zooms[event.key], middle());
      else setView(1, 0, 0);
      event.preventDefault();
    } else if (event.key in moves) {
      goTo(state.slice + moves[event.key]);
      event.preventDefault();
    } else if (event.key.toLowerCase() in toggles) {
      const toggle = byId(toggles[event.key.toLowerCase()]);
      if (toggle) toggle.click();
      event.preventDefault();
    } else if (event.key.toLowerCase() in scanSteps) {
      const next = state.scan + scanSteps[event.key.toLowerCase()];
      if (next >= 0 && next < data.scans.length) select(next);
      event.preventDefault();
    } else if (event.key.toLowerCase() === "c" && byId("viewer-class")) {
      showClass((state.layer + 1) % byId("viewer-class").options.length);
      event.preventDefault();
    }
  });
  canvas.addEventListener("pointermove", (event) => {
    const scan = data.scans[state.scan];
    if (!state.unpacked) return;
    const place = placeOf(event);
    const column = Math.floor((place.x * scan.mask.columns) / scan.factor);
    const row = Math.floor((place.y * scan.mask.rows) / scan.factor);
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
  for (const id of ["viewer-truth", "viewer-prediction", "viewer-fill", "viewer-cross"]) {
    if (byId(id)) byId(id).addEventListener("change", draw);
  }
  byId("viewer-measure").addEventListener("change", () => {
    measured = null;
    draw();
  });
  for (const id of ["viewer-level", "viewer-width"]) byId(id).addEventListener("input", draw);
  root.querySelectorAll("[data-window]").forEach((button) => button.addEventListener("click", () => setWindow(button.dataset.window)));
  root.querySelectorAll("[data-scan]").forEach((tab) => tab.addEventListener("click", () => select(Number(tab.dataset.scan))));
  if (byId("viewer-run")) {
    byId("viewer-run").addEventListener("change", (event) => {
      state.run = Number(event.target.value);
      listEverything();
      draw();
    });
  }
  if (byId("viewer-class")) {
    byId("viewer-class").addEventListener("change", (event) => showClass(Number(event.target.value)));
  }
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  /* The middle one first: in the worst there may be nothing to see. */
  select(byId("viewer-truth") ? Math.floor((data.scans.length - 1) / 2) : 0);

  return {
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
