// What is drawn on a canvas: hearts, outlines over them, their millimetres, words and lines.

const INK = "#222", GREY = "#595959", LINE = "#ccc", ACTIVE = "#0072B2", INACTIVE = "#999";
const CHOSEN = "#D55E00";
const BAR_MM = 20;

/** A cleared canvas as sharp as the screen; sizes in CSS pixels. */
function surface(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const w = canvas.clientWidth, h = canvas.clientHeight;
  const wide = Math.round(w * ratio), high = Math.round(h * ratio);
  if (canvas.width !== wide) canvas.width = wide;
  if (canvas.height !== high) canvas.height = high;
  const ctx = canvas.getContext("2d");
  const font = Math.max(11, 0.86 * parseFloat(getComputedStyle(canvas).fontSize));
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, w, h);
  ctx.font = `${font}px system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  return {ctx, w, h, font};
}

/** A white canvas for a file. */
function sheet(width, height, font) {
  const canvas = Object.assign(document.createElement("canvas"), {width, height});
  const ctx = canvas.getContext("2d", {willReadFrequently: true});
  ctx.fillStyle = "white";
  ctx.fillRect(0, 0, width, height);
  ctx.font = `${font}px system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  return {canvas, ctx};
}

function text(ctx, words, x, y, {align = "center", colour = GREY, turned = false} = {}) {
  ctx.save();
  ctx.translate(x, y);
  if (turned) ctx.rotate(-Math.PI / 2);
  ctx.textAlign = align;
  ctx.fillStyle = colour;
  ctx.fillText(words, 0, 0);
  ctx.restore();
}

function line(ctx, points, colour, width) {
  ctx.beginPath();
  points.forEach(([x, y], k) => k ? ctx.lineTo(x, y) : ctx.moveTo(x, y));
  ctx.strokeStyle = colour;
  ctx.lineWidth = width;
  ctx.stroke();
}

/** From here on, the side of a picture of so many mm is 1, in the middle of a square that is
 *  frameMm wide. Returns the length of a pixel. */
function into(ctx, x, y, side, mm, frameMm) {
  ctx.beginPath();
  ctx.rect(x, y, side, side);
  ctx.clip();
  const zoom = mm / frameMm;
  ctx.translate(x + side * (1 - zoom) / 2, y + side * (1 - zoom) / 2);
  ctx.scale(zoom * side, zoom * side);
  return 1 / (zoom * side);
}

/** A heart in its colours, by class, on a square of a canvas. crop: side of its picture in mm;
 *  frame: of the square; image: an MR slice behind it, of the same crop. */
function paint(ctx, colours, heart, x, y, side, {crop, frame, pixels = false, image = null}) {
  ctx.save();
  ctx.fillStyle = colours.BACKGROUND;
  ctx.fillRect(x, y, side, side);
  ctx.lineWidth = into(ctx, x, y, side, crop, frame);
  if (image) {
    ctx.drawImage(image, 0, 0, 1, 1);
    ctx.globalAlpha = 0.45;
  }
  if (pixels) {
    const {canvas: small, ctx: grid} = sheet(heart.side, heart.side, 1);
    const painted = grid.createImageData(heart.side, heart.side);
    const rgb = Object.values(colours).map(
      (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)));
    heart.labels.forEach((label, i) =>
      painted.data.set([...rgb[label], image && !label ? 0 : 255], 4 * i));
    grid.putImageData(painted, 0, 0);
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(small, 0, 0, 1, 1);
  } else {
    for (const [name] of LAYERS) {
      ctx.fillStyle = ctx.strokeStyle = colours[name];
      ctx.fill(pathFor(heart, name), "evenodd");
      if (!image) ctx.stroke(pathFor(heart, name));   // closes the hairline between two neighbours
    }
  }
  ctx.restore();
}

/** Outlines of a structure in a picture of side 1; kept, since a strip is drawn in every frame. */
function pathFor(heart, name) {
  heart.paths ??= {};
  return heart.paths[name] ??= new Path2D(pathOf(heart.loops[name], 1, 5));
}

/** Outlines of another heart over this one, both in millimetres. */
function trace(ctx, heart, x, y, side, {crop, frame, colour, dash = []}) {
  ctx.save();
  const pixel = into(ctx, x, y, side, crop, frame);
  for (const [style, width] of [["rgb(255 255 255 / 0.8)", 4], [colour, 1.6]]) {
    ctx.strokeStyle = style;
    ctx.lineWidth = width * pixel;
    ctx.setLineDash(style === colour ? dash.map((length) => length * pixel) : []);
    for (const [name] of LAYERS) ctx.stroke(pathFor(heart, name));
  }
  ctx.restore();
}

