// The page of `seamless playground`. Whatever comes from manifests is written by strangers: it goes
// into the page as text alone (textContent, attributes), never as HTML.

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const MOST_LINK = 1024 * 1024; // characters that a link may unfold to
const OWN = "";

const PHASES = {
  starting: "starting",
  ready: "ready",
  available: "available",
  sleeping: "in its preStop hook",
  stopping: "stopping",
  killed: "killed",
};

// The settings that are always in view; the others are a click away.
const SLIDERS = { "pre-stop-sleep": [120, 1], "min-ready": [120, 1], "shutdown-time": [300, 5] };
const IN_VIEW = [...Object.keys(SLIDERS), "strategy", "pre-stop-existing"];
const LABELS = {
  "pre-stop-sleep": "preStop sleep",
  "min-ready": "minReadySeconds",
  "shutdown-time": "Shutdown time",
  strategy: "Strategy",
  "pre-stop-existing": "An existing preStop",
};

const TIMINGS = {
  start: { label: "Application start", max: 120, step: 1, unit: "s", help: "from running until it answers" },
  stop: { label: "Application stop", max: 120, step: 1, unit: "s", help: "from SIGTERM until it has ended" },
  service: { label: "Slowest node learns", max: 60, step: 1, unit: "s", help: "that a pod goes, after its deletion" },
  rate: { label: "Requests", max: 2000, step: 10, unit: "/s", help: "of the whole workload" },
  balancer: { label: "Load balancer learns", max: 180, step: 5, unit: "s", help: "that a pod goes" },
};

const state = {
  text: "",
  own: "",
  settings: {}, // by name: what an annotation would say
  timings: {}, // what differs from the server's
  chosen: 0,
  answer: null,
  notice: null, // what is wrong with a link, until something else is done
  options: null,
};
const controls = new Map(); // by the setting's name: how to show its value

// --- small things ---------------------------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function seconds(value) {
  if (value === null || value === undefined) return "never";
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  const hours = Math.floor(whole / 3600), minutes = Math.floor((whole % 3600) / 60), rest = whole % 60;
  return [hours && `${hours} h`, minutes && `${minutes} min`, rest && `${rest} s`].filter(Boolean).join(" ");
}

function parseDuration(text) {
  const found = /^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?$/.exec(text ?? "");
  if (!found || !text) return null;
  return Number(found[1] ?? 0) * 3600 + Number(found[2] ?? 0) * 60 + Number(found[3] ?? 0);
}

const numbers = new Intl.NumberFormat("en");

function range([low, high]) {
  if (high === 0) return "none";
  return low === high ? numbers.format(high) : `${numbers.format(low)} to ${numbers.format(high)}`;
}

const tell = (text) => { byId("told").textContent = text; };

// --- asking ---------------------------------------------------------------------------------------

let asking = false, again = false, waiting = 0;

function changed(delay = 0) {
  state.notice = null;
  if (location.hash) history.replaceState(null, "", location.pathname); // the link says something else now
  clearTimeout(waiting);
  waiting = setTimeout(ask, delay);
}

async function ask() {
  if (asking) { again = true; return; }
  asking = true;
  byId("result").setAttribute("aria-busy", "true");
  do {
    again = false;
    try {
      const response = await fetch("/api/preview", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ text: state.text, settings: state.settings, timings: timings() }),
      });
      state.answer = response.ok ? await response.json() : { error: { text: (await response.text()).trim() } };
    } catch {
      state.answer = { error: { text: "the playground does not answer: does its command still run?" } };
    }
  } while (again);
  asking = false;
  byId("result").setAttribute("aria-busy", "false");
  show();
}

function timings() {
  const asked = { application: {} };
  const { start, stop, service, rate, balanced, balancer } = state.timings;
  if (start !== undefined) asked.application.start = start;
  if (stop !== undefined) asked.application.stop = stop;
  if (rate !== undefined) asked.rate = rate;
  if (service !== undefined) {
    asked.service = { remove: { p50: Math.min(0.1, service), p99: Math.min(1, service), max: service } };
  }
  if (balanced === false) asked.balancer = null;
  else if (balanced || balancer !== undefined) asked.balancer = balancer === undefined ? {} : { remove: balancer };
  return asked;
}

// --- the editor -----------------------------------------------------------------------------------

