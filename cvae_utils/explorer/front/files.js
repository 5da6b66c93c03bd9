// What can be taken home: a label map as NIfTI, drawings as SVG, pictures that move as GIF.

/** A label map (rows y, columns x) as a NIfTI-1 file, axes L and P as in ACDC; pixels of mm. */
function nifti(labels, side, mm, description) {
  const buffer = new ArrayBuffer(352 + labels.length), view = new DataView(buffer);
  const bytes = {Uint8: 1, Int16: 2, Float32: 4};
  const set = (kind, start, ...values) => values.forEach((value, i) =>
    view[`set${kind}`](start + i * bytes[kind], value, true));
  const text = (start, words) => set("Uint8", start, ...[...words].map((c) => c.charCodeAt(0)));
  view.setInt32(0, 348, true);
  set("Int16", 40, 3, side, side, 1, 1, 1, 1, 1);    // dim
  set("Int16", 70, 2, 8);                            // uint8
  set("Float32", 76, 1, mm, mm, 1, 0, 0, 0, 0);      // pixdim
  set("Float32", 108, 352, 1, 0);                    // where the data begin; scale 1
  view.setUint8(123, 2);                             // mm
  text(148, description.slice(0, 79));
  set("Int16", 252, 0, 2);                           // sform: aligned
  set("Float32", 280, -mm, 0, 0, 0, 0, -mm, 0, 0, 0, 0, 1, 0);
  text(344, "n+1");
  new Uint8Array(buffer, 352).set(labels);           // x runs fastest
  return new Uint8Array(buffer);
}

async function gzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Frames (ImageData, all of one size) as an endless GIF; ms: how long each is shown. */
function gif(frames, ms) {
  const {width, height} = frames[0], {palette, indexOf} = commonColours(frames);
  const out = [], short = (value) => out.push(value & 255, value >> 8);
  const words = (text) => out.push(...[...text].map((c) => c.charCodeAt(0)));
  words("GIF89a");
  short(width);
  short(height);
  out.push(0xf7, 0, 0);                              // a palette of 256 colours
  for (let i = 0; i < 256; i++) out.push(...(palette[i] ?? [0, 0, 0]));
  out.push(0x21, 0xff, 11);
  words("NETSCAPE2.0");
  out.push(3, 1, 0, 0, 0);                           // for ever
  for (const {data} of frames) {
    out.push(0x21, 0xf9, 4, 0);
    short(Math.round(ms / 10));
    out.push(0, 0, 0x2c);
    [0, 0, width, height].forEach(short);
    out.push(0, 8);
    const coded = lzw(indexOf(data));
    for (let i = 0; i < coded.length; i += 255) {
      const block = coded.slice(i, i + 255);
      out.push(block.length, ...block);
    }
    out.push(0);
  }
  out.push(0x3b);
  return new Uint8Array(out);
}

/** The 256 most frequent colours, of 5, 6 and 5 bits, and which of them each pixel is like. */
function commonColours(frames) {
  const key = (d, i) => d[i] >> 3 << 11 | d[i + 1] >> 2 << 5 | d[i + 2] >> 3, counts = new Map();
  for (const {data} of frames) {
    for (let i = 0; i < data.length; i += 4) {
      const k = key(data, i), known = counts.get(k);
      if (known) known.count++;
      else counts.set(k, {count: 1, colour: [data[i], data[i + 1], data[i + 2]]});
    }
  }
  const palette = [...counts.values()].sort((a, b) => b.count - a.count).slice(0, 256)
    .map(({colour}) => colour);
  const nearest = new Map([...counts].map(([k, {colour: [r, g, b]}]) => {
    let best = 0, least = Infinity;
    palette.forEach(([pr, pg, pb], i) => {
      const distance = (r - pr) ** 2 + (g - pg) ** 2 + (b - pb) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return [k, best];
  }));
  return {palette, indexOf: (data) => {
    const indices = new Uint8Array(data.length / 4);
    for (let p = 0; p < indices.length; p++) indices[p] = nearest.get(key(data, 4 * p));
    return indices;
  }};
}

/** Lempel, Ziv and Welch as GIF has it, of bytes. */
function lzw(indices) {
  const CLEAR = 256, END = 257, out = [];
  let codes = new Map(), size = 9, free = 258, bits = 0, held = 0, prefix = indices[0];
  const emit = (code) => {
    held |= code << bits;
    bits += size;
    for (; bits >= 8; bits -= 8, held >>= 8) out.push(held & 255);
  };
  emit(CLEAR);
  for (let i = 1; i < indices.length; i++) {
    const key = prefix << 8 | indices[i], known = codes.get(key);
    if (known !== undefined) {
      prefix = known;
      continue;
    }
    emit(prefix);
    if (free < 4096) {
      if (free === 1 << size) size++;
      codes.set(key, free++);
    } else {
      emit(CLEAR);
      codes = new Map();
      size = 9;
      free = 258;
    }
    prefix = indices[i];
  }
  emit(prefix);
  emit(END);
  if (bits) out.push(held & 255);
  return out;
}
