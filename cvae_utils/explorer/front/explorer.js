// The explorer: what a reader moves, and the panels that follow.

const STEPS = 9;        // tiles of the strip
const BETWEEN = 5;      // steps of the line in the UMAP plane from one tile to the next
const SPEED = 2;        // of a sweep, standard deviations a second
const BEAT = 1.2;       // seconds from A to B
const FINE = 4;         // points of an outline's grid to a pixel of the label map
const CLOSER = 0.75;    // part of the frame that the pictures beside a slider show
const NAMES = {RV: "right ventricle", MYO: "myocardium", LV: "left-ventricle cavity"};
const LEVELS = ["base", "middle", "apex"];

const TEMPLATE = `
<div class="bar">
  <fieldset><legend>model</legend><span data-id="runs" class="choice"></span></fieldset>
  <fieldset><legend>start from</legend>
    <button data-id="mean" class="start">mean of real hearts</button>
  </fieldset>
  <fieldset><legend>random heart from</legend>
    <span data-id="priors" class="tools"></span></fieldset>
  <fieldset><legend>mean of a group</legend>
    <select data-id="group" aria-label="group"></select>
    <select data-id="level" aria-label="level"></select>
    <select data-id="phase" aria-label="phase"></select>
    <button data-id="beat" title="the mean at ED is A, that at ES is B">ED to ES</button>
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
  <section class="heart" aria-label="the heart of these values">
    <canvas data-id="heart" role="img"></canvas>
    <p class="verdict" data-id="verdict" role="status"></p>
    <div class="tools">
      <button data-id="play" aria-pressed="false">play</button>
      <button data-id="reset">back to start</button>
      <button data-id="pin" aria-pressed="false">pin as A</button>
      <label><input type="checkbox" data-id="pixels"> pixels</label>
    </div>
    <div class="way" data-id="wayRow" hidden><span data-id="nameA"></span>
      <input type="range" min="0" max="1" step="0.02" data-id="way" aria-label="from A to B">
      <span data-id="nameB"></span><button data-id="swap">swap</button></div>
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
    <p class="small">\u25ef this heart, nine times in ten placed to within the ring; line: where the
      strip leads</p>
    <canvas data-id="plane" role="img" aria-label="this heart among the training slices"></canvas>
  </section>
  <section class="spread" aria-label="training slices along the selected slider">
    <p><b data-id="spreadTitle"></b> line: N(0, 1)</p>
    <canvas data-id="spread" role="img" aria-label="histogram of the training slices"></canvas>
  </section>
  <section class="influence" aria-label="influence of each slider">
    <p><b>Influence</b> 1 \u2212 mean Dice to the mean shape, along a slider from
      \u22123 to 3</p>
    <canvas data-id="bars" role="img" aria-label="influence of each slider"></canvas>
  </section>
  <section class="sliders" aria-label="sliders">
    <div data-id="systems" class="choice" role="radiogroup"
         aria-label="what the sliders move"></div>
    <p data-id="systemNote"></p>
    <div data-id="list" class="list"></div>
  </section>
</div>
<p class="small foot"><span data-id="stamp"></span>. <span data-id="licence"></span></p>`;

/** Build the explorer into an element. kernel: null, or {ask(what, details) -> Promise,
 *  tell(run, z), patients: whether it has any}. problem: what to say at the beginning. */