const editor = byId("text");
let wrongLine = 0;

function lineNumbers() {
  const count = state.text.split("\n").length;
  const lines = [];
  for (let number = 1; number <= count; number += 1) {
    lines.push(number === wrongLine ? element("b", { textContent: `▸${number}` }) : String(number), "\n");
  }
  byId("lines").replaceChildren(...lines);
  byId("lines").scrollTop = editor.scrollTop;
}

function setText(text) {
  state.text = text;
  if (editor.value !== text) editor.value = text;
  lineNumbers();
}

function problem(error) {
  const place = byId("problem");
  const line = error?.line ?? 0;
  if (line !== wrongLine) { wrongLine = line; lineNumbers(); }
  editor.setAttribute("aria-invalid", String(Boolean(error)));
  const text = error ? (line ? `Line ${line}, column ${error.column}: ${error.text}` : error.text) : "";
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  place.hidden = !error;
  place.replaceChildren(text);
  if (line) place.append(element("button", { type: "button", textContent: `Go to line ${line}`, onclick: () => goTo(line) }));
}

function goTo(line) {
  const lines = state.text.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
  editor.focus();
  editor.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
  editor.scrollTop = Math.max(0, (line - 4) * parseFloat(getComputedStyle(editor).lineHeight));
}

async function take(files) {
  const texts = [];
  let size = 0;
  for (const file of files) {
    size += file.size;
    if (size > state.options.mostText) {
      problem({ text: `${file.name}: more than ${numbers.format(state.options.mostText)} bytes in all` });
      return;
    }
    texts.push(await file.text());
  }
  if (!texts.length) return;
  edited(texts.map((each) => each.replace(/\n?$/, "\n")).join("---\n"), 0);
  tell(`${files.length === 1 ? files[0].name : `${files.length} files`} opened`);
}

function edited(text, delay) {
  setText(text);
  state.own = text;
  state.chosen = delay ? state.chosen : 0;
  byId("example").value = OWN;
  changed(delay);
}

function wireEditor() {
  editor.addEventListener("input", () => edited(editor.value, 60));
  editor.addEventListener("scroll", () => { byId("lines").scrollTop = editor.scrollTop; });
  const zone = byId("drop");
  for (const name of ["dragover", "drop", "dragleave"]) {
    document.addEventListener(name, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault(); // else the browser would leave this page for the file
      zone.classList.toggle("over", name === "dragover");
      if (name === "drop") take([...event.dataTransfer.files]);
    });
  }
  byId("open").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", (event) => { take([...event.target.files]); });
}

function wireExamples() {
  const select = byId("example");
  select.append(element("option", { value: OWN, textContent: "Your own" }));
  for (const { name, title } of state.options.examples) {
    select.append(element("option", { value: name, textContent: `${name}: ${title}` }));
  }
  select.addEventListener("change", () => {
    const found = state.options.examples.find((each) => each.name === select.value);
    state.chosen = 0;
    setText(found ? found.text : state.own);
    editor.scrollTop = 0;
    changed();
  });
}

// --- the controls ---------------------------------------------------------------------------------

function undoButton(label, undo) {
  return element("button", { type: "button", className: "undo", textContent: "undo", "aria-label": `Undo: ${label}`, hidden: true, onclick: undo });
}

function setting(name, text) {
  if (text === undefined) delete state.settings[name];
  else state.settings[name] = text;
  settingsShown();
  changed();
}

