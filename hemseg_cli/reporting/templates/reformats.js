"use strict";
/* Coronal and sagittal reformats of a packed scan, at true aspect: `places` says where each slice
   lies along the normal (up_mm) and how far it is moved within its plane (right_mm, down_mm), so
   that a tilted gantry's slices are sheared right, and uneven ones lie where they were taken. */
const Reformats = (() => {
  /* Of each view: which side of a slice it shows along its width, and across which it cuts. */
  const axes = {
    coronal: { along: "columns", alongMm: "right_mm", across: "rows", acrossMm: "down_mm", wide: "width_mm", deep: "height_mm" },
    sagittal: { along: "rows", alongMm: "down_mm", across: "columns", acrossMm: "right_mm", wide: "height_mm", deep: "width_mm" },
  };

  /* The part of the plane that holds all slices, mm: along from left, up from below. */
  function extent(scan, view) {
    const { alongMm, wide } = axes[view];
    const shifts = scan.places[alongMm];
    const up = scan.places.up_mm;
    const last = up.length - 1;
    const before = last > 0 ? (up[1] - up[0]) / 2 : 2.5;
    const after = last > 0 ? (up[last] - up[last - 1]) / 2 : 2.5;
    const left = Math.min(...shifts);
    return { left, width: Math.max(...shifts) + scan[wide] - left, bottom: up[0] - before, height: up[last] - up[0] + before + after };
  }

  /* The slice nearest to a height, and its neighbour on the other side with its share. */
  function slicesAt(up, mm) {
    let above = 0;
    while (above < up.length && up[above] < mm) above++;
    if (above === 0) return { nearest: 0, low: 0, high: 0, share: 0 };
    if (above === up.length) return { nearest: above - 1, low: above - 1, high: above - 1, share: 0 };
    const share = (mm - up[above - 1]) / (up[above] - up[above - 1]);
    return { nearest: share < 0.5 ? above - 1 : above, low: above - 1, high: above, share };
  }

  /* Where the cross-hair stands, mm: along the view and across it, at the slice's own height. */
  function pointMm(scan, view, point) {
    const { alongMm, acrossMm, wide, deep, along } = axes[view];
    const shares = along === "columns" ? [point.x, point.y] : [point.y, point.x];
    return {
      along: shares[0] * scan[wide] + scan.places[alongMm][point.slice],
      across: shares[1] * scan[deep] + scan.places[acrossMm][point.slice],
      up: scan.places.up_mm[point.slice],
    };
  }

  /* The point (shares of its slice, and the slice) under a place of the view, mm. */
  function pointAt(scan, view, mm, old) {
    const { alongMm, acrossMm, wide, deep, along } = axes[view];
    const slice = slicesAt(scan.places.up_mm, mm.up).nearest;
    const clamp = (share) => Math.min(0.999, Math.max(0, share));
    const across = pointMm(scan, view, old).across;
    const first = clamp((mm.along - scan.places[alongMm][slice]) / scan[wide]);
    const second = clamp((across - scan.places[acrossMm][slice]) / scan[deep]);
    return along === "columns" ? { x: first, y: second, slice } : { x: second, y: first, slice };
  }

  /* Reading one voxel of a slice by mm in its plane: the grey value, or the bits of a mask. */
  function reader(scan, view) {
    const { along, alongMm, acrossMm, wide, deep } = axes[view];
    const { rows, columns } = scan.image;
    const turn = along === "columns";
    /* The image was padded to whole blocks: in its pixels a side is mask pixels / factor long. */
    const wideIn = scan.mask[along] / scan.factor;
    const deepIn = scan.mask[turn ? "rows" : "columns"] / scan.factor;
    return {
      grey(grey, slice, mm, across) {
        const a = ((mm - scan.places[alongMm][slice]) / scan[wide]) * wideIn;
        const b = Math.floor(((across - scan.places[acrossMm][slice]) / scan[deep]) * deepIn);
        if (a < 0 || a >= wideIn || b < 0 || b >= deepIn) return 0;
        /* Between two pixels along the view. */
        const from = Math.max(0, Math.floor(a - 0.5));
        const to = Math.min(Math.ceil(wideIn) - 1, from + 1);
        const share = Math.min(1, Math.max(0, a - 0.5 - from));
        const at = (n) => grey[(slice * rows + (turn ? b : n)) * columns + (turn ? n : b)];
        return at(from) * (1 - share) + at(to) * share;
      },
      bit(mask, slice, mm, across) {
        const a = Math.floor(((mm - scan.places[alongMm][slice]) / scan[wide]) * scan.mask[along]);
        const b = Math.floor(((across - scan.places[acrossMm][slice]) / scan[deep]) * scan.mask[turn ? "rows" : "columns"]);
        const [row, column] = turn ? [b, a] : [a, b];
        if (row < 0 || column < 0 || row >= scan.mask.rows || column >= scan.mask.columns) return 0;
        const place = (slice * scan.mask.rows + row) * scan.mask.columns + column;
        return (mask[place >> 3] >> (7 - (place & 7))) & 1;
      },
    };
  }

  /* The picture of a view: `masks` are [packed bits, [red, green, blue]], drawn as outlines. */
  function picture(scan, view, grey, lookup, masks, point, width, height, filled) {
    const box = extent(scan, view);
    const { across } = pointMm(scan, view, point);
    const read = reader(scan, view);
    const image = new ImageData(width, height);
    const pixel = box.width / width;
    const levels = Array.from({ length: height }, (_, row) => slicesAt(scan.places.up_mm, box.bottom + box.height * (1 - (row + 0.5) / height)));
    for (let row = 0; row < height; row++) {
      const { low, high, share } = levels[row];
      for (let column = 0; column < width; column++) {
        const mm = box.left + (column + 0.5) * pixel;
        let value = read.grey(grey, low, mm, across);
        if (share > 0) value = value * (1 - share) + read.grey(grey, high, mm, across) * share;
        const place = 4 * (row * width + column);
        image.data[place] = image.data[place + 1] = image.data[place + 2] = lookup[Math.round(value)];
        image.data[place + 3] = 255;
      }
    }

    /* A pixel of a mask is on its outline where a pixel next to it is outside. */
    const inside = new Uint8Array(width * height);
    for (const [mask, colour] of masks) {
      for (let row = 0; row < height; row++) {
        for (let column = 0; column < width; column++) {
          inside[row * width + column] = read.bit(mask, levels[row].nearest, box.left + (column + 0.5) * pixel, across);
        }
      }
      for (let n = 0; n < inside.length; n++) {
        if (!inside[n]) continue;
        const edge = !inside[n - 1] || !inside[n + 1] || !inside[n - width] || !inside[n + width];
        if (!edge && !filled) continue;
        const weight = edge ? 1 : 0.38;
        for (let channel = 0; channel < 3; channel++) {
          image.data[4 * n + channel] = image.data[4 * n + channel] * (1 - weight) + colour[channel] * weight;
        }
      }
    }
    return image;
  }

  return { extent, pointMm, pointAt, picture };
})();