function explore(root, data, kernel = null, problem = "") {
  root.classList.add("heart-explorer");
  root.innerHTML = TEMPLATE;
  const own = Math.random().toString(36).slice(2);   // tells this explorer's controls from others'
  const find = (id) => root.querySelector(`[data-id="${id}"]`);
  const number = (x, digits) =>
    x.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "\u2212");
  /** Where a slider ends: at 3, or further out if real hearts do. */
  const reach = (i) => Math.max(data.limit, ...range(i).map((value) => Math.ceil(Math.abs(value))));
  const clip = (x, i) => Math.max(-reach(i), Math.min(reach(i), x));
  const colours = Object.fromEntries(data.classes.map(({name, colour}) => [name, colour]));

  /** From where to where the training slices lie along a coordinate: all of them, or without a
   *  share of them at either end. */
  function range(i, without = 0) {
    const values = training(run(), system())[i], last = values.length - 1;
    return [values[Math.round(without * last)], values[Math.round((1 - without) * last)]];
  }

  // -------------------------------------------------------------- state

  // start, a and b are places: {name, z, crop, source, image}, and heart once it is decoded. A
  // source knows how to find its place in another model, and what the menus and buttons then show:
  // {find() -> place, a promise of one, or null; group, patient, slice, prior}.
  const state = {run: 0, system: "dimensions", coordinate: 0, z: null, u: null, crop: 1,
                 start: null, a: null, b: null, share: 1, way: false, playing: false,
                 pixels: false, image: false, wanted: 0, wish: 0};
  const motion = {rising: true, before: null};
  const strip = {key: "", tiles: []};
  const pending = {};     // what waits for an idle moment
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
      ask("scores", {z: Array.from(z)}).then((answer) => {
        each.waiting = false;
        each.failed = !answer;
        if (!answer) return;
        each.known.set(key, {values: halves(answer.scores), side: answer.side});
        if (each.known.size > 64) each.known.delete(each.known.keys().next().value);
        invalidate();
      });
      return null;
    }
    return each.known.get(key);
  }

  /** The kernel's answer; null, and a note, if there is something wrong. */
  async function ask(what, details = {}) {
    const late = "The kernel has not answered yet. Does it run? If not, run the notebook again.";
    const waits = setTimeout(say, 5000, late);
    const answer = await kernel.ask(what, {run: state.run, ...details});
    clearTimeout(waits);
    if (answer.error || find("note").textContent === late) say(answer.error ?? "");
    return answer.error ? null : answer;
  }

  /** `look`, once the kernel has answered; null if it cannot. */
  async function seen(z) {
    const each = run();
    each.failed = false;
    for (;;) {
      const heart = look(z);
      if (heart || each.failed || run() !== each) return heart;
      await new Promise((done) => setTimeout(done, 20));
    }
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
    state.wish++;   // an answer that was asked for before comes too late
    state.z = Float64Array.from(z);
    state.u = system().to(state.z);
    state.crop = crop;
    invalidate();
  }

  /** Jump to a place, which is then what "back to start" means, and beside A it is B. */
  function begin(place) {
    stop();
    say("");
    Object.assign(state, {start: {...place, share: 1}, b: place, share: 1, way: Boolean(state.a)});
    stand(place.z, place.crop);
    find("group").value = place.source.group ?? "";
    if (place.source.patient) listSlices(place.source.patient);
    find("slice").value = place.source.slice ?? "";
    find("imageLabel").hidden = !place.image;
    find("about").textContent = `Start: ${place.name}.`;
    find("mean").setAttribute("aria-pressed", place.source === meanSource);
    [...find("priors").children].forEach((button, k) =>
      button.setAttribute("aria-pressed", place.source.prior === k));
    for (const id of ["level", "phase"]) {
      find(id).classList.toggle("unused", place.source.group === undefined);
    }
  }

  const meanSource = {find: () => ({name: "mean of real hearts", ...meanOf(run()),
                                    source: meanSource})};

  /** The mean of a group, level and phase, as in the menus. */
  function groupSource(group, level, phase) {
    const words = [group < 0 ? "all groups" : data.groups[group].name, LEVELS[level],
                   data.phases[phase]].filter(Boolean);
    const source = {group: String(group), find() {
      const mean = meanOf(run(), group, level, phase);
      if (!mean) say("This model has seen no such slice in training: choose another mean.");
      return mean && {...mean, source,
                      name: `mean of ${words.join(", ")} (${mean.count} slices)`};
    }};
    return source;
  }

  const chosen = () => ["group", "level", "phase"].map((id) => Number(find(id).value));

  function groupHeart() {
    if (find("group").value === "") return;
    const found = groupSource(...chosen()).find();
    if (found) begin(found);
  }

  /** From the mean of a group at ED to that at ES, and back. */
  function beat() {
    const [group, level] = find("group").value === "" ? [-1, chosen()[1]] : chosen();
    const [ed, es] = [0, 1].map((phase) => groupSource(group, level, phase).find());
    if (!ed || !es) return;
    compare(ed, es);
    play();
  }

  function randomHeart(k) {
    const prior = run().priors[k];
    begin({name: `random heart from ${prior.title}`, z: sample(prior, run().latent_dim),
           crop: run().crop_mm, source: {prior: k}});
    explain(prior);
  }

  // -------------------------------------------------------------- A and B

  function pin() {
    const {a, start, z, crop} = state;
    stop();
    if (a) {
      Object.assign(state, {a: null, b: start, way: false, share: 1});
      start.share = 1;
    } else {
      const moved = start.z.some((value, i) => value !== z[i]);
      state.a = moved ? {name: `${start.name}, moved`, z, crop, source: {}} : {...start};
    }
    invalidate();
  }

  /** Two places, and the way from one to the other. */
  function compare(a, b, share = 0) {
    begin(share < 0.5 ? a : b);
    Object.assign(state, {a: {...a}, b});
    state.start.share = Math.round(share);
    along(share);
  }

  function swap() {
    const {a, b, share} = state;
    stop();
    Object.assign(state, {a: b, b: a});
    state.start.share = 1 - state.start.share;
    along(1 - share);
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
    state.wish++;
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

  const rows = new Map();   // coordinate -> {element, input, output, ends, drawn: whether they are}

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
      `Moved one at a time, ${share("dimensions")} of the hearts are valid along the dimensions and `
      + `${share("axes")} along the axes. `)
      + "Blue: where 98 % of the real hearts lie; the small hearts are its two ends. The words "
      + "tell what a move to the right does.";
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
    const ends = [0, 1].map(() => make("canvas", {className: "end", ariaHidden: "true"}));
    const element = make("div", {className: "slider"}, ends[0], label, output, input, ends[1]);
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
    return {element, input, output, ends};
  }

  /** Beside each slider the mean of real hearts, moved to both ends of the blue part: drawn between
   *  frames, a slider at a time, where the page has the decoder. */
  function fillEnds() {
    if (pending.ends || !run().layers) return;
    pending.ends = true;
    idle(() => {
      pending.ends = false;
      if (!run().layers) return;
      const {to, from} = system(), next = [...rows].find(([, {drawn}]) => !drawn);
      if (!next || (frame && !state.playing)) return;   // that frame comes back here
      const [i, row] = next, middle = to(meanOf(run()).z), kept = system().ends ??= {};
      kept[i] ??= range(i, 0.01).map((value) => look(from(middle.map(
        (other, k) => k === i ? value : other)), 1));
      row.drawn = true;
      row.ends.forEach((canvas, k) => {
        const ratio = window.devicePixelRatio || 1, side = Math.round(36 * ratio);
        canvas.width = canvas.height = side;
        paint(canvas.getContext("2d"), colours, kept[i][k], 0, 0, side,
              {crop: run().crop_mm, frame: CLOSER * run().crop_mm});
      });
      fillEnds();
    });
  }

  function menu(id, entries) {
    find(id).replaceChildren(...entries.map(([value, words]) => new Option(words, value)));
  }

  function listMeans() {
    menu("group", [["", "choose \u2026"], [-1, "all groups"],
                   ...data.groups.map(({name, title}, g) =>
                     [g, [name, title].filter(Boolean).join(", ")])]);
    menu("level", [[-1, "base to apex"], ...LEVELS.map((name, k) => [k, name])]);
    menu("phase", [[-1, data.phases.length > 1 ? data.phases.join(" and ") : "any phase"],
                   ...data.phases.map((name, k) => [k, name])]);
    find("level").value = 1;
    if (data.phases.length) find("phase").value = 0;
    find("beat").hidden = data.phases.length < 2;
  }

  function listPriors() {
    find("priors").replaceChildren(...run().priors.map(({title}, k) => {
      const button = make("button", {className: "start", textContent: title});
      button.addEventListener("click", () => randomHeart(k));
      return button;
    }));
  }

  function say(words) {
    find("note").textContent = words;
    find("note").hidden = !words;
  }

  /** Why N(0, I) gives blobs here, where it does. */
  function explain(prior) {
    const {priors, latent_dim: size} = run(), best = priors.at(-1);
    if (prior.kind !== "standard" || prior.valid >= 0.9 || prior === best) return;
    const percent = ({valid}) => `${number(100 * valid, 0)} %`;
    const middle = look(new Float64Array(size), 1)?.broken ?? [];
    say(`Of random z from N(0, I), ${percent(prior)} give a valid heart`
        + (middle.length ? ` (its middle, z = 0: ${middle.join("; ")})` : "")
        + ", because real hearts fill a small part of it, and only there the network has learnt; "
        + `of z from the ${best.title}, which covers that part, ${percent(best)} do.`);
  }

  /** Another run: of what is shown, and of A, it shows the same patient or group; else its own mean
   *  heart. */
  async function open(index, restore = true) {
    const next = data.runs[index];
    state.wanted = index;
    if (!next.mu) {
      next.asked ??= ask("run", {run: index});   // once, however often it is clicked
      const answer = await next.asked;
      next.asked = null;
      if (!answer && state.wanted === index) {
        state.wanted = state.run;
        listRuns();
      }
      if (answer && !next.mu) Object.assign(next, answer);
      if (state.wanted !== index) return;   // meanwhile, yet another was chosen
    }
    prepare(next);
    const {start, a, b, share} = state, before = state.start && run();
    Object.assign(state, {run: index, a: null, way: false});
    const {valid_along: valid, systems} = run();
    state.system = systems.axes && valid.axes > valid.dimensions ? "axes" : "dimensions";
    listPriors();
    begin(meanSource.find());
    listSystems();
    listCoordinates();
    if (start && restore) again(start, a, b, share, before.label);
  }

  async function again(start, a, b, share, model) {
    const mine = state.wish, sources = [start, a, a && b].map((place) => place?.source);
    const places = await Promise.all(sources.map((source) => source?.find?.() ?? null));
    if (state.wish !== mine) return;   // meanwhile, the hand has gone on
    const [first, newA, newB] = places;
    if (newA && newB) {
      compare(newA, newB, share);
    } else {
      if (first) begin(first);
      if (a) say(`Only ${model} can draw ${newA ? b.name : a.name}: pin another heart as A.`);
    }
  }

  // -------------------------------------------------------------- patients, who are in the kernel

  const known = {patients: []};

  async function loadPatients() {
    say("Reading the label data \u2026");
    const answer = await ask("patients");
    if (!answer) return;
    say("");
    known.patients = answer.patients;
    find("load").hidden = true;
    find("patient").hidden = find("slice").hidden = false;
    menu("patient", [["", "choose \u2026"], ...answer.patients.map(
      ({name, group}, k) => [k, group ? `${name} (${group})` : name])]);
    menu("slice", [["", ""]]);
  }

  function listSlices(index) {
    const patient = known.patients[index];
    find("patient").value = index;
    menu("slice", [["", "slice \u2026"], ...(patient?.slices ?? []).map(
      ({name}, k) => [k, name])]);
  }

  function patientHeart() {
    const index = find("patient").value;
    listSlices(index);
    if (index === "") return;
    find("slice").value = Math.floor(known.patients[index].slices.length / 2);
    sliceHeart();
  }

  /** A slice at ED and ES, from one to the other, or the one there is. */
  async function sliceHeart() {
    const [patient, slice] = [find("patient").value, find("slice").value];
    if (slice === "") return;
    const mine = ++state.wish;
    const [first, second] = await Promise.all(
      sliceSources(patient, slice).map((source) => source.find()));
    if (state.wish !== mine) return;
    if (second) compare(first, second);
    else if (first) begin(first);
  }

  /** The sources of a slice at ED and at ES; the answer to one of them tells of both. */
  function sliceSources(patient, slice) {
    const {rows} = known.patients[patient].slices[slice];
    let asked = null;
    return rows.map((_, k) => {
      const source = {patient, slice, async find() {
        const answer = await (asked ??= ask("slice", {rows}));
        asked = null;   // another model is asked anew
        if (!answer) return null;
        const {name, z, crop, image} = answer.hearts[k];
        return {name, z: Float64Array.from(z), crop, source, image: image && await picture(image)};
      }};
      return source;
    });
  }

  async function picture(source) {
    const image = new Image();
    image.src = `data:image/png;base64,${source}`;
    await image.decode();
    return image;
  }

  // -------------------------------------------------------------- drawing

  /** Side in mm of the frame that hearts are drawn in. One for all hearts between A and B, so that
   *  a larger heart is drawn larger, whatever part of its slice it was cut from. */
  const frameMm = () =>
    Math.max(run().crop_mm, state.start.crop, state.a?.crop ?? 0, state.b.crop);

  /** now: its measures. */
  function drawHeart(now) {
    const {ctx, w, h, font} = surface(find("heart")), side = Math.min(w, h) - 2;
    const x = (w - side) / 2, y = 1, frame = frameMm(), {start, a, b} = state;
    const beside = state.way ? (state.share < 0.5 ? a : b) : start;
    paint(ctx, colours, shown.heart, x, y, side, {crop: state.crop, frame, pixels: state.pixels,
                                                  image: state.image ? beside.image : null});
    if (a) trace(ctx, a.heart, x, y, side, {crop: a.crop, frame, colour: CHOSEN, dash: [7, 4]});
    else trace(ctx, start.heart, x, y, side, {crop: start.crop, frame, colour: INK});
    ctx.strokeStyle = shown.heart.broken.length ? CHOSEN : LINE;
    ctx.lineWidth = shown.heart.broken.length ? 3 : 1;
    ctx.strokeRect(x, y, side, side);
    legend(ctx, colours, x, y, side, frame, font);
    const words = shown.heart.broken.join("; "), beyond = beyondReal(now);
    find("heart").setAttribute("aria-label", `decoded heart, ${words || "valid"}`);
    find("verdict").classList.toggle("broken", Boolean(words));
    find("verdict").replaceChildren(words ? `not valid: ${words}`
      : "valid: breaks none of nine rules of anatomy");
    if (beyond.length) {
      const said = beyond.slice(0, 3).join(", ")
        + (beyond.length > 3 ? ` and ${beyond.length - 3} more` : "");
      find("verdict").append(make("span", {className: "beyond",
                                           textContent: ` \u00b7 beyond the real hearts: ${said}`}));
    }
    find("verdict").title = find("verdict").textContent;
  }

  /** What lies outside of what the training slices have: sizes, and active coordinates. */
  function beyondReal(now) {
    const outside = (value, [low, high]) => value < low - 0.05 || value > high + 0.05;
    const unit = (name) => name === "wall" ? "mm" : "cm\u00b2";
    const sizes = Object.keys(run().sizes)
      .filter((name) => outside(now[name], run().sizes[name]))
      .map((name) => `${name} ${number(now[name], 1)} ${unit(name)}`);
    return sizes.concat(system().active.filter((i) => outside(state.u[i], range(i)))
      .map((i) => `${system().label(i)} ${number(state.u[i], 1)}`));
  }

  function drawMeasures(now) {
    const {heart, crop} = state.a ?? state.start, frame = frameMm();
    const then = measure(heart.labels, heart.side, crop);
    const beside = find("reference").textContent = state.a ? "A" : "start";
    const lines = Object.keys(NAMES).map((name) => [`${name} area, cm\u00b2`, name])
      .concat([["wall, mm", "wall"]]);
    const rounded = (value) => Math.round(10 * value) / 10;   // the numbers shown add up
    const word = (value) => Number.isNaN(value) ? "none" : number(value, 1);
    const cells = lines.map(([words, name]) => {
      const change = rounded(now[name]) - rounded(then[name]);
      return [words, word(now[name]), word(then[name]), Number.isNaN(change) ? ""
        : (change >= 0.05 ? "+" : "") + number(change, 1)];
    });
    const score = dice(inFrame(shown.heart, state.crop, frame), inFrame(heart, crop, frame));
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

  const idle = window.requestIdleCallback
    ? (work) => requestIdleCallback(work, {timeout: 300}) : (work) => setTimeout(work, 20);

  /** Decode the strip a tile at a time, between frames: the heart never waits for more than one. */
  function fillStrip() {
    if (pending.strip || !strip.tiles.includes(null)) return;
    pending.strip = true;
    idle(() => {
      pending.strip = false;
      if (frame && !state.playing) return;  // that frame comes first, and then here again
      const k = strip.tiles.indexOf(null);
      if (k < 0) return;
      strip.tiles[k] = look(onStrip(k / (STEPS - 1)), 2);
      drawStrip();
      if (strip.tiles[k]) fillStrip();      // else the kernel's answer comes back here
    });
  }

  function drawStrip() {
    const {ctx, w, h, font} = surface(find("strip")), gap = 4;
    const tile = Math.min((w - gap * (STEPS - 1) - 4) / STEPS, h - 2 - 2.2 * font);
    const left = (w - STEPS * tile - (STEPS - 1) * gap) / 2;
    const middle = (share) => left + tile / 2 + share * (STEPS - 1) * (tile + gap);
    const i = state.coordinate, end = reach(i);
    const now = state.way ? state.share : (clip(state.u[i], i) / end + 1) / 2;
    strip.tiles.forEach((heart, k) => {
      const x = middle(k / (STEPS - 1)) - tile / 2;
      if (heart) paint(ctx, colours, heart, x, 1, tile, {
        crop: cropOnStrip(k / (STEPS - 1)), frame: frameMm(), pixels: state.pixels});
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
    find("stripNote").textContent = state.way ? `A: ${state.a.name}; B: ${state.b.name}`
      : `all others as now; \u2715: not valid (${
        strip.tiles.includes(null) ? "\u2026" : broken} of ${STEPS})`;
    find("strip").setAttribute("aria-label",
      `${find("stripTitle").textContent}: ${STEPS} hearts, ${broken} of them not valid`);
  }

  function drawSpread() {
    const {ctx, w, h, font} = surface(find("spread"));
    const values = training(run(), system())[state.coordinate];
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
    const {ctx, w, h, font} = surface(find("bars")), {order, active, dice: scores} = system();
    const influence = (i) => 1 - (scores[i] ?? 1);
    const ranked = [...order].sort((a, b) => influence(b) - influence(a));
    const highest = Math.max(1e-6, influence(ranked[0]));
    const step = w / ranked.length, bottom = h - 2.6 * font, top = 1.4 * font;
    ranked.forEach((i, rank) => {
      const height = Math.max(1, influence(i) / highest * (bottom - top));
      const chosen = i === state.coordinate;
      if (chosen) {
        text(ctx, number(influence(i), 2), Math.max(1.1 * font, (rank + 0.5) * step),
             bottom - height - 0.7 * font, {colour: CHOSEN});
      }
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
    const {ctx, w, h, font} = surface(find("plane")), each = run(), {plane} = each;
    each.box ??= [0, 1].map((axis) => {
      const values = plane.filter((_, k) => k % 2 === axis);
      return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    });
    // One scale for both axes, because a distance is drawn as a ring.
    const scale = 0.92 * Math.min(w / (each.box[0][1] - each.box[0][0] || 1),
                                  h / (each.box[1][1] - each.box[1][0] || 1));
    const centre = each.box.map(([low, high]) => (low + high) / 2);
    const x = (value) => w / 2 + (value - centre[0]) * scale;
    const high = (each.box[1][1] - each.box[1][0]) / 2 + each.error_p90;
    const y = (value) => Math.min(h / 2, high * scale) - (value - centre[1]) * scale;
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
    for (const [id, name] of state.a ? [["A", state.a.name], ["B", state.b.name]] : []) {
      find(`name${id}`).textContent = `${id}: ${name.replace(/^mean of | \(.*\)/g, "")}`;
      find(`name${id}`).title = name;
    }
    find("way").value = state.share;
    find("wayRow").classList.toggle("left", !state.way);   // the heart is at no place from A to B
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
    return Promise.all([-2, -1, 0, 1, 2].map(async (value, k) => {
      const share = state.way ? k / 4 : (value / reach(state.coordinate) + 1) / 2;
      return {heart: await seen(onStrip(share)), crop: cropOnStrip(share),
              words: state.way ? ["A", "", "", "", "B"][k] : number(value, 0)};
    }));
  }

  const stripTitle = () => `${run().label}: ${find("stripTitle").textContent}`
    + (state.way ? `, ${state.a.name} to ${state.b.name}` : "");

  const stripFoot = () => [run().stamp, run().licence].filter(Boolean);

  const exports = {
    async png(side = 1024) {
      const {canvas, ctx} = sheet(side, side, side / 36);
      paint(ctx, colours, shown.heart, 0, 0, side, {crop: state.crop, frame: frameMm(),
                                                    pixels: state.pixels});
      legend(ctx, colours, 0, 0, side, frameMm(), side / 36);
      save("heart.png", await blobOf(canvas), "image/png");
    },
    async svg() {
      save(`${stripName()}.svg`, stripSvg(colours, await fiveHearts(), stripTitle(), stripFoot(),
                                          frameMm()), "image/svg+xml");
    },
    async stripPng() {
      const canvas = stripPicture(colours, await fiveHearts(), stripTitle(), stripFoot(),
                                  {frame: frameMm(), pixels: state.pixels});
      save(`${stripName()}.png`, await blobOf(canvas), "image/png");
    },
    async gif(side = 384, count = 24, ms = 60) {
      const {ctx} = sheet(side, side, 16), frames = [], steps = Array.from(
        {length: count}, (_, k) => (1 - Math.cos(2 * Math.PI * k / count)) / 2);
      const places = steps.map((share) => [onStrip(share), cropOnStrip(share)]);
      const frame = frameMm(), name = state.way ? "beat.gif" : "sweep.gif";
      for (const [z, crop] of places) {
        paint(ctx, colours, await seen(z), 0, 0, side, {crop, frame, pixels: state.pixels});
        legend(ctx, colours, 0, 0, side, frame, 16);
        frames.push(ctx.getImageData(0, 0, side, side));
      }
      save(name, gif(frames, ms), "image/gif");
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
    if (state.playing && shown.ready) advance(time);
    const began = performance.now();
    const heart = look(state.z);
    for (const place of [state.start, state.a]) if (place) place.heart ??= look(place.z);
    const ready = shown.ready = heart && state.start.heart && (!state.a || state.a.heart);
    if (ready) {
      shown.heart = heart;
      const now = measure(heart.labels, heart.side, state.crop);
      drawHeart(now);
      drawMeasures(now);
      shown.drawn.heart = performance.now();
      shown.milliseconds = shown.drawn.heart - began;
    }
    follow();
    if (ready) {
      renewStrip();
      drawStrip();
      drawSpread();
      drawBars();
      drawPlane();
      fillEnds();
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
    const answer = await ask("nearest", {z});
    if (answer && z.every((value, i) => value === state.z[i])) {
      find("nearest").textContent = answer.words;
    }
  }

  const clicks = {
    beat, play, pin, swap, load: loadPatients, ...exports,
    mean: () => begin(meanSource.find()),
    reset() {
      stop();
      Object.assign(state, {way: Boolean(state.a), share: state.start.share});
      stand(state.start.z, state.start.crop);
    },
  };
  for (const [id, act] of Object.entries(clicks)) find(id).addEventListener("click", () => act());
  for (const id of ["group", "level", "phase"]) find(id).addEventListener("change", groupHeart);
  find("patient").addEventListener("change", patientHeart);
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
  for (const {colour, name, title} of data.groups) {
    find("key").append(make("span", {title}, swatch(colour), ` ${name}`), " ");
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
    data,
    /** What the kernel sets. */
    async go(index, z) {
      if (!data.runs[index]) return;
      if (index !== state.run) {
        find("runs").querySelectorAll("input")[index].checked = true;
        await open(index, false);
      }
      if (state.run !== index || z.length !== state.z.length) return;
      if (state.z.some((value, i) => Math.abs(value - z[i]) > 1e-4)) stand(z);
    },
    decode: (index, z) => {
      const each = prepare(data.runs[index]);
      return Array.from(likeliest(enlarge((each.decoder ??= makeDecoder(each))(z), each.size)));
    },
    place: (index, z) => place(prepare(data.runs[index]), z),
    brokenRules: (labels, side) => brokenRules(Uint8Array.from(labels), side),
    stand,
    get state() {
      return {...state, z: Array.from(state.z), u: Array.from(state.u), start: state.start.name,
              milliseconds: shown.milliseconds, frames: shown.frames, drawn: {...shown.drawn},
              verdict: shown.heart?.broken ?? null,
              settled: !frame && !strip.tiles.includes(null) && !pending.ends
                       && state.wanted === state.run};
    },
  };
}