function settingControl(given) {
  const { name, help, takes, choices } = given;
  const id = `setting-${name}`, label = LABELS[name] ?? name;
  const hint = element("span", { className: "hint", id: `${id}-hint` });
  const wrong = element("span", { className: "wrong", id: `${id}-wrong`, hidden: true });
  const undo = undoButton(label, () => { setting(name); field.focus(); });
  const value = element("output", { htmlFor: id });
  const described = `${id}-hint ${id}-wrong`;
  let field;
  if (name in SLIDERS) {
    const [max, step] = SLIDERS[name];
    field = element("input", { type: "range", min: 0, max, step, id, className: "field", "aria-describedby": described });
    field.addEventListener("input", () => setting(name, `${field.value}s`));
  } else if (choices.length) {
    field = element("select", { id, className: "field", "aria-describedby": described });
    field.append(...choices.map((each) => element("option", { value: each, textContent: each })));
    field.addEventListener("change", () => setting(name, field.value));
  } else {
    field = element("input", { type: "text", id, className: "field", maxLength: 4096, spellcheck: false, "aria-describedby": described });
    field.addEventListener("input", () => setting(name, field.value.trim() || undefined));
  }
  const box = element("div", { className: "control" },
    element("label", { htmlFor: id, textContent: label, title: help }),
    element("span", { className: "value" }, ...(name in SLIDERS ? [value] : []), undo), field, hint, wrong);
  controls.set(name, (resolved, refusal, applied) => {
    const mine = state.settings[name];
    const shown = mine ?? resolved?.value ?? given.default;
    box.classList.toggle("set", mine !== undefined);
    undo.hidden = mine === undefined;
    if (field.type === "range") {
      const parsed = parseDuration(shown);
      if (parsed !== null) field.max = Math.max(SLIDERS[name][0], parsed);
      field.value = parsed ?? 0;
      // "none" of a setting that is a length is no length; of another, it is that nobody said one.
      value.textContent = parsed === null ? (name === "shutdown-time" ? "not set" : "none") : seconds(parsed);
      field.setAttribute("aria-valuetext", value.textContent);
    } else if (field.tagName === "SELECT") {
      field.value = shown;
    } else if (document.activeElement !== field) {
      field.value = mine ?? (resolved && resolved.value !== "none" ? resolved.value : "");
    }
    field.placeholder = "none";
    const unset = name === "shutdown-time" && parseDuration(shown) === null;
    let source = unset ? "the grace period it has" : mine !== undefined ? "set here" : resolved ? (resolved.source === "built in" ? "built in" : `from the ${resolved.source}`) : "";
    if (name in SLIDERS && !unset && resolved && resolved.value !== "none" && !applied.includes(name)) source += ", not applied";
    hint.textContent = name in SLIDERS || choices.length ? source : [source, `takes ${takes.replaceAll("`", "")}`].filter(Boolean).join("; ");
    field.setAttribute("aria-invalid", String(Boolean(refusal)));
    wrong.hidden = !refusal;
    wrong.textContent = refusal ?? "";
  });
  return box;
}

function settingsShown() {
  const workload = state.answer?.workloads?.[state.chosen];
  for (const [name, showValue] of controls) {
    const refusal = name in state.settings ? workload?.refused.find((each) => each.own && each.setting === name)?.text : undefined;
    showValue(workload?.settings[name], refusal, workload?.applied ?? []);
  }
}

const timed = [];

function timing(name, value) {
  if (value === undefined) delete state.timings[name];
  else state.timings[name] = value;
  timingsShown();
  changed();
}

function timingControl(name) {
  const { label, max, step, unit, help } = TIMINGS[name];
  const id = `timing-${name}`;
  const value = element("output", { htmlFor: id });
  const undo = undoButton(label, () => { timing(name); field.focus(); });
  const field = element("input", { type: "range", min: 0, max, step, id, className: "field", "aria-describedby": `${id}-hint` });
  field.addEventListener("input", () => timing(name, Number(field.value)));
  const box = element("div", { className: "control" },
    element("label", { htmlFor: id, textContent: label }),
    element("span", { className: "value" }, value, undo), field,
    element("span", { className: "hint", id: `${id}-hint`, textContent: help }));
  timed.push(() => {
    const mine = state.timings[name], shown = mine ?? state.options.timings[name];
    field.max = Math.max(max, shown);
    field.value = shown;
    value.textContent = unit === "s" ? seconds(shown) : `${numbers.format(shown)}${unit}`;
    field.setAttribute("aria-valuetext", value.textContent);
    undo.hidden = mine === undefined;
    box.classList.toggle("set", mine !== undefined);
    if (name === "balancer") box.hidden = !(state.timings.balanced ?? state.options.timings.balanced);
  });
  return box;
}

function balancerControl() {
  const field = element("input", { type: "checkbox", id: "timing-balanced", "aria-describedby": "timing-balanced-hint" });
  field.addEventListener("change", () => {
    if (!field.checked) delete state.timings.balancer;
    timing("balanced", field.checked === state.options.timings.balanced ? undefined : field.checked);
  });
  const box = element("div", { className: "control check" }, field,
    element("label", { htmlFor: "timing-balanced", textContent: "A load balancer outside" }),
    element("span", { className: "hint", id: "timing-balanced-hint", textContent: "which sends requests to pods itself" }));
  timed.push(() => {
    field.checked = state.timings.balanced ?? state.options.timings.balanced;
    box.classList.toggle("set", state.timings.balanced !== undefined);
  });
  return box;
}

const timingsShown = () => timed.forEach((each) => each());

function wireControls() {
  const found = new Map(state.options.settings.map((each) => [each.name, each]));
  for (const name of IN_VIEW) if (found.has(name)) byId("settings").append(settingControl(found.get(name)));
  for (const [name, each] of found) if (!IN_VIEW.includes(name)) byId("more-settings").append(settingControl(each));
  for (const name of ["start", "stop", "service", "rate"]) byId("timings").append(timingControl(name));
  byId("timings").append(balancerControl(), timingControl("balancer"));
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => {
    state.settings = {};
    state.timings = {};
    settingsShown();
    timingsShown();
    changed();
    tell("All changes are undone");
  });
}

