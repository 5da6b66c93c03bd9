// Latent points: a run's systems of coordinates, its training slices, samples, the UMAP plane.

/** Decode what the run's arrays hold, and give it its systems of coordinates: the dimensions, and
 *  the axes of a fitted prior. to: from z to coordinates; from: back. Once; returns the run. */
function prepare(run) {
  if (run.systems) return run;
  run.mu = halves(run.mu);
  run.plane = floats(run.plane);
  run.count = run.plane.length / 2;
  const size = run.latent_dim, copy = (values) => Float64Array.from(values);
  run.systems = {dimensions: {...run.dimensions, label: (i) => `z${i}`, to: copy, from: copy}};
  if (run.axes) {
    const mean = floats(run.axes.mean), forth = floats(run.axes.to), back = floats(run.axes.from);
    const product = (matrix, v) => Float64Array.from({length: size}, (_, r) => {
      let sum = 0;
      for (let c = 0; c < size; c++) sum += matrix[r * size + c] * v[c];
      return sum;
    });
    run.systems.axes = {...run.axes, label: (i) => `axis ${i + 1}`,
      to: (z) => product(forth, Array.from(z, (value, i) => value - mean[i])),
      from: (u) => product(back, u).map((value, i) => value + mean[i])};
  }
  for (const prior of run.priors) {
    if (prior.roots) for (const name of ["means", "roots"]) prior[name] = halves(prior[name]);
  }
  return run;
}

/** The training slices in a system of coordinates, an array for each coordinate, sorted. */
function training(run, system) {
  if (!system.values) {
    const size = run.latent_dim;
    system.values = Array.from({length: size}, () => new Float64Array(run.count));
    for (let n = 0; n < run.count; n++) {
      system.to(run.mu.subarray(n * size, (n + 1) * size))
        .forEach((value, i) => { system.values[i][n] = value; });
    }
    system.values.forEach((values) => values.sort());
  }
  return system.values;
}

/** Mean of mu and of the crops over the training slices that a group, level and phase have (-1:
 *  any); null if there are none. */
function meanOf(run, group = -1, level = -1, phase = -1) {
  const mean = new Float64Array(run.latent_dim);
  let count = 0, crop = 0;
  for (let n = 0; n < run.count; n++) {
    if ((group >= 0 && run.group[n] !== group) || (level >= 0 && run.level[n] !== level)
        || (phase >= 0 && run.phase[n] !== phase)) continue;
    count++;
    crop += run.slice_mm[n];
    for (let i = 0; i < mean.length; i++) mean[i] += run.mu[n * mean.length + i];
  }
  return count ? {z: mean.map((sum) => sum / count), crop: crop / count, count} : null;
}

/** A sample of a prior of a run, (Z,). */
function sample(prior, size) {
  const noise = Float64Array.from({length: size}, normal);
  if (!prior.roots) return noise;
  let k = 0;
  for (let left = Math.random(); k < prior.weights.length - 1 && left > prior.weights[k]; k++) {
    left -= prior.weights[k];
  }
  return Float64Array.from({length: size}, (_, r) => {
    let sum = prior.means[k * size + r];
    for (let c = 0; c <= r; c++) {
      sum += prior.temperature * prior.roots[(k * size + r) * size + c] * noise[c];
    }
    return sum;
  });
}

/** A value of N(0, 1), after Box and Muller. */
function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

const NEIGHBOURS = 15;  // as projections.place

/** Where z lies in the UMAP plane: the mean of its nearest training slices there, weighted by the
 *  memberships of UMAP's fuzzy graph, exp(-(d - d_1) / s), s such that they sum to log2(k). */
function place(run, z) {
  const {mu, plane, latent_dim: size} = run, count = plane.length / 2;
  const nearest = [];  // the best so far, nearest first
  for (let n = 0; n < count; n++) {
    let squared = 0;
    for (let i = 0; i < size; i++) {
      const difference = mu[n * size + i] - z[i];
      squared += difference * difference;
    }
    let at = nearest.length;
    if (at === NEIGHBOURS && squared >= nearest[at - 1].squared) continue;
    while (at > 0 && nearest[at - 1].squared > squared) at--;
    nearest.splice(at, 0, {n, squared});
    nearest.length = Math.min(nearest.length, NEIGHBOURS);
  }
  const weights = memberships(nearest.map(({squared}) => Math.sqrt(squared)));
  let x = 0, y = 0;
  nearest.forEach(({n}, k) => {
    x += weights[k] * plane[2 * n];
    y += weights[k] * plane[2 * n + 1];
  });
  return [x, y];
}

/** Weights of sum 1 of neighbours at these distances, nearest first. */
function memberships(distances) {
  const beyond = distances.map((d) => d - distances[0]);
  const target = Math.log2(beyond.length);
  const size = Math.log(Math.max(beyond[beyond.length - 1], 1e-12));
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  let low = size - 12, high = size + 12, weights = [];
  for (let step = 0; step < 40; step++) {
    const middle = (low + high) / 2;
    weights = beyond.map((d) => Math.exp(-d / Math.exp(middle)));
    if (sum(weights) > target) high = middle; else low = middle;
  }
  const total = sum(weights);
  return weights.map((w) => w / total);
}

