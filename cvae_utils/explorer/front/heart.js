// One heart: scores at any size, label map, smooth outlines, the rules of anatomy, measures.

/** Weights of the four points around each new one, as torch's bicubic has them (a = -0.75). */
function cubicWeights(from, to) {
  const weights = new Float32Array(4 * to), places = new Int32Array(4 * to), a = -0.75;
  const near = (t) => ((a + 2) * t - (a + 3)) * t * t + 1;
  const far = (t) => ((a * t - 5 * a) * t + 8 * a) * t - 4 * a;
  for (let i = 0; i < to; i++) {
    const at = (i + 0.5) * from / to - 0.5, first = Math.floor(at), t = at - first;
    [far(t + 1), near(t), near(1 - t), far(2 - t)].forEach((weight, k) => {
      weights[4 * i + k] = weight;
      places[4 * i + k] = Math.max(0, Math.min(from - 1, first + k - 1));
    });
  }
  return {weights, places};
}

const cubicKept = new Map();

/** Scores of another size, bicubic between their points. */
function enlarge({values, side}, size) {
  if (side === size) return {values, side};
  const name = `${side} ${size}`;
  if (!cubicKept.has(name)) cubicKept.set(name, cubicWeights(side, size));
  const {weights, places} = cubicKept.get(name), channels = values.length / side ** 2;
  const larger = new Float32Array(channels * size * size), row = new Float32Array(side);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < size; y++) {
      const above = [0, 1, 2, 3].map((k) => (c * side + places[4 * y + k]) * side);
      const [a, b, d, e] = weights.subarray(4 * y, 4 * y + 4);
      for (let x = 0; x < side; x++) {
        row[x] = a * values[above[0] + x] + b * values[above[1] + x]
               + d * values[above[2] + x] + e * values[above[3] + x];
      }
      const to = (c * size + y) * size;
      for (let x = 0, k = 0; x < size; x++, k += 4) {
        larger[to + x] = weights[k] * row[places[k]] + weights[k + 1] * row[places[k + 1]]
          + weights[k + 2] * row[places[k + 2]] + weights[k + 3] * row[places[k + 3]];
      }
    }
  }
  return {values: larger, side: size};
}

/** The class of the highest score at each pixel, Uint8Array (side * side). */
function likeliest({values, side}) {
  const count = side * side, labels = new Uint8Array(count), classes = values.length / count;
  for (let i = 0; i < count; i++) {
    let best = 0, highest = values[i];
    for (let c = 1, k = i + count; c < classes; c++, k += count) {
      if (values[k] > highest) {
        best = c;
        highest = values[k];
      }
    }
    labels[i] = best;
  }
  return labels;
}

// ---------------------------------------------------------------- outlines

// What is drawn over what: a class is part of the region of each layer that names it.
const LAYERS = [["RV", [1]], ["MYO", [2, 3]], ["LV", [3]]];

/** Outlines of each structure, {name: loops}; a loop is [x0, y0, x1, y1, ...] in shares of the
 *  picture's side. Between two points of the grid an outline is where the scores are equal. */
function outlines(scores) {
  const labels = likeliest(scores);
  return Object.fromEntries(LAYERS.map(([name, classes]) =>
    [name, contours(scores, labels, new Set(classes))]));
}

/** Marching squares around the pixels of some classes. Outside the picture is background. */
function contours({values, side}, labels, inside) {
  const count = side * side, classes = values.length / count;
  const isIn = Array.from({length: classes}, (_, c) => inside.has(c));
  const within = (x, y) => x >= 0 && y >= 0 && x < side && y < side && isIn[labels[y * side + x]];
  /** How far the best class inside is above the best one outside. */
  const margin = (x, y) => {
    if (x < 0 || y < 0 || x >= side || y >= side) return -1;
    let own = -Infinity, other = -Infinity;
    for (let c = 0, i = y * side + x; c < classes; c++, i += count) {
      if (isIn[c]) own = Math.max(own, values[i]);
      else other = Math.max(other, values[i]);
    }
    return own - other;
  };
  // A crossing has the number of its edge: 2 * point for the edge to the right, + 1 for downwards.
  const width = side + 2, next = new Map();
  const number = (x, y, down) => 2 * ((y + 1) * width + x + 1) + down;
  for (let y = -1; y < side; y++) {
    for (let x = -1; x < side; x++) {
      const corners = within(x, y) + 2 * within(x + 1, y) + 4 * within(x + 1, y + 1)
        + 8 * within(x, y + 1);
      if (corners === 0 || corners === 15) continue;
      const edges = [number(x, y, 0), number(x + 1, y, 1), number(x, y + 1, 0), number(x, y, 1)];
      for (const [from, to] of WAYS[corners]) next.set(edges[from], edges[to]);
    }
  }
  const point = (edge) => {
    const down = edge % 2, at = (edge - down) / 2;
    const x = at % width - 1, y = (at - at % width) / width - 1;
    const a = margin(x, y), b = margin(x + 1 - down, y + down), share = a / (a - b || 1);
    return [(x + 0.5 + (1 - down) * share) / side, (y + 0.5 + down * share) / side];
  };
  const loops = [];
  for (const start of next.keys()) {
    const loop = [];
    for (let edge = start; next.has(edge);) {
      loop.push(...point(edge));
      const follows = next.get(edge);
      next.delete(edge);
      edge = follows;
    }
    if (loop.length > 4) loops.push(loop);
  }
  return loops;
}

