// The explorer: what a reader moves, and the panels that follow.

const STEPS = 9;        // tiles of the strip
const BETWEEN = 5;      // steps of the line in the UMAP plane from one tile to the next
const SPEED = 2;        // of a sweep, standard deviations a second
const BEAT = 1.2;       // seconds from A to B
const FINE = 4;         // points of an outline's grid to a pixel of the label map
const INK = "#222", GREY = "#595959", LINE = "#ccc", ACTIVE = "#0072B2", INACTIVE = "#999";
const CHOSEN = "#D55E00";
const NAMES = {RV: "right ventricle", MYO: "myocardium", LV: "left-ventricle cavity"};
const LEVELS = ["base", "middle", "apex"];

const TEMPLATE = `
<div class="bar">
  <fieldset><legend>model</legend><span data-id="runs" class="choice"></span></fieldset>
  <fieldset><legend>start from</legend>
    <button data-id="mean">mean of real hearts</button>
    <button data-id="random">random heart</button>
    <span data-id="priors" class="choice" role="radiogroup" aria-label="drawn from"></span>
  </fieldset>
  <fieldset><legend>mean of a group</legend>
    <select data-id="group" aria-label="group"></select>
    <select data-id="level" aria-label="level"></select>
    <select data-id="phase" aria-label="phase"></select>
  </fieldset>
  <fieldset data-id="patients" hidden><legend>patient</legend>
    <button data-id="load">load patients</button>
    <select data-id="patient" aria-label="patient" hidden></select>
    <select data-id="slice" aria-label="slice" hidden></select>
    <label data-id="imageLabel" hidden><input type="checkbox" data-id="image"> MR image</label>
  </fieldset>
</div>
<p class="note" data-id="note" role="note" hidden></p>
<div class="grid">
  <section class="sliders" aria-label="sliders">
    <div data-id="systems" class="choice" role="radiogroup"
         aria-label="what the sliders move"></div>
    <p data-id="systemNote"></p>
    <div data-id="list" class="list"></div>
  </section>
  <section class="heart" aria-label="the heart of these values">
    <canvas data-id="heart" role="img"></canvas>
    <p class="verdict" data-id="verdict" role="status"></p>
    <div class="tools">
      <button data-id="play" aria-pressed="false">play</button>
      <button data-id="reset">back to start</button>
      <button data-id="pin" aria-pressed="false">pin as A</button>
      <label><input type="checkbox" data-id="pixels"> pixels</label>
    </div>
    <label class="way" data-id="wayRow" hidden><span>A</span>
      <input type="range" min="0" max="1" step="0.02" data-id="way" aria-label="from A to B">
      <span>B</span></label>
  </section>
  <section class="numbers" aria-label="measures">
    <table><thead><tr><th></th><th scope="col">now</th><th scope="col" data-id="reference"></th>
      <th scope="col">change</th></tr></thead><tbody data-id="measures"></tbody></table>
    <p class="small"><span data-id="about"></span> <span data-id="nearest"></span></p>
    <details data-id="files"><summary>take it home</summary><div class="tools">
      <button data-id="png">heart, PNG</button><button data-id="svg">strip, SVG</button>
      <button data-id="stripPng">strip, PNG</button><button data-id="gif">moving, GIF</button>
      <button data-id="nifti">label map, NIfTI</button></div></details>
  </section>
  <section class="strip" aria-label="strip of hearts">
    <p><b data-id="stripTitle"></b> <span data-id="stripNote"></span></p>
    <canvas data-id="strip" role="img"></canvas>
  </section>
  <section class="map" aria-label="UMAP plane">
    <p><b>UMAP</b> of the training slices <span data-id="key" class="key"></span></p>
    <canvas data-id="plane" role="img" aria-label="this heart among the training slices"></canvas>
  </section>
  <section class="spread" aria-label="training slices along the selected slider">
    <p><b data-id="spreadTitle"></b> line: N(0, 1)</p>
    <canvas data-id="spread" role="img" aria-label="histogram of the training slices"></canvas>
  </section>
  <section class="influence" aria-label="influence of each slider">
    <p><b>Influence</b> how far the heart leaves its mean shape</p>
    <canvas data-id="bars" role="img" aria-label="influence of each slider"></canvas>
  </section>
</div>
<p class="small foot"><span data-id="stamp"></span> <span data-id="licence"></span></p>`;

let explorers = 0;

/** Build the explorer into an element. kernel: null, or {ask(what, details) -> Promise,
 *  tell(run, z), patients: whether it has any}. problem: what to say at the beginning. */
