// Where a latent point lies among the training slices in the UMAP plane.

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

