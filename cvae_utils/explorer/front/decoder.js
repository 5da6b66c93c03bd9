// Arrays from base64, and the decoder of a run: z -> class scores.

function bytes(base64) {
  const text = atob(base64), found = new Uint8Array(text.length);
  // In a loop, because Uint8Array.from calls a function for each of some million bytes.
  for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
  return found;
}

function floats(base64) {
  return new Float32Array(bytes(base64).buffer);
}

/** base64 of float16 -> Float32Array. */
function halves(base64) {
  const packed = new Uint16Array(bytes(base64).buffer);
  const values = new Float32Array(packed.length);
  for (let i = 0; i < packed.length; i++) {
    const sign = packed[i] & 0x8000 ? -1 : 1;
    const exponent = (packed[i] >> 10) & 31, fraction = packed[i] & 1023;
    values[i] = sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15)
                                 : fraction * 2 ** -24);
  }
  return values;
}

// A picture of C channels is C planes of (side + 2)^2 values: the border of zeros is the padding
// of the convolutions, so that their inner loops need not ask where they are.

const ACTIVATIONS = {
  none: (x) => x,
  ELU: (x) => x > 0 ? x : Math.exp(x) - 1,
  SiLU: (x) => x / (1 + Math.exp(-x)),
};

/** Numbers -> numbers. weight: (out, in). */
function linear(input, weight, bias, output, activate) {
  const count = input.length;
  for (let o = 0; o < output.length; o++) {
    let sum = bias[o];
    for (let i = 0; i < count; i++) sum += weight[o * count + i] * input[i];
    output[o] = activate(sum);
  }
}

/** x + linear(SiLU(linear(layer norm(x)))), numbers -> numbers. */
function residual(input, [scale, shift, weight1, bias1, weight2, bias2], output) {
  const mean = input.reduce((sum, x) => sum + x, 0) / input.length;
  const variance = input.reduce((sum, x) => sum + (x - mean) ** 2, 0) / input.length;
  const normal = input.map((x, i) =>
    (x - mean) / Math.sqrt(variance + 1e-5) * scale[i] + shift[i]);
  const hidden = new Float32Array(input.length);
  linear(normal, weight1, bias1, hidden, ACTIVATIONS.SiLU);
  linear(hidden, weight2, bias2, output, ACTIVATIONS.none);
  for (let i = 0; i < input.length; i++) output[i] += input[i];
}

/** Numbers -> the channels of the smallest picture. */
function asPicture(input, output, channels, side) {
  const width = side + 2;
  for (let c = 0, k = 0; c < channels; c++) {
    for (let y = 1; y <= side; y++) {
      for (let x = 1; x <= side; x++) output[(c * width + y) * width + x] = input[k++];
    }
  }
}

/** Transposed convolution 2 x 2 of stride 2. weight: (in, out, 2, 2); side: of input. */
function up(input, weight, bias, output, channelsIn, channelsOut, side, activate) {
  const width = side + 2, wide = 2 * side + 2;
  const top = new Float32Array(2 * side), bottom = new Float32Array(2 * side);
  for (let o = 0; o < channelsOut; o++) {
    for (let y = 0; y < side; y++) {
      top.fill(bias[o]);
      bottom.fill(bias[o]);
      for (let i = 0; i < channelsIn; i++) {
        const w = 4 * (i * channelsOut + o), from = (i * width + y + 1) * width + 1;
        const w0 = weight[w], w1 = weight[w + 1], w2 = weight[w + 2], w3 = weight[w + 3];
        for (let x = 0; x < side; x++) {
          const value = input[from + x];
          top[2 * x] += w0 * value;
          top[2 * x + 1] += w1 * value;
          bottom[2 * x] += w2 * value;
          bottom[2 * x + 1] += w3 * value;
        }
      }
      const to = (o * wide + 2 * y + 1) * wide + 1;
      for (let x = 0; x < 2 * side; x++) {
        output[to + x] = activate(top[x]);
        output[to + wide + x] = activate(bottom[x]);
      }
    }
  }
}