function explore(root, data, kernel = null, problem = "") {
  root.classList.add("heart-explorer");
  root.innerHTML = TEMPLATE;
  const own = ++explorers;
  const find = (id) => root.querySelector(`[data-id="${id}"]`);
  const number = (x, digits) =>
    x.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "\u2212");
  /** Where a slider ends: at 3, or further out if real hearts do. */
  const reach = (i) => Math.max(data.limit, ...range(i).map((value) => Math.ceil(Math.abs(value))));
  const clip = (x, i) => Math.max(-reach(i), Math.min(reach(i), x));
  const colours = Object.fromEntries(data.classes.map(({name, colour}) => [name, colour]));

  // -------------------------------------------------------------- runs and their coordinates

  for (const run of data.runs) prepare(run);

  function prepare(run) {
    run.mu = halves(run.mu);
    run.plane = floats(run.plane);
    run.count = run.plane.length / 2;
    const size = run.latent_dim;
    const copy = (values) => Float64Array.from(values);
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
  }

  /** The training slices in a system of coordinates, an array for each coordinate, sorted. */
  function training(run, name) {
    const system = run.systems[name];
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

  /** From where to where the training slices lie along a coordinate: all of them, or without a
   *  share of them at either end. */
  function range(i, without = 0) {
    const values = training(run(), state.system)[i], last = values.length - 1;
    return [values[Math.round(without * last)], values[Math.round((1 - without) * last)]];
  }

  // -------------------------------------------------------------- state

  const state = {run: 0, system: "dimensions", coordinate: 0, z: null, u: null, crop: 1,
                 start: null, a: null, b: null, share: 1, way: false, playing: false, prior: 0,
                 pixels: false, image: false, pictures: null};
  const motion = {rising: true, before: null};
  const strip = {key: "", tiles: []};
  const shown = {heart: null, frames: 0, milliseconds: 0, drawn: {heart: 0, all: 0}};
  const run = () => data.runs[state.run];
  const system = () => run().systems[state.system];
  const nameOf = (i) => `${system().label(i)} ${system().names[i]}`;

  /** Scores of z: at once where the page has the decoder; else null until the kernel answers. */
  function scoresOf(z) {
    const each = run();
    if (each.layers) return (each.decoder ??= makeDecoder(each))(z);
    each.known ??= new Map();
    const key = Array.from(z).join();
    if (!each.known.has(key)) {
      if (each.waiting) return null;   // one question at a time: the newest is asked next
      each.waiting = true;
      kernel.ask("scores", {run: state.run, z: Array.from(z)}).then(({scores, side}) => {
        each.waiting = false;
        each.known.set(key, {values: halves(scores), side});
        if (each.known.size > 64) each.known.delete(each.known.keys().next().value);
        invalidate();
      });
      return null;
    }
    return each.known.get(key);
  }

  /** What there is to see of z: label map, rules it breaks, outlines on a grid of so many points a
   *  pixel; null until it is known. */
  function look(z, fine = FINE) {
    const scores = scoresOf(z);
    if (!scores) return null;
    const side = run().size, labels = likeliest(enlarge(scores, side));
    const loops = outlines(enlarge(scores, Math.max(fine * 64, side)));
    return {z: Float64Array.from(z), labels, side, loops, broken: brokenRules(labels, side)};
  }

  function stand(z, crop = state.crop) {
    state.z = Float64Array.from(z);
    state.u = system().to(state.z);
    state.crop = crop;
    invalidate();
  }

  /** Jump to z, which is then what "back to start" means. */
  function begin(name, z, {crop = run().crop_mm, again = meanHeart, pictures = null} = {}) {
    stop();
    Object.assign(state, {start: {name, z: Float64Array.from(z), crop, again, share: 1}, pictures,
                          share: 1, way: Boolean(state.a)});   // beside A, it is B
    stand(z, crop);
    if (again !== groupHeart) find("group").value = "";
    if (again !== sliceHeart && find("slice").value) find("slice").value = "";
    state.b = {name, z: state.z, crop};
    showImageSwitch();
  }

  /** Mean of mu and of the crops over the training slices that a group, level and phase have. */
  function meanOf(each, group, level, phase) {
    const mean = new Float64Array(each.latent_dim);
    let count = 0, crop = 0;
    for (let n = 0; n < each.count; n++) {
      if ((group >= 0 && each.group[n] !== group) || (level >= 0 && each.level[n] !== level)
          || (phase >= 0 && each.phase[n] !== phase)) continue;
      count++;
      crop += each.slice_mm[n];
      for (let i = 0; i < mean.length; i++) mean[i] += each.mu[n * mean.length + i];
    }
    return count ? {z: mean.map((sum) => sum / count), crop: crop / count, count} : null;
  }

  function meanHeart() {
    const {z, crop} = meanOf(run(), -1, -1, -1);
    begin("mean of real hearts", z, {crop});
  }

  function groupHeart() {
    const [group, level, phase] = ["group", "level", "phase"].map((id) => find(id).value);
    if (group === "") return;
    const found = meanOf(run(), Number(group), Number(level), Number(phase));
    if (!found) return say("This model has seen no such slice in training: choose another mean.");
    const words = [group < 0 ? "all groups" : data.groups[group].name, LEVELS[level],
                   data.phases[phase]].filter(Boolean);
    begin(`mean of ${words.join(", ")} (${found.count} slices)`, found.z,
          {crop: found.crop, again: groupHeart});
  }

  /** A pair of independent values of N(0, 1), after Box and Muller. */
  function normalPair() {
    const radius = Math.sqrt(-2 * Math.log(1 - Math.random()));
    const angle = 2 * Math.PI * Math.random();
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  }

  function randomHeart() {
    const size = run().latent_dim, noise = new Float64Array(size);
    for (let i = 0; i < size; i += 2) noise.set(normalPair().slice(0, size - i), i);
    const prior = run().priors[state.prior];
    let z = noise;
    if (prior.roots) {
      let k = 0;
      for (let left = Math.random(); k < prior.weights.length - 1 && left > prior.weights[k]; k++) {
        left -= prior.weights[k];
      }
      z = Float64Array.from({length: size}, (_, r) => {
        let sum = prior.means[k * size + r];
        for (let c = 0; c <= r; c++) {
          sum += prior.temperature * prior.roots[(k * size + r) * size + c] * noise[c];
        }
        return sum;
      });
    }
    begin(`random heart from ${prior.title}`, z);
    explainPrior();
  }

  // -------------------------------------------------------------- A and B

  function pin() {
    if (state.a) {
      Object.assign(state, {a: null, way: false, share: 1});
    } else {
      state.a = {...shown.heart, name: state.start.name, crop: state.crop};
    }
    stop();
    invalidate();
  }

  /** Go to a share of the straight way from A (0) to B (1). */
  function along(share) {
    if (!state.a) return;
    Object.assign(state, {share, way: true});
    stand(onStrip(share), cropOnStrip(share));
  }

  // -------------------------------------------------------------- play

  function stop() {
    state.playing = false;
  }

  function play() {
    state.playing = !state.playing;
    motion.before = null;
    invalidate();
  }

  function advance(time) {
    // A page in the background gets no frames; it goes on where it was, without a leap.
    const passed = Math.min(time - (motion.before ?? time), 100) / 1000;
    motion.before = time;
    const end = reach(state.coordinate);
    const [low, high, speed] = state.way ? [0, 1, 1 / BEAT] : [-end, end, SPEED];
    let value = state.way ? state.share : clip(state.u[state.coordinate], state.coordinate);
    value += (motion.rising ? 1 : -1) * speed * passed;
    if (value > high || value < low) {
      motion.rising = value < low;
      value = Math.max(low, Math.min(high, value));
    }
    if (state.way) along(value);
    else set(state.coordinate, value);
  }

  function set(i, value) {
    const u = Float64Array.from(state.u);
    u[i] = value;
    state.z = system().from(u);
    state.u = u;       // as it is: a move leaves the other coordinates alone
    state.coordinate = i;
    invalidate();
  }

  function select(i) {
    stop();
    state.coordinate = i;
    state.way = false;
    invalidate();
  }

  // -------------------------------------------------------------- controls

  const rows = new Map();   // coordinate -> {element, input, output}

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return ownKeys(element);
  }

  /** Keys that are pressed on a control are its own, and no shortcuts of JupyterLab. */
  function ownKeys(element) {
    element.dataset.lmSuppressShortcuts = "true";
    return element;
  }

  /** Radio buttons that look like one bar. */
  function choice(place, group, entries, chosen, choose) {
    place.replaceChildren(...entries.map(([value, words]) => {
      const input = make("input", {type: "radio", name: `${group}-${own}`, value,
                                   checked: value === chosen});
      input.addEventListener("change", () => choose(value));
      return make("label", {}, input, make("span", {textContent: words}));
    }));
  }

  function listRuns() {
    choice(find("runs"), "run", data.runs.map(({label}, index) => [index, label]), state.run, open);
  }

  function listSystems() {
    const names = {dimensions: `${run().latent_dim} latent dimensions`,
                   axes: "axes of real hearts"};
    choice(find("systems"), "system", Object.keys(run().systems).map((name) => [name, names[name]]),
           state.system, (name) => {
             stop();
             state.system = name;
             state.way = false;
             stand(state.z);
             listCoordinates();
           });
  }

  function listCoordinates() {
    const {order, active} = system(), list = find("list"), inactive = make("details");
    list.replaceChildren();
    rows.clear();
    for (const i of order) {
      const row = coordinateRow(i);
      rows.set(i, row);
      (active.includes(i) ? list : inactive).append(row.element);
    }
    state.coordinate = order.find((i) => active.includes(i)) ?? order[0];
    const count = order.length - active.length;
    if (count) {
      inactive.prepend(make("summary", {textContent: `${count} more, which change little`}));
      inactive.open = !active.length;
      list.append(inactive);
    }
    const {valid_along: valid} = run(), share = (name) => `${number(100 * valid[name], 0)} %`;
    find("systemNote").textContent = (valid.axes === undefined ? "" :
      `If one slider moves, from the mean of real hearts, ${share("dimensions")} of the hearts are `
      + `valid along the dimensions and ${share("axes")} along the axes. `)
      + "Blue on a slider: where 98 % of the real hearts lie.";
  }

  function coordinateRow(i) {
    const id = `heart-explorer-${own}-${i}`, words = system().names[i];
    const output = make("span", {className: "value"}), input = make("input", {
      type: "range", id, min: -reach(i), max: reach(i), step: 0.1, autocomplete: "off"});
    input.setAttribute("aria-label", `${system().label(i)}, ${words}`);
    const bold = make("b", {textContent: `${system().label(i)} `});
    const label = make("label", {htmlFor: id}, bold, words);
    const [low, high] = range(i, 0.01).map((value) => 50 + 50 * value / reach(i));
    input.style.setProperty("--low", `${low}%`);
    input.style.setProperty("--high", `${high}%`);
    const element = make("div", {className: "slider"}, label, output, input);
    input.addEventListener("input", () => {
      stop();
      state.way = false;
      set(i, Number(input.value));
      hurry();
    });
    for (const kind of ["click", "focusin"]) {
      element.addEventListener(kind, () => {
        if (state.coordinate !== i || state.way) select(i);
      });
    }
    return {element, input, output};
  }

  function menu(id, entries) {
    find(id).replaceChildren(...entries.map(([value, words]) => new Option(words, value)));
  }

  function listMeans() {
    menu("group", [["", "choose \u2026"], [-1, "all groups"],
                   ...data.groups.map(({name}, g) => [g, name])]);
    menu("level", [[-1, "base to apex"], ...LEVELS.map((name, k) => [k, name])]);
    menu("phase", [[-1, data.phases.length > 1 ? data.phases.join(" and ") : "any phase"],
                   ...data.phases.map((name, k) => [k, name])]);
    find("level").value = 1;
    if (data.phases.length) find("phase").value = 0;
  }

  /** What random hearts are drawn from: at first the prior that keeps closest to real ones. */
  function listPriors() {
    state.prior = run().priors.length - 1;
    choice(find("priors"), "prior", run().priors.map(({title}, k) => [k, `from ${title}`]),
           state.prior, (k) => {
             state.prior = k;
             randomHeart();
           });
  }

  function say(words) {
    find("note").textContent = words;
    find("note").hidden = !words;
  }

  /** Why N(0, I) gives blobs here, where it does. */
  function explainPrior() {
    const {priors, latent_dim: size} = run(), chosen = priors[state.prior], best = priors.at(-1);
    if (chosen.kind !== "standard" || chosen.valid >= 0.9 || chosen === best) return say("");
    const percent = ({valid}) => `${number(100 * valid, 0)} %`;
    const middle = look(new Float64Array(size), 1)?.broken ?? [];
    say(`Of random z from N(0, I), ${percent(chosen)} give a valid heart here`
        + (middle.length ? ` (its middle, z = 0, gives: ${middle.join("; ")})` : "")
        + ": real hearts use only some combinations of values, and the network has seen no others. "
        + `Of random z from the ${best.title}, fitted to real hearts, ${percent(best)} do.`);
  }

  /** Another run: the same patient or group, or its own mean heart. */
  function open(index) {
    const again = state.start?.again ?? meanHeart;
    const chosen = ["group", "slice"].map((id) => [find(id), find(id).value]);
    Object.assign(state, {run: index, a: null, way: false});
    const {valid_along: valid, systems} = run();
    state.system = systems.axes && valid.axes > valid.dimensions ? "axes" : "dimensions";
    listPriors();
    say("");
    meanHeart();
    if (again !== meanHeart) {
      for (const [menu, value] of chosen) menu.value = value;
      again();
    }
    listSystems();
    listCoordinates();
  }

  // -------------------------------------------------------------- patients, who are in the kernel

  const known = {patients: []};

  async function loadPatients() {
    say("Reading the label data \u2026");
    const answer = await kernel.ask("patients", {run: state.run});
    say(answer.error ?? "");
    if (answer.error) return;
    known.patients = answer.patients;
    find("load").hidden = true;
    find("patient").hidden = find("slice").hidden = false;
    menu("patient", [["", "choose \u2026"], ...answer.patients.map(
      ({name, group}, k) => [k, group ? `${name} (${group})` : name])]);
    menu("slice", [["", ""]]);
  }

  function listSlices() {
    const patient = known.patients[Number(find("patient").value)];
    menu("slice", [["", "slice \u2026"], ...patient.slices.map(({name}, k) => [k, name])]);
    find("slice").value = Math.floor(patient.slices.length / 2);
    sliceHeart();
  }

  async function sliceHeart() {
    if (find("slice").value === "") return;
    const patient = known.patients[Number(find("patient").value)];
    const slice = patient.slices[Number(find("slice").value)];
    const answer = await kernel.ask("slice", {run: state.run, rows: slice.rows});
    if (answer.error) return say(answer.error);
    const [ed, es] = answer.hearts;
    begin(ed.name, ed.z, {crop: ed.crop, again: sliceHeart,
          pictures: ed.image && await Promise.all(answer.hearts.map(({image}) => picture(image)))});
    if (es) {
      state.a = {...look(Float64Array.from(ed.z)), name: ed.name, crop: ed.crop};
      state.b = {name: es.name, z: Float64Array.from(es.z), crop: es.crop};
      Object.assign(state, {share: 0, way: true});
      state.start.share = 0;
    }
  }

  async function picture(source) {
    const image = new Image();
    image.src = `data:image/png;base64,${source}`;
    await image.decode();
    return image;
  }

  function showImageSwitch() {
    find("imageLabel").hidden = !state.pictures;
  }

  // -------------------------------------------------------------- drawing

  /** A cleared canvas as sharp as the screen; sizes in CSS pixels. */
  function surface(id) {
    const canvas = find(id), ratio = window.devicePixelRatio || 1;
    const w = canvas.clientWidth, h = canvas.clientHeight;
    const wide = Math.round(w * ratio), high = Math.round(h * ratio);
    if (canvas.width !== wide) canvas.width = wide;
    if (canvas.height !== high) canvas.height = high;
    const ctx = canvas.getContext("2d");
    const font = Math.max(11, 0.86 * parseFloat(getComputedStyle(root).fontSize));
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, w, h);
    ctx.font = `${font}px system-ui, sans-serif`;
    ctx.textBaseline = "middle";
    return {ctx, w, h, font};
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

  const rgb = Object.values(colours).map(
    (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)));

  /** Side in mm of the frame that hearts are drawn in. One for all hearts between A and B, so that
   *  a larger heart is drawn larger, whatever part of its slice it was cut from. */
  function frameMm() {
    const crops = [run().crop_mm, state.start.crop, state.a?.crop ?? 0, state.b.crop];
    return Math.max(...crops);
  }

  /** A heart in its colours on a square of a canvas. crop: side of its picture in mm; image: an MR
   *  slice behind it, of the same crop. */
  function paint(ctx, heart, x, y, side, {crop, pixels = false, image = null}) {
    ctx.save();
    ctx.fillStyle = colours.BACKGROUND;
    ctx.fillRect(x, y, side, side);
    ctx.beginPath();
    ctx.rect(x, y, side, side);
    ctx.clip();
    const zoom = crop / frameMm();
    ctx.translate(x + side * (1 - zoom) / 2, y + side * (1 - zoom) / 2);
    ctx.scale(zoom * side, zoom * side);   // from here on, the side of the picture is 1
    ctx.lineWidth = 1 / side;
    if (image) {
      ctx.drawImage(image, 0, 0, 1, 1);
      ctx.globalAlpha = 0.45;
    }
    if (pixels) {
      const small = make("canvas", {width: heart.side, height: heart.side});
      const painted = small.getContext("2d").createImageData(heart.side, heart.side);
      heart.labels.forEach((label, i) =>
        painted.data.set([...rgb[label], image && !label ? 0 : 255], 4 * i));
      small.getContext("2d").putImageData(painted, 0, 0);
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
  function trace(ctx, heart, x, y, side, colour, dash = []) {
    ctx.save();
    ctx.beginPath();
    ctx.rect(x, y, side, side);
    ctx.clip();
    const zoom = heart.crop / frameMm(), scale = zoom * side;
    ctx.translate(x + side * (1 - zoom) / 2, y + side * (1 - zoom) / 2);
    ctx.scale(scale, scale);
    for (const [style, width] of [["rgb(255 255 255 / 0.8)", 4], [colour, 1.6]]) {
      ctx.strokeStyle = style;
      ctx.lineWidth = width / scale;
      ctx.setLineDash(style === colour ? dash.map((length) => length / scale) : []);
      for (const [name] of LAYERS) ctx.stroke(pathFor(heart, name));
    }
    ctx.restore();
  }

  function drawHeart() {
    const {ctx, w, h, font} = surface("heart"), side = Math.min(w, h) - 2;
    const x = (w - side) / 2, y = 1, near = state.share < 0.5 || !state.pictures?.[1] ? 0 : 1;
    const image = state.image && state.pictures ? state.pictures[near] : null;
    paint(ctx, shown.heart, x, y, side, {crop: state.crop, pixels: state.pixels, image});
    if (state.a) trace(ctx, state.a, x, y, side, CHOSEN, [7, 4]);
    else if (state.start.heart) trace(ctx, state.start.heart, x, y, side, INK);
    ctx.strokeStyle = shown.heart.broken.length ? CHOSEN : LINE;
    ctx.lineWidth = shown.heart.broken.length ? 3 : 1;
    ctx.strokeRect(x, y, side, side);
    const bar = side * 20 / frameMm(), left = x + 0.9 * font, below = y + side - 0.9 * font;
    ctx.fillStyle = "rgb(255 255 255 / 0.8)";
    ctx.fillRect(left - 0.4 * font, below - 1.7 * font, Math.max(bar, 3.4 * font) + 0.8 * font,
                 2.2 * font);
    line(ctx, [[left, below], [left + bar, below]], INK, 2.5);
    text(ctx, "20 mm", left, below - 0.9 * font, {align: "left", colour: INK});
    const words = shown.heart.broken.join("; ");
    find("heart").setAttribute("aria-label", `decoded heart, ${words || "valid"}`);
    find("verdict").textContent = words ? `not valid: ${words}`
      : "valid: breaks none of nine rules of anatomy";
    find("verdict").classList.toggle("broken", Boolean(words));
    const far = system().active.map((i) => [i, state.u[i]]).filter(([i, value]) => {
      const [low, high] = range(i);
      return value < low - 0.05 || value > high + 0.05;
    });
    if (far.length) {
      find("verdict").textContent += ` \u00b7 beyond the real hearts: ${far.slice(0, 3).map(
        ([i, value]) => `${system().label(i)} ${number(value, 1)}`).join(", ")}`
        + (far.length > 3 ? ` and ${far.length - 3} more` : "");
    }
    find("verdict").title = find("verdict").textContent;
  }

  function drawMeasures() {
    const reference = state.a ?? {...state.start.heart, crop: state.start.crop};
    const now = measure(shown.heart.labels, shown.heart.side, state.crop);
    const then = measure(reference.labels, reference.side, reference.crop);
    const beside = find("reference").textContent = state.a ? "A" : "start";
    const lines = Object.keys(NAMES).map((name) => [`${name} area, cm\u00b2`, name])
      .concat([["wall, mm", "wall"]]);
    const cells = lines.map(([words, name]) => {
      const change = now[name] - then[name];
      return [words, number(now[name], 1), number(then[name], 1),
              (change >= 0.05 ? "+" : "") + number(change, 1)];
    });
    const score = dice(shown.heart.labels, reference.labels);
    cells.push([`Dice to ${beside}`, Number.isNaN(score) ? "none" : number(score, 2), "", ""]);
    find("measures").replaceChildren(...cells.map(([words, ...values]) => {
      const head = make("th", {scope: "row"});
      const colour = colours[words.split(" ")[0]];
      if (colour) {
        head.append(swatch(colour), " ");
        head.title = NAMES[words.split(" ")[0]];
      }
      head.append(words);
      return make("tr", {}, head, ...values.map((value) => make("td", {textContent: value})));
    }));
    find("about").textContent = (state.a ? `A: ${state.a.name}. ` : "")
      + `Start: ${state.start.name}. Its picture is ${number(state.crop, 0)} mm wide`
      + (state.crop === run().crop_mm ? ", the median of the training slices." : ".");
  }

  /** z of the strip's tile at a share from 0 to 1. */
  function onStrip(share) {
    if (state.way) return state.a.z.map((value, i) => (1 - share) * value + share * state.b.z[i]);
    const u = Float64Array.from(state.u);
    u[state.coordinate] = reach(state.coordinate) * (2 * share - 1);
    return system().from(u);
  }

  const cropOnStrip = (share) =>
    state.way ? (1 - share) * state.a.crop + share * state.b.crop : state.crop;

  /** The strip holds as long as only its own coordinate moves. */
  function renewStrip() {
    const others = Array.from(state.u, (value, i) =>
      i === state.coordinate ? "" : value.toFixed(6));
    const key = [state.run, state.system, ...(state.way
      ? ["way", state.a.z.join(), state.b.z.join()] : [state.coordinate, ...others])].join();
    if (key !== strip.key) {
      strip.key = key;
      strip.tiles = new Array(STEPS).fill(null);
      const steps = (STEPS - 1) * BETWEEN;
      shown.path = Array.from({length: steps + 1}, (_, k) => place(run(), onStrip(k / steps)));
    }
    fillStrip();
  }

  /** Decode the strip a tile at a time, between frames: the heart never waits for more than one. */
  function fillStrip() {
    if (strip.waiting || !strip.tiles.includes(null)) return;
    strip.waiting = true;
    const later = window.requestIdleCallback
      ? (work) => requestIdleCallback(work, {timeout: 300}) : (work) => setTimeout(work, 20);
    later(() => {
      strip.waiting = false;
      if (frame && !state.playing) return;  // that frame comes first, and then here again
      const k = strip.tiles.indexOf(null);
      if (k < 0) return;
      strip.tiles[k] = look(onStrip(k / (STEPS - 1)), 2);
      drawStrip();
      if (strip.tiles[k]) fillStrip();      // else the kernel's answer comes back here
    });
  }

  function drawStrip() {
    const {ctx, w, h, font} = surface("strip"), gap = 4;
    const tile = Math.min((w - gap * (STEPS - 1) - 4) / STEPS, h - 2 - 2.2 * font);
    const left = (w - STEPS * tile - (STEPS - 1) * gap) / 2;
    const middle = (share) => left + tile / 2 + share * (STEPS - 1) * (tile + gap);
    const i = state.coordinate, end = reach(i);
    const now = state.way ? state.share : (clip(state.u[i], i) / end + 1) / 2;
    strip.tiles.forEach((heart, k) => {
      const x = middle(k / (STEPS - 1)) - tile / 2;
      if (heart) paint(ctx, heart, x, 1, tile, {crop: cropOnStrip(k / (STEPS - 1)),
                                                pixels: state.pixels});
      ctx.strokeStyle = heart?.broken.length ? CHOSEN : LINE;
      ctx.lineWidth = heart?.broken.length ? 2 : 1;
      ctx.strokeRect(x, 1, tile, tile);
      if (heart?.broken.length) {
        line(ctx, [[x + 4, 5], [x + 0.7 * font, 1 + 0.7 * font]], CHOSEN, 2);
        line(ctx, [[x + 0.7 * font, 5], [x + 4, 1 + 0.7 * font]], CHOSEN, 2);
      }
      const ends = {0: "A", [STEPS - 1]: "B"};
      const words = state.way ? ends[k] ?? "" : number(end * (2 * k / (STEPS - 1) - 1), 2);
      text(ctx, words, middle(k / (STEPS - 1)), 1 + tile + 1.6 * font);
    });
    const x = middle(now), y = tile + 3;
    ctx.beginPath();
    ctx.moveTo(x, y);
    ctx.lineTo(x - 0.55 * font, y + 0.8 * font);
    ctx.lineTo(x + 0.55 * font, y + 0.8 * font);
    ctx.fillStyle = CHOSEN;
    ctx.fill();
    const broken = strip.tiles.filter((heart) => heart?.broken.length).length;
    find("stripTitle").textContent = state.way ? "From A to B" : nameOf(state.coordinate);
    find("stripNote").textContent = state.way ? `A: ${state.a.name}; B: ${state.b.name}` :
      "all others as now";
    find("stripNote").textContent += `; \u2715: not valid (${broken} of ${STEPS})`;
    find("strip").setAttribute("aria-label",
      `${find("stripTitle").textContent}: ${STEPS} hearts, ${broken} of them not valid`);
  }

  function drawSpread() {
    const {ctx, w, h, font} = surface("spread");
    const values = training(run(), state.system)[state.coordinate];
    const i = state.coordinate, end = 1.15 * reach(i), bins = 46, width = 2 * end / bins;
    const heights = new Array(bins).fill(0);
    for (const value of values) {
      const bin = Math.floor((value + end) / width);
      if (bin >= 0 && bin < bins) heights[bin] += 1 / (values.length * width);
    }
    const bottom = h - 1.5 * font, top = 1.4 * font, highest = 1.05 * Math.max(0.4, ...heights);
    const x = (value) => (value / end + 1) / 2 * w;
    const y = (value) => bottom - value / highest * (bottom - top);
    ctx.fillStyle = "#66aad1";
    heights.forEach((height, k) =>
      ctx.fillRect(x(k * width - end), y(height), w / bins - 0.5, bottom - y(height)));
    const curve = Array.from({length: 101}, (_, k) => end * (k / 50 - 1));
    line(ctx, curve.map((v) => [x(v), y(Math.exp(-v * v / 2) / Math.sqrt(2 * Math.PI))]), INK, 1.2);
    line(ctx, [[0, bottom], [w, bottom]], GREY, 1);
    for (let v = -reach(i); v <= reach(i); v++) {
      text(ctx, number(v, 0), x(v), bottom + 0.8 * font);
    }
    const value = state.u[state.coordinate], at = Math.max(2, Math.min(w - 2, x(value)));
    line(ctx, [[at, top], [at, bottom]], CHOSEN, 2);
    const room = ctx.measureText("\u22120.00").width / 2 + 2;
    text(ctx, number(value, 2), Math.max(room, Math.min(w - room, at)), 0.7 * font,
         {colour: CHOSEN});
    find("spreadTitle").textContent = `Real hearts along ${system().label(i)}`;
  }

  function drawBars() {
    const {ctx, w, h, font} = surface("bars"), {order, active, dice: scores} = system();
    const ranked = [...order].sort((a, b) => scores[a] - scores[b]);
    const step = w / ranked.length, bottom = h - 2.6 * font;
    ranked.forEach((i, rank) => {
      const height = Math.max(1, (1 - (scores[i] ?? 1)) * (bottom - 2));
      const chosen = i === state.coordinate;
      ctx.fillStyle = chosen ? CHOSEN : active.includes(i) ? ACTIVE : INACTIVE;
      ctx.fillRect((rank + 0.1) * step, bottom - height, 0.8 * step, height);
      const every = Math.ceil(1.1 * font / step);
      const near = Math.abs(rank - ranked.indexOf(state.coordinate)) < every;
      if (chosen || (rank % every === 0 && !near)) {
        text(ctx, system().label(i).replace("axis ", ""), (rank + 0.5) * step, bottom + 4,
             {align: "right", turned: true, colour: chosen ? CHOSEN : GREY});
      }
    });
    line(ctx, [[0, bottom], [w, bottom]], GREY, 1);
  }

  function drawPlane() {
    const {ctx, w, h, font} = surface("plane"), each = run(), {plane} = each;
    each.box ??= [0, 1].map((axis) => {
      const values = plane.filter((_, k) => k % 2 === axis);
      return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    });
    // One scale for both axes, because a distance is drawn as a ring.
    const scale = 0.92 * Math.min(w / (each.box[0][1] - each.box[0][0] || 1),
                                  h / (each.box[1][1] - each.box[1][0] || 1));
    const centre = each.box.map(([low, high]) => (low + high) / 2);
    const x = (value) => w / 2 + (value - centre[0]) * scale;
    const y = (value) => h / 2 - (value - centre[1]) * scale;
    const radius = Math.max(1.6, Math.min(3, 0.008 * w));
    ctx.globalAlpha = 0.7;
    data.groups.forEach(({colour}, g) => {
      ctx.fillStyle = colour;
      ctx.beginPath();
      each.group.forEach((group, n) => {
        if (group !== g) return;
        ctx.moveTo(x(plane[2 * n]) + radius, y(plane[2 * n + 1]));
        ctx.arc(x(plane[2 * n]), y(plane[2 * n + 1]), radius, 0, 2 * Math.PI);
      });
      ctx.fill();
    });
    ctx.globalAlpha = 1;
    line(ctx, shown.path.map(([a, b]) => [x(a), y(b)]), INK, 1.2);
    const [a, b] = place(each, state.z);
    for (const [size, fill, width] of [[each.error_p90 * scale, "rgb(255 255 255 / 0.25)", 1],
                                       [0.5 * font, "white", 2.5]]) {
      ctx.beginPath();
      ctx.arc(x(a), y(b), size, 0, 2 * Math.PI);
      ctx.fillStyle = fill;
      ctx.fill();
      ctx.strokeStyle = INK;
      ctx.lineWidth = width;
      ctx.stroke();
    }
  }

  function swatch(colour) {
    const mark = make("i", {className: "swatch"});
    mark.style.background = colour;
    return mark;
  }

  /** Sliders stand at the value; one beyond the limits is at its end, and tells its true value. */
  function follow() {
    for (const [i, {element, input, output}] of rows) {
      const words = number(state.u[i], 2), chosen = i === state.coordinate && !state.way;
      element.classList.toggle("chosen", chosen);
      if (chosen && element.closest("details")) element.closest("details").open = true;
      if (output.textContent === words) continue;
      output.textContent = words;
      input.setAttribute("aria-valuetext", words);
      if (Math.abs(Number(input.value) - state.u[i]) > 0.05) input.value = state.u[i];
    }
    find("play").textContent = state.playing ? "stop" : state.way ? "play A to B" : "play";
    find("play").setAttribute("aria-pressed", state.playing);
    find("pin").textContent = state.a ? "let go of A" : "pin as A";
    find("pin").setAttribute("aria-pressed", Boolean(state.a));
    find("wayRow").hidden = !state.a;
    find("way").value = state.share;
  }

  // -------------------------------------------------------------- files

  function save(name, content, type) {
    const link = make("a", {download: `${run().name}-${name}`,
                            href: URL.createObjectURL(new Blob([content], {type}))});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const blobOf = (canvas) => new Promise((done) => canvas.toBlob(done, "image/png"));

  const stripName = () => state.way ? "strip-A-to-B"
    : `strip-${system().label(state.coordinate).replace(" ", "")}`;

  /** The five hearts of a strip to take home, with what is written under each. */
  function fiveHearts() {
    return [-2, -1, 0, 1, 2].map((value, k) => {
      const share = state.way ? k / 4 : (value / reach(state.coordinate) + 1) / 2;
      return {heart: look(onStrip(share)), crop: cropOnStrip(share),
              words: state.way ? ["A", "", "", "", "B"][k] : number(value, 0)};
    });
  }

  function stripSvg(side = 200, gap = 8, font = 16) {
    const hearts = fiveHearts(), step = side + gap;
    const drawn = ({loops}, name) => `<path fill="${colours[name]}" stroke="${colours[name]}" `
      + `stroke-width="0.5" fill-rule="evenodd" d="${pathOf(loops[name], side, 2)}"/>`;
    const zoomed = (zoom) => `translate(${side * (1 - zoom) / 2} ${side * (1 - zoom) / 2}) `
      + `scale(${zoom})`;
    const tiles = hearts.map(({heart, crop, words}, k) => `<g transform="translate(${k * step} 0)">`
      + `<rect width="${side}" height="${side}" fill="${colours.BACKGROUND}"/>`
      + `<g transform="${zoomed(crop / frameMm())}">`
      + `${LAYERS.map(([name]) => drawn(heart, name)).join("")}</g>`
      + `<text x="${side / 2}" y="${side + 1.4 * font}" text-anchor="middle">${words}`
      + `${heart.broken.length ? " \u2715" : ""}</text></g>`);
    const title = escaped(find("stripTitle").textContent);
    return `<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="${font}" `
      + `viewBox="0 0 ${hearts.length * step - gap} ${side + 2 * font}"><title>${title}</title>`
      + `${tiles.join("")}</svg>`;
  }

  const escaped = (words) => words.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);

  function canvasOf(width, height) {
    const canvas = make("canvas", {width, height});
    const ctx = canvas.getContext("2d", {willReadFrequently: true});
    ctx.fillStyle = "white";
    ctx.fillRect(0, 0, width, height);
    ctx.textAlign = "center";
    return {canvas, ctx};
  }

  const exports = {
    async png() {
      const {canvas, ctx} = canvasOf(1024, 1024);
      paint(ctx, shown.heart, 0, 0, 1024, {crop: state.crop, pixels: state.pixels});
      save("heart.png", await blobOf(canvas), "image/png");
    },
    svg() {
      save(`${stripName()}.svg`, stripSvg(), "image/svg+xml");
    },
    async stripPng(side = 360, gap = 12, font = 28) {
      const hearts = fiveHearts();
      const {canvas, ctx} = canvasOf(hearts.length * (side + gap) - gap, side + 2 * font);
      hearts.forEach(({heart, crop, words}, k) => {
        paint(ctx, heart, k * (side + gap), 0, side, {crop, pixels: state.pixels});
        ctx.font = `${font}px system-ui, sans-serif`;
        text(ctx, words + (heart.broken.length ? " \u2715" : ""), k * (side + gap) + side / 2,
             side + 1.4 * font, {colour: heart.broken.length ? CHOSEN : INK});
      });
      save(`${stripName()}.png`, await blobOf(canvas), "image/png");
    },
    gif(side = 256, count = 24, ms = 60) {
      const {ctx} = canvasOf(side, side);
      const frames = Array.from({length: count}, (_, k) => {
        const share = (1 - Math.cos(2 * Math.PI * k / count)) / 2;
        paint(ctx, look(onStrip(share)), 0, 0, side,
              {crop: cropOnStrip(share), pixels: state.pixels});
        return ctx.getImageData(0, 0, side, side);
      });
      save(state.way ? "beat.gif" : "sweep.gif", gif(frames, ms), "image/gif");
    },
    async nifti() {
      const {labels, side} = shown.heart;
      const bytes = nifti(labels, side, state.crop / side, state.crop === run().crop_mm
        ? "pixel size: median of the training slices" : "pixel size: that of its slices");
      save("heart.nii.gz", await gzip(bytes), "application/gzip");
    },
  };

  // -------------------------------------------------------------- the loop

  // Events only change the state; the one frame that is waiting then shows the newest.
  let frame = 0;

  function invalidate() {
    if (!frame) frame = requestAnimationFrame(render);
  }

  /** Draw at once what a hand has moved, unless this frame has already been drawn in. */
  function hurry() {
    if (performance.now() - shown.drawn.all < 16) return;
    cancelAnimationFrame(frame);
    render(performance.now());
  }

  function render(time) {
    frame = 0;
    if (state.playing) advance(time);
    const began = performance.now();
    const heart = look(state.z);
    if (heart) {
      shown.heart = heart;
      // The heart of the start, by the same decoder; known at once, since the walk begins there.
      if (!state.start.heart) state.start.heart = {...look(state.start.z), crop: state.start.crop};
      drawHeart();
      drawMeasures();
      shown.drawn.heart = performance.now();
      shown.milliseconds = shown.drawn.heart - began;
    }
    follow();
    if (heart) {
      renewStrip();
      drawStrip();
      drawSpread();
      drawBars();
      drawPlane();
      shown.drawn.all = performance.now();
    }
    shown.frames++;
    find("stamp").textContent = run().stamp;
    find("licence").textContent = run().licence;
    if (state.playing) invalidate();
    else if (kernel) {
      clearTimeout(shown.told);   // once the hand rests
      shown.told = setTimeout(rest, 200);
    }
  }

  /** The hand rests: tell the kernel where, and ask it which training slice is like this heart. */
  async function rest() {
    const z = Array.from(state.z);
    kernel.tell(state.run, z);
    if (!known.patients.length) return;
    const {words = "", error = ""} = await kernel.ask("nearest", {run: state.run, z});
    if (z.every((value, i) => value === state.z[i])) find("nearest").textContent = words || error;
  }

  const clicks = {mean: meanHeart, random: randomHeart, play, pin, load: loadPatients, ...exports,
    reset() {
      stop();
      Object.assign(state, {way: Boolean(state.a), share: state.start.share});
      stand(state.start.z, state.start.crop);
    }};
  for (const [id, act] of Object.entries(clicks)) find(id).addEventListener("click", () => act());
  for (const id of ["group", "level", "phase"]) find(id).addEventListener("change", groupHeart);
  find("patient").addEventListener("change", listSlices);
  find("slice").addEventListener("change", sliceHeart);
  for (const id of ["pixels", "image"]) {
    find(id).addEventListener("change", ({target}) => {
      state[id] = target.checked;
      invalidate();
    });
  }
  find("way").addEventListener("input", ({target}) => {
    stop();
    along(Number(target.value));
  });
  for (const {colour, name} of data.groups) {
    find("key").append(make("span", {}, swatch(colour), ` ${name}`), " ");
  }
  root.querySelectorAll("button, select, input, summary").forEach(ownKeys);
  find("patients").hidden = !kernel?.patients;
  const sizes = new ResizeObserver(invalidate);
  root.querySelectorAll("canvas").forEach((canvas) => sizes.observe(canvas));
  listMeans();
  listRuns();
  open(0);
  say(problem);

  return root.explorer = {
    /** What the kernel sets. */
    go(index, z) {
      if (index !== state.run) {
        find("runs").querySelectorAll("input")[index].checked = true;
        open(index);
      }
      if (state.z.some((value, i) => Math.abs(value - z[i]) > 1e-6)) {
        stand(z);
      }
    },
    decode: (index, z) => {
      const each = data.runs[index];
      return Array.from(likeliest(enlarge((each.decoder ??= makeDecoder(each))(z), each.size)));
    },
    place: (index, z) => place(data.runs[index], z),
    brokenRules: (labels, side) => brokenRules(Uint8Array.from(labels), side),
    stand: (z) => stand(z),
    get state() {
      return {...state, z: Array.from(state.z), u: Array.from(state.u), start: state.start.name,
              milliseconds: shown.milliseconds, frames: shown.frames, drawn: {...shown.drawn},
              verdict: shown.heart?.broken ?? null,
              settled: !frame && !strip.tiles.includes(null)};
    },
  };
}