// From edge to edge (0 top, 1 right, 2 bottom, 3 left) with the inside on one hand, for each choice
// of corners inside (1 top left, 2 top right, 4 bottom right, 8 bottom left). Two opposite corners
// inside are one region, as in eight-connected components.
const WAYS = [[], [[3, 0]], [[0, 1]], [[3, 1]], [[1, 2]], [[3, 2], [1, 0]], [[0, 2]], [[3, 2]],
              [[2, 3]], [[2, 0]], [[0, 3], [2, 1]], [[2, 1]], [[1, 3]], [[1, 0]], [[0, 3]], []];

/** Loops as the path of an SVG, in units of `size`, or for a canvas. */
function pathOf(loops, size = 1, digits = 4) {
  return loops.map((loop) => {
    const points = [];
    for (let i = 0; i < loop.length; i += 2) {
      points.push(`${(loop[i] * size).toFixed(digits)} ${(loop[i + 1] * size).toFixed(digits)}`);
    }
    return `M${points.join("L")}Z`;
  }).join("");
}

// ---------------------------------------------------------------- anatomy

const [BACKGROUND, RV, MYO, LV] = [0, 1, 2, 3];
const FOUR = [[1, 0], [-1, 0], [0, 1], [0, -1]];
const EIGHT = [...FOUR, [1, 1], [1, -1], [-1, 1], [-1, -1]];

/** Number of connected parts of a mask (side * side). */
function parts(mask, side, neighbours) {
  const seen = new Uint8Array(mask.length), waiting = [];
  let count = 0;
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || seen[start]) continue;
    count++;
    seen[start] = 1;
    waiting.push(start);
    while (waiting.length) {
      const at = waiting.pop(), x = at % side, y = (at - x) / side;
      for (const [dx, dy] of neighbours) {
        const nx = x + dx, ny = y + dy, to = ny * side + nx;
        if (nx < 0 || ny < 0 || nx >= side || ny >= side || seen[to] || !mask[to]) continue;
        seen[to] = 1;
        waiting.push(to);
      }
    }
  }
  return count;
}

/** The rules of anatomy that a label map breaks, in words: shape_metrics.broken_rules. */
function brokenRules(labels, side) {
  // A frame of background, so that a structure at the border still has an outside.
  const wide = side + 2, framed = new Uint8Array(wide * wide);
  for (let y = 0; y < side; y++) {
    framed.set(labels.subarray(y * side, (y + 1) * side), (y + 1) * wide + 1);
  }
  const mask = (...classes) => framed.map((label) => classes.includes(label));
  const touches = (from, to, neighbours) => framed.some((label, at) => label === from
    && neighbours.some(([dx, dy]) => framed[at + dy * wide + dx] === to));
  const has = (label) => framed.includes(label);
  const broken = [["LV", LV], ["MYO", MYO]].filter(([, label]) => !has(label))
    .map(([name]) => `no ${name}`);
  for (const [name, label] of [["RV", RV], ["MYO", MYO], ["LV", LV]]) {
    const count = parts(mask(label), wide, EIGHT);
    if (count > 1) broken.push(`${name} in ${count} parts`);
  }
  for (const [name, classes] of [["LV", [LV]], ["RV", [RV]], ["MYO and LV", [MYO, LV]]]) {
    const outside = mask(...classes).map((inside) => !inside);
    if (parts(outside, wide, FOUR) > 1) broken.push(`hole in ${name}`);
  }
  if (touches(LV, RV, FOUR)) broken.push("LV touches RV");
  if (touches(LV, BACKGROUND, FOUR)) broken.push("LV touches background");
  if (has(RV) && !touches(RV, MYO, EIGHT)) broken.push("RV apart from MYO");
  return broken;
}

/** Areas of RV, MYO and LV in cm2, and the thickness of MYO as a ring of circles in mm, NaN without
 *  a ring; cropMm: side of the picture. */
function measure(labels, side, cropMm) {
  const pixels = [0, 0, 0, 0];
  for (const label of labels) pixels[label]++;
  const [, rv, myo, lv] = pixels.map((count) => count / side ** 2);
  const wall = lv && myo ? Math.sqrt((lv + myo) / Math.PI) - Math.sqrt(lv / Math.PI) : NaN;
  const square = (cropMm / 10) ** 2;
  return {RV: rv * square, MYO: myo * square, LV: lv * square, wall: wall * cropMm};
}

/** A label map of crop mm a side as it lies in a frame of so many mm, on a grid of its own size. */
function inFrame({labels, side}, crop, frame) {
  const from = (i) => Math.floor(((i + 0.5) / side - 0.5) * side * frame / crop + side / 2);
  return Uint8Array.from({length: side * side}, (_, k) => {
    const x = from(k % side), y = from(Math.floor(k / side));
    return x >= 0 && y >= 0 && x < side && y < side ? labels[y * side + x] : BACKGROUND;
  });
}

/** Mean Dice over the classes present in either label map; NaN for two empty ones. */
function dice(a, b) {
  const scores = [];
  for (const label of [RV, MYO, LV]) {
    let both = 0, total = 0;
    for (let i = 0; i < a.length; i++) {
      both += a[i] === label && b[i] === label;
      total += (a[i] === label) + (b[i] === label);
    }
    if (total) scores.push(2 * both / total);
  }
  return scores.reduce((sum, score) => sum + score, 0) / scores.length;
}