// --- the result -----------------------------------------------------------------------------------

function show() {
  const { answer } = state;
  problem(answer.error ?? state.notice);
  byId("result").classList.toggle("stale", Boolean(answer.error)); // what is there is of the text before
  if (answer.error) { byId("brief").textContent = "The manifests cannot be read"; byId("brief").hidden = false; return; }
  state.chosen = Math.min(state.chosen, Math.max(0, answer.workloads.length - 1));
  const workload = answer.workloads[state.chosen];
  workloadsShown();
  settingsShown();
  headline(workload);
  totals(workload?.rollout);
  findings(workload);
  diff(workload);
  byId("copy").disabled = !workload;
  timeline();
}

function workloadsShown() {
  const place = byId("workloads"), { workloads } = state.answer;
  place.hidden = workloads.length < 2;
  const focused = [...place.children].indexOf(document.activeElement);
  place.replaceChildren(...workloads.map((each, index) => element("button", {
    type: "button",
    textContent: each.name,
    "aria-pressed": String(index === state.chosen),
    onclick: () => { state.chosen = index; show(); },
  })));
  if (focused >= 0) place.children[Math.min(focused, workloads.length - 1)]?.focus();
}

function headline(workload) {
  const parts = [];
  const word = (text, className) => parts.push(element("span", { className, textContent: text }));
  if (!workload) parts.push("Paste a Deployment, StatefulSet, DaemonSet or Rollout to see what becomes of it.");
  else if (workload.refused.length) { word("It would be refused: ", "bad"); parts.push("a setting says nothing that is understood."); }
  else if (!workload.rollout.admitted) parts.push(`${workload.changed ? "It is changed" : "It stays as it is"}. Its rollout is not shown: ${workload.rollout.notSimulated}.`);
  else {
    const { written, admitted } = workload.rollout;
    const before = written.requestsAtRisk, after = admitted.requestsAtRisk;
    if (!workload.changed) parts.push("Nothing changes. ");
    if (before[1] === 0 && after[1] === 0) { word("No request", "good"); parts.push(" at risk in a rollout."); }
    else if (String(before) === String(after)) { word(`${before[0] ? "" : "Up to "}${range(before[0] ? before : [before[1], before[1]])} requests`, "bad"); parts.push(workload.changed ? " at risk in each rollout, now as before: the findings say why." : " at risk in each rollout."); }
    else {
      word(before[1] ? `${before[0] ? "" : "Up to "}${range(before[0] ? before : [before[1], before[1]])} requests` : "No request", before[1] ? "bad" : "good");
      parts.push(" at risk in each rollout as it is written; ");
      if (after[1] === 0) word("none", "good");
      else word(`${after[0] ? "" : "up to "}${range(after[0] ? after : [after[1], after[1]])}`, after[1] < before[1] ? "good" : "bad");
      parts.push(" with Seamless Rollouts.");
    }
    if (admitted.rolledOutSeconds === null) parts.push(` It does not finish by itself: ${admitted.unfinished ?? "a step waits for somebody"}.`);
    else if (workload.changed && Math.round(admitted.rolledOutSeconds) !== Math.round(written.rolledOutSeconds ?? -1)) {
      parts.push(` It takes ${seconds(admitted.rolledOutSeconds)}`, written.rolledOutSeconds === null ? "." : ` instead of ${seconds(written.rolledOutSeconds)}.`);
    } else parts.push(` It takes ${seconds(admitted.rolledOutSeconds)}.`);
  }
  const text = parts.map((each) => each.textContent ?? each).join("");
  if (byId("headline").textContent !== text) byId("headline").replaceChildren(...parts);
  const rollout = workload?.rollout.admitted;
  byId("brief").hidden = !workload;
  byId("brief").textContent = rollout
    ? `${rollout.requestsAtRisk[1] ? `${range(rollout.requestsAtRisk)} requests` : "No request"} at risk, ${seconds(rollout.rolledOutSeconds)} ↓`
    : "See the result ↓";
}