/** Convolution 3 x 3. weight: (out, in, 3, 3). */
function conv(input, weight, bias, output, channelsIn, channelsOut, side, activate) {
  const width = side + 2, sums = new Float32Array(side);
  for (let o = 0; o < channelsOut; o++) {
    for (let y = 0; y < side; y++) {
      sums.fill(bias[o]);
      for (let i = 0; i < channelsIn; i++) {
        const w = 9 * (o * channelsIn + i);
        const w0 = weight[w], w1 = weight[w + 1], w2 = weight[w + 2];
        const w3 = weight[w + 3], w4 = weight[w + 4], w5 = weight[w + 5];
        const w6 = weight[w + 6], w7 = weight[w + 7], w8 = weight[w + 8];
        const above = (i * width + y) * width, here = above + width, below = here + width;
        // Each value is read once and handed on to the left.
        let a0 = input[above], a1 = input[above + 1];
        let b0 = input[here], b1 = input[here + 1];
        let c0 = input[below], c1 = input[below + 1];
        for (let x = 0; x < side; x++) {
          const a2 = input[above + x + 2], b2 = input[here + x + 2], c2 = input[below + x + 2];
          sums[x] += w0 * a0 + w1 * a1 + w2 * a2 + w3 * b0 + w4 * b1 + w5 * b2
                     + w6 * c0 + w7 * c1 + w8 * c2;
          a0 = a1; a1 = a2;
          b0 = b1; b1 = b2;
          c0 = c1; c1 = c2;
        }
      }
      const to = (o * width + y + 1) * width + 1;
      for (let x = 0; x < side; x++) output[to + x] = activate(sums[x]);
    }
  }
}

/** A function z (Z) -> class scores, {values: Float32Array (classes, side, side), side}. */
function makeDecoder(run) {
  const weights = halves(run.weights), padded = (channels, side) =>
    new Float32Array(channels * (side + 2) ** 2);
  let offset = 0, channels = 0, side = 0, numbers = 0;  // side 0: not yet a picture
  const take = (count) => weights.subarray(offset, offset += count);
  const steps = [];
  for (const [kind, ins, outs, activation] of run.layers) {
    const activate = ACTIVATIONS[activation];
    if (kind === "linear") {
      const weight = take(ins * outs), bias = take(outs), output = new Float32Array(outs);
      steps.push((x) => (linear(x, weight, bias, output, activate), output));
      numbers = outs;
      continue;
    }
    if (kind === "residual") {
      const parts = [ins, ins, ins * ins, ins, ins * ins, ins].map(take);
      const output = new Float32Array(ins);
      steps.push((x) => (residual(x, parts, output), output));
      continue;
    }
    if (side === 0) {
      channels = ins;
      side = Math.sqrt(numbers / channels);
      const output = padded(channels, side), shape = [channels, side];
      steps.push((x) => (asPicture(x, output, ...shape), output));
    }
    const from = side;
    const paint = kind === "up" ? up : conv, taps = kind === "up" ? 4 : 9;
    if (kind === "up") side *= 2;
    const weight = take(taps * ins * outs), bias = take(outs), output = padded(outs, side);
    steps.push((x) => (paint(x, weight, bias, output, ins, outs, from, activate), output));
    channels = outs;
  }
  return (z) => withoutBorder(steps.reduce((x, step) => step(x), Float32Array.from(z)),
                              channels, side);
}

function withoutBorder(padded, channels, side) {
  const values = new Float32Array(channels * side * side), width = side + 2;
  for (let c = 0, k = 0; c < channels; c++) {
    for (let y = 1; y <= side; y++) {
      const row = (c * width + y) * width + 1;
      values.set(padded.subarray(row, row + side), k);
      k += side;
    }
  }
  return {values, side};
}