/** A bar of 20 mm in the corner below, and the names of the colours in that above. */
function legend(ctx, colours, x, y, side, frame, font) {
  const bar = side * BAR_MM / frame, left = x + 0.9 * font, below = y + side - 0.9 * font;
  ctx.fillStyle = "rgb(255 255 255 / 0.8)";
  ctx.fillRect(left - 0.4 * font, below - 1.7 * font, Math.max(bar, 3.4 * font) + 0.8 * font,
               2.2 * font);
  line(ctx, [[left, below], [left + bar, below]], INK, font / 5);
  text(ctx, `${BAR_MM} mm`, left, below - 0.9 * font, {align: "left", colour: INK});
  LAYERS.forEach(([name], k) => {
    const middle = y + (1.1 + 1.4 * k) * font;
    ctx.fillStyle = "rgb(255 255 255 / 0.8)";
    ctx.fillRect(left - 0.4 * font, middle - 0.7 * font, 5 * font, 1.4 * font);
    ctx.fillStyle = colours[name];
    ctx.fillRect(left, middle - 0.4 * font, 0.8 * font, 0.8 * font);
    text(ctx, name, left + 1.2 * font, middle, {align: "left", colour: INK});
  });
}

/** Hearts in a row, with words under each and, in lines, what they were made from, on a canvas.
 *  hearts: {heart, crop, words}. */
function stripPicture(colours, hearts, title, foot, {frame, pixels}, side = 360, gap = 12,
                      font = 28) {
  const top = 2 * font, {canvas, ctx} = sheet(hearts.length * (side + gap) + gap,
                                              top + side + 3.6 * font, font);
  text(ctx, title, gap, font, {align: "left", colour: INK});
  hearts.forEach(({heart, crop, words}, k) => {
    const x = gap + k * (side + gap);
    paint(ctx, colours, heart, x, top, side, {crop, frame, pixels});
    if (!k) legend(ctx, colours, x, top, side, frame, 0.8 * font);
    text(ctx, words + (heart.broken.length ? " \u2715" : ""), x + side / 2,
         top + side + font, {colour: heart.broken.length ? CHOSEN : INK});
  });
  ctx.font = `${0.5 * font}px system-ui, sans-serif`;
  foot.forEach((line, k) =>
    text(ctx, line, gap, top + side + (2.2 + 0.8 * k) * font, {align: "left"}));
  return canvas;
}

/** The same as SVG. */
function stripSvg(colours, hearts, title, foot, frame, side = 200, gap = 8, font = 16) {
  const step = side + gap, top = 2 * font, bar = side * BAR_MM / frame, small = 0.6 * font;
  const escaped = (words) => words.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
  const drawn = ({loops}, name) => `<path fill="${colours[name]}" stroke="${colours[name]}" `
    + `stroke-width="0.5" fill-rule="evenodd" d="${pathOf(loops[name], side, 2)}"/>`;
  const zoomed = (zoom) => `translate(${side * (1 - zoom) / 2} ${side * (1 - zoom) / 2}) `
    + `scale(${zoom})`;
  const words = (line, x, y, size, anchor = "start") => `<text x="${x}" y="${y}" `
    + `font-size="${size}" text-anchor="${anchor}">${escaped(line)}</text>`;
  const tiles = hearts.map(({heart, crop, words: under}, k) =>
    `<svg x="${gap + k * step}" y="${top}" width="${side}" height="${side}">`
    + `<rect width="${side}" height="${side}" fill="${colours.BACKGROUND}"/>`
    + `<g transform="${zoomed(crop / frame)}">`
    + `${LAYERS.map(([name]) => drawn(heart, name)).join("")}</g></svg>`
    + words(under + (heart.broken.length ? " \u2715" : ""), gap + k * step + side / 2,
            top + side + 1.2 * font, font, "middle"));
  const key = LAYERS.map(([name], k) => `<rect x="${2 * gap}" y="${top + gap + 1.4 * k * small}" `
    + `width="${small}" height="${small}" fill="${colours[name]}"/>`
    + words(name, 2 * gap + 1.4 * small, top + gap + (1.4 * k + 0.9) * small, small));
  return `<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" `
    + `viewBox="0 0 ${hearts.length * step + gap} ${top + side + 3.4 * font}">`
    + `<title>${escaped(title)}</title>${words(title, gap, 1.2 * font, font)}${tiles.join("")}`
    + `${key.join("")}<path d="M${2 * gap} ${top + side - 8}h${bar.toFixed(2)}" stroke="${INK}" `
    + `stroke-width="3"/>${words(`${BAR_MM} mm`, 2 * gap, top + side - 14, 0.8 * font)}`
    + `${foot.map((line, k) => words(line, gap, top + side + (2.2 + 0.8 * k) * font, 0.5 * font))
      .join("")}</svg>`;
}