function totals(rollout) {
  const place = byId("totals");
  if (!rollout?.admitted) { place.replaceChildren(); return; }
  const { written, admitted } = rollout;
  const from = (before, after) => (before === after ? "the same as it is written" : `${before} as it is written`);
  const row = (name, before, after, judged = "") => element("div", {}, element("dt", { textContent: name }),
    element("dd", { className: judged }, after, element("small", { textContent: from(before, after) })));
  const at = (found) => found.requestsAtRisk;
  place.replaceChildren(
    row("Requests at risk", range(at(written)), range(at(admitted)), at(admitted)[1] === 0 ? "good" : "bad"),
    row("Rolled out after", seconds(written.rolledOutSeconds), seconds(admitted.rolledOutSeconds)),
    row("Least serving", `${written.leastServing} of ${written.replicas}`, `${admitted.leastServing} of ${admitted.replicas}`),
    row("Pods at the most", numbers.format(written.mostPods), numbers.format(admitted.mostPods)),
  );
}

function findings(workload) {
  const items = [];
  const item = (kind, label, text) => items.push(element("li", { className: kind },
    element("b", { textContent: label }), element("span", { textContent: text })));
  for (const each of workload?.refused ?? []) item("error", "error", each.text);
  for (const each of workload?.warnings ?? []) item("warning", "warning", each.text);
  for (const each of workload?.leftAlone ?? []) item("note", "left alone", each);
  if (state.options.mode === "audit") item("note", "note", "audit mode: nothing is patched");
  for (const each of workload?.notes ?? []) item("note", "note", each);
  if (!items.length) items.push(element("li", { className: "none", textContent: "Nothing to say." }));
  byId("findings").replaceChildren(...items);
}

function diff(workload) {
  const classes = { "+": "add", "-": "remove", "@": "gap" };
  const lines = (workload?.diff ?? []).map(([sign, text], index) => {
    if (sign === "@") return element("span", { className: "gap", textContent: text || (index ? "⋯" : "") });
    const line = element("span", { className: classes[sign] ?? "", textContent: `${sign} ${text}` });
    return line;
  }).filter((each) => each.textContent);
  if (!lines.length) lines.push(element("span", { className: "gap", textContent: workload ? "Nothing changes." : "" }));
  byId("diff").replaceChildren(...lines);
}

// --- the timeline ---------------------------------------------------------------------------------

const SIDES = [["written", "As it is written"], ["admitted", "With Seamless Rollouts"]];
const charts = new Map();

function legend() {
  const sample = (className) => {
    const svg = drawn("svg", { viewBox: "0 0 18 10", "aria-hidden": "true" });
    svg.append(className === "loss"
      ? drawn("rect", { x: 0, y: 3.5, width: 18, height: 3, class: "risk-lane" })
      : drawn("rect", { x: 0, y: 0, width: 18, height: 10, rx: 3, class: className }));
    return svg;
  };
  byId("legend").replaceChildren(
    element("li", {}, sample("available old"), "old, available"),
    ...Object.entries(PHASES).map(([name, text]) => element("li", {}, sample(name), text)),
    element("li", {}, sample("loss"), "requests at risk"));
}

function timeline() {
  const rollout = state.answer?.workloads?.[state.chosen]?.rollout;
  const place = byId("charts");
  byId("timeline-card").hidden = !rollout?.admitted;
  if (!rollout?.admitted) {
    charts.clear();
    place.replaceChildren();
    byId("tables").replaceChildren();
    return;
  }
  if (!charts.size) place.replaceChildren();
  const end = Math.max(rollout.written.end, rollout.admitted.end, 1) * 1.02;
  for (const [side, title] of SIDES) {
    if (!charts.has(side)) charts.set(side, new Chart(place, title));
    charts.get(side).show(rollout[side], end);
  }
  const assumed = [...new Set([...rollout.written.assumptions, ...rollout.admitted.assumptions])];
  place.querySelector(".assumed")?.remove();
  if (assumed.length) place.append(element("p", { className: "assumed", textContent: `Assumed: ${assumed.join("; ")}.` }));
  if (document.querySelector(".table").open) tables();
}

class Chart {
  constructor(place, title) {
    this.title = title;
    this.note = element("span");
    this.svg = drawn("svg", { role: "img" });
    this.layers = {};
    for (const name of ["back", "bars", "front"]) {
      this.layers[name] = drawn("g");
      this.svg.append(this.layers[name]);
    }
    this.cursor = drawn("line", { class: "cursor", visibility: "hidden" });
    this.svg.append(this.cursor);
    this.bars = new Map();
    this.box = element("div", { className: "chart" }, element("h4", {}, title, this.note), this.svg);
    place.append(this.box);
    this.svg.addEventListener("pointermove", (event) => {
      const bounds = this.svg.getBoundingClientRect();
      const at = ((event.clientX - bounds.left) / bounds.width * this.width - this.left) / this.scale;
      moment(at);
    });
    this.svg.addEventListener("pointerleave", () => moment(null));
  }

  show(rollout, end) {
    this.rollout = rollout;
    this.end = end;
    const width = Math.max(280, this.box.clientWidth || 640);
    this.width = width;
    this.left = width > 520 ? 92 : 4;
    this.scale = (width - this.left - 14) / end;
    const { pods } = rollout;
    const row = pods.length <= 8 ? 17 : pods.length <= 14 ? 13 : pods.length <= 30 ? 9 : 5;
    const top = 22, bottom = top + pods.length * row;
    this.top = top;
    this.bottom = bottom;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${bottom + 22}`);
    this.axes(row);
    this.draw(row);
    const more = rollout.allPods > pods.length ? `${pods.length} of ${numbers.format(rollout.allPods)} pods are drawn` : "";
    this.note.textContent = [rollout.longestWait, more].filter(Boolean).join("; ");
    this.svg.setAttribute("aria-label", this.summary());
  }

  x(at) { return this.left + at * this.scale; }

  summary() {
    const { rolledOutSeconds, requestsAtRisk, leastServing, replicas, mostPods } = this.rollout;
    const done = rolledOutSeconds === null ? "does not finish by itself" : `rolled out after ${seconds(rolledOutSeconds)}`;
    return `${this.title}: ${done}; requests at risk: ${range(requestsAtRisk)}; at least ${leastServing} of ${replicas} serving; at most ${mostPods} pods.`;
  }

  axes(row) {
    const parts = [];
    const { rollout, top, bottom } = this;
    for (const [start, end] of rollout.windows) {
      const x = this.x(start), width = Math.max(2, this.x(Math.min(end, this.end)) - x);
      parts.push(drawn("rect", { class: "window", x, y: top - 6, width, height: bottom - top + 6 }));
      parts.push(drawn("rect", { class: "risk-lane", x, y: top - 8, width, height: 3, rx: 1.5 }));
    }
    const step = ticks(this.end, this.width - this.left);
    for (let at = 0; at <= this.end; at += step) {
      parts.push(drawn("line", { class: "axis", x1: this.x(at), x2: this.x(at), y1: top, y2: bottom + 4 }));
      parts.push(drawn("text", { x: this.x(at), y: bottom + 17, "text-anchor": at ? "middle" : "start" }, seconds(at)));
    }
    if (this.left > 20 && row >= 9) {
      rollout.pods.forEach((pod, index) => {
        parts.push(drawn("text", { x: this.left - 8, y: top + index * row + row / 2 + 4, "text-anchor": "end" }, shortName(pod)));
      });
    }
    const done = rollout.rolledOutSeconds;
    if (done !== null) {
      const x = this.x(done), late = x > this.width - 90;
      parts.push(drawn("line", { class: "mark-line", x1: x, x2: x, y1: top - 12, y2: bottom }));
      parts.push(drawn("text", { class: "mark", x: x + (late ? -5 : 5), y: top - 11, "text-anchor": late ? "end" : "start" }, `rolled out, ${seconds(done)}`));
    }
    this.layers.back.replaceChildren(...parts);
  }

  draw(row) {
    const seen = new Set();
    const height = Math.max(2, row - (row > 6 ? 3 : 1));
    const rows = new Map();
    this.rollout.pods.forEach((pod, index) => {
      const y = this.top + index * row + (row - height) / 2;
      if (!rows.has(pod.name)) rows.set(pod.name, []);
      rows.get(pod.name).push([pod, y]);
      for (const [name, start, stop] of pod.phases) {
        const key = `${pod.name} ${pod.old} ${name}`;
        seen.add(key);
        let bar = this.bars.get(key);
        if (!bar) {
          bar = drawn("rect", { class: `phase ${name}${pod.old ? " old" : ""}`, rx: Math.min(3, height / 3) });
          bar.append(drawn("title"));
          this.bars.set(key, bar);
          this.layers.bars.append(bar);
        }
        const end = stop ?? this.end;
        bar.setAttribute("x", this.x(start));
        bar.setAttribute("y", y);
        bar.setAttribute("height", height);
        bar.setAttribute("width", Math.max(0, this.x(Math.min(end, this.end)) - this.x(start)));
        bar.firstChild.textContent = `${pod.name}${pod.old ? " (old)" : ""}: ${PHASES[name]}, ${seconds(start)} to ${stop === null ? "the end" : seconds(stop)}`;
      }
    });
    for (const [key, bar] of this.bars) {
      if (!seen.has(key)) { bar.remove(); this.bars.delete(key); }
    }
    const losses = [];
    for (const { pod, start, end, text } of this.rollout.losses) {
      for (const [, y] of (rows.get(pod) ?? []).slice(0, 1)) {
        const line = drawn("line", { class: "loss", x1: this.x(start), x2: this.x(Math.min(end, this.end)), y1: y + height / 2, y2: y + height / 2 });
        line.append(drawn("title", {}, `${pod}: ${text}, ${seconds(start)} to ${seconds(end)}`));
        losses.push(line);
      }
    }
    this.layers.front.replaceChildren(...losses);
  }

  point(at) {
    const inside = at !== null && at >= 0 && at <= this.end;
    this.cursor.setAttribute("visibility", inside ? "visible" : "hidden");
    if (!inside) return null;
    for (const key of ["x1", "x2"]) this.cursor.setAttribute(key, this.x(at));
    this.cursor.setAttribute("y1", this.top - 6);
    this.cursor.setAttribute("y2", this.bottom);
    if (this.rollout.allPods > this.rollout.pods.length) return "";
    const serving = this.rollout.pods.filter((pod) => pod.phases.some(([name, start, stop]) =>
      (name === "ready" || name === "available") && start <= at && (stop === null || at < stop))).length;
    return `${serving} serving ${this.title === SIDES[0][1] ? "as written" : "as admitted"}`;
  }
}

function moment(at) {
  const said = [...charts.values()].map((each) => each.point(at)).filter(Boolean);
  byId("moment").textContent = at === null || at < 0 || !said.length ? "" : `After ${seconds(at)}: ${said.join(", ")}`;
}

function shortName(pod) {
  const workload = state.answer.workloads[state.chosen].name.split("/")[1];
  const short = pod.name.startsWith(`${workload}-`) ? pod.name.slice(workload.length + 1) : pod.name;
  const whole = /^(old|new)-/.test(short) ? short.replace("-", " ") : `${short} ${pod.old ? "old" : "new"}`;
  return whole.length > 14 ? `…${whole.slice(-13)}` : whole;
}

function ticks(end, width) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
  return steps.find((each) => end / each <= Math.max(2, width / 80)) ?? end;
}

function tables() {
  const rollout = state.answer?.workloads?.[state.chosen]?.rollout;
  if (!rollout?.admitted) return;
  const names = Object.keys(PHASES);
  byId("tables").replaceChildren(...SIDES.map(([side, title]) => {
    const head = element("tr", {}, ...["Pod", ...names.map((each) => PHASES[each]), "gone"].map((each) => element("th", { scope: "col", textContent: each })));
    const body = rollout[side].pods.map((pod) => {
      const starts = Object.fromEntries(pod.phases.map(([name, start]) => [name, start]));
      const last = pod.phases.at(-1);
      const cells = names.map((each) => (each in starts ? seconds(starts[each]) : ""));
      const gone = last && last[2] !== null && ["sleeping", "stopping", "killed"].includes(last[0]) ? seconds(last[2]) : "";
      return element("tr", {}, element("th", { scope: "row", textContent: `${pod.name}${pod.old ? " (old)" : ""}` }),
        ...[...cells, gone].map((each) => element("td", { textContent: each })));
    });
    return element("table", {}, element("caption", { textContent: title }), element("thead", {}, head), element("tbody", {}, ...body));
  }));
}

// --- links and copies -----------------------------------------------------------------------------

async function through(stream, bytes) {
  return new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer();
}

async function linked() {
  const said = { text: state.text, settings: state.settings, timings: state.timings };
  const packed = new Uint8Array(await through(new CompressionStream("deflate-raw"), new TextEncoder().encode(JSON.stringify(said))));
  let binary = "";
  for (const byte of packed) binary += String.fromCharCode(byte);
  return `#1.${btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

async function unpacked(fragment) {
  const bytes = Uint8Array.from(atob(fragment.slice(3).replaceAll("-", "+").replaceAll("_", "/")), (each) => each.charCodeAt(0));
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "";
  for (;;) { // a link of strangers may unfold to gigabytes: no more is read than one of ours can hold
    const { done, value } = await reader.read();
    if (done) return JSON.parse(text + decoder.decode());
    text += decoder.decode(value, { stream: true });
    if (text.length > MOST_LINK) { reader.cancel(); throw new Error("too long"); }
  }
}

async function fromLink() {
  if (!location.hash.startsWith("#1.")) return false;
  try {
    const said = await unpacked(location.hash);
    const known = new Set(state.options.settings.map((each) => each.name));
    const texts = Object.entries(said.settings ?? {}).filter(([name, value]) => known.has(name) && typeof value === "string");
    const times = Object.entries(said.timings ?? {}).filter(([name, value]) =>
      name === "balanced" ? typeof value === "boolean" : name in TIMINGS && Number.isFinite(value) && value >= 0);
    if (typeof said.text !== "string") throw new Error("no text");
    state.settings = Object.fromEntries(texts);
    state.timings = Object.fromEntries(times);
    state.own = said.text;
    state.chosen = 0;
    state.notice = null;
    byId("example").value = OWN;
    setText(said.text);
    timingsShown();
    return true;
  } catch {
    state.notice = { text: "This link is damaged: its input cannot be read." };
    problem(state.notice);
    return false;
  }
}

async function copy(button, text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not allowed, or the page is not on this machine: the old way
    const area = element("textarea", { value: text, className: "hidden" });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    button.focus();
    if (!done) { tell("The browser does not allow to copy"); return; }
  }
  const label = button.dataset.label ??= button.textContent;
  button.textContent = "Copied";
  tell(`${what} copied`);
  setTimeout(() => { button.textContent = label; }, 1600);
}

function wireCopies() {
  byId("copy").addEventListener("click", () => copy(byId("copy"), state.answer?.yaml ?? "", "YAML"));
  byId("share").addEventListener("click", async () => {
    const fragment = await linked();
    history.replaceState(null, "", fragment);
    await copy(byId("share"), location.href, "Link");
  });
  window.addEventListener("hashchange", async () => { if (await fromLink()) ask(); });
}

// --- start ----------------------------------------------------------------------------------------

async function start() {
  state.options = await (await fetch("/api/options")).json();
  wireEditor();
  wireExamples();
  wireControls();
  wireCopies();
  legend();
  timingsShown();
  document.querySelector(".table").addEventListener("toggle", tables);
  new ResizeObserver(() => timeline()).observe(byId("timeline-card"));
  const linkedText = location.hash.startsWith("#1.");
  if (!(await fromLink()) && !linkedText) {
    const first = state.options.examples[0];
    byId("example").value = first?.name ?? OWN;
    setText(first?.text ?? "");
  }
  await ask();
}

start();
