// The page: filters above, then what they leave of heat maps, curves, tables and samples.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 40; // samples that are shown at once
const ALL = "";
const suites = unique(data.results.map((result) => result.suite));
const OPEN = { model: ALL, task: ALL, condition: "full", length: ALL, depth: ALL };
const state = { suite: suites[0], ...OPEN, failed: true, picked: null, shown: PAGE };
const holders = {};

const suiteOf = (one) => data.results[one.r].suite;
const modelOf = (one) => data.results[one.r].name;
const aboutOf = (one) => data.results[one.r].tasks[one.t] || { metric: "", labels: {}, placed: false };
const modelNames = () => unique(data.results.filter((result) => result.suite === state.suite).map((result) => result.name));
const strokeOf = (name) => `var(--c${modelNames().indexOf(name) % 8})`;
const percent = (share) => (100 * share).toFixed(0);
const depthOf = (depth) => (depth === null ? "any" : `${+(100 * depth).toPrecision(3)} %`);

// What the filters but those named leave of cells, skipped ones or measured ones.
function left(these, ...but) {
  const wanted = { model: modelOf, task: (one) => one.t, condition: (one) => one.c, length: (one) => String(one.l), depth: (one) => String(one.d) };
  return these.filter((one) => suiteOf(one) === state.suite && Object.entries(wanted).every(
    ([name, of]) => state[name] === ALL || but.includes(name) || of(one) === state[name]
      || (name === "depth" && one.c !== "full")));
}

// Nothing to choose from is not shown.
function choice(name, label, options, called = (value) => value) {
  if (options.length < 2) return null;
  const made = el("select", { id: `filter-${name}`, onchange: (event) => change({ [name]: event.target.value }) },
    name === "suite" ? [] : el("option", { value: ALL }, `all (${options.length})`),
    options.map((value) => el("option", { value: String(value), selected: String(value) === state[name] }, called(value))));
  return el("label", { for: `filter-${name}` }, label, made);
}

function filters() {
  const mine = [...data.cells, ...data.measured, ...data.skipped].filter((one) => suiteOf(one) === state.suite);
  const values = (of) => unique(mine.map(of)).filter((value) => value !== null);
  const numbers = (of) => values(of).sort((a, b) => a - b);
  holders.filters.replaceChildren(...[
    choice("suite", "suite", suites),
    choice("model", "model", values(modelOf)),
    choice("task", "task", values((one) => one.t)),
    choice("condition", "condition", Object.keys(data.conditions).filter((name) => values((one) => one.c).includes(name)), (name) => data.conditions[name]),
    choice("length", "length, tokens", numbers((one) => one.l), short),
    choice("depth", "depth", numbers((one) => one.d), depthOf),
    data.cells.some((one) => suiteOf(one) === state.suite) ? el("label", { class: "tick" }, el("input", { type: "checkbox", id: "filter-failed", checked: state.failed, onchange: (event) => change({ failed: event.target.checked }) }), "only failed samples") : null].filter(Boolean));
}

function change(what) {
  const focus = document.activeElement && document.activeElement.id;
  if (what.suite) Object.assign(state, OPEN);
  Object.assign(state, { picked: null, shown: PAGE }, what);
  draw();
  if (focus && document.getElementById(focus)) document.getElementById(focus).focus();
}

// One heat map: rows of {label, begins, at(length)}; at gives a cell, or why there is none.
function heatMap(title, rows, lengths, trained) {
  const past = lengths.findIndex((length) => trained && length > trained);
  const body = rows.map((row) => el("tr", { class: row.begins && "begins" }, el("th", { scope: "row" }, row.label),
    lengths.map((length) => el("td", null, square(row.at(length), row.label, length)))));
  const heads = lengths.map((length, index) => el("th", { scope: "col", class: past >= 0 && index >= past && "past", title: past >= 0 && index >= past ? "longer than trained" : null }, short(length)));
  return el("figure", { class: "map" }, el("h3", null, title),
    el("table", { onkeydown: arrows }, el("thead", null, el("tr", null, el("th"), heads)), el("tbody", null, body)));
}

function square(found, label, length) {
  if (!found) return el("span", { "aria-label": "not evaluated" }, "");
  if (found.reason) return el("span", { class: "skipped", title: `skipped: ${found.reason}`, "aria-label": `skipped: ${found.reason}` });
  const said = `${modelOf(found)}, ${found.t}, ${label}, ${short(length)} tokens: ${percent(found.score)} %, 95 % interval `
    + `${percent(found.low)} to ${percent(found.high)}, ${found.scores.length} samples${found.notes.map((note) => `; ${note}`).join("")}`;
  return el("button", { type: "button", class: "cell", style: colour(found.score), "aria-label": said, title: said, "aria-pressed": String(state.picked === found), onclick: () => pick(found) },
    percent(found.score) + (found.notes.length ? "·" : ""));
}

function pick(found) {
  state.picked = state.picked === found ? null : found;
  state.shown = PAGE;
  for (const button of document.querySelectorAll("button.cell")) button.setAttribute("aria-pressed", "false");
  if (state.picked) document.activeElement.setAttribute("aria-pressed", "true");
  samples();
  if (state.picked) holders.samples.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function arrows(event) {
  const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const cell = event.target.closest("td");
  if (!move || !cell) return;
  const row = cell.parentElement.parentElement.rows[cell.parentElement.sectionRowIndex + move[0]];
  const next = row && row.cells[cell.cellIndex + move[1]];
  if (next && next.querySelector("button")) { next.querySelector("button").focus(); event.preventDefault(); }
}

function maps() {
  // Controls stand below the grid of depths; in maps of tasks they would be as many rows again for each.
  const placing = (one) => aboutOf(one).placed && (state.condition === "full" || one.c === state.condition || state.condition === ALL);
  const known = [...left(data.cells, "condition"), ...left(data.skipped, "condition")].filter((one) => placing(one) || state.condition === ALL || one.c === state.condition);
  const made = [];
  const lengths = unique(known.map((one) => one.l)).sort((a, b) => a - b);
  const find = (these, length) => these.find((one) => one.l === length);
  const beside = (mine) => Object.keys(data.conditions).filter((name) => name !== "full" && mine.some((one) => one.c === name && one.scores)).map((name, index) => ({
    label: data.conditions[name], begins: index === 0, at: (length) => find(mine.filter((one) => one.c === name), length) }));
  const placed = unique(known.filter((one) => aboutOf(one).placed).map((one) => one.t));
  for (const task of placed) {
    for (const name of unique(known.filter((one) => one.t === task).map(modelOf))) {
      const mine = known.filter((one) => one.t === task && modelOf(one) === name), full = mine.filter((one) => one.c === "full");
      const depths = unique(full.map((one) => one.d)).sort((a, b) => a - b);
      const rows = depths.map((depth) => ({ label: depthOf(depth), at: (length) => find(full.filter((one) => one.d === depth), length) }));
      made.push(heatMap(`${name}, ${task}`, [...rows, ...beside(mine)], lengths, data.results[mine[0].r].trained));
    }
  }
  for (const name of unique(known.filter((one) => !aboutOf(one).placed).map(modelOf))) {
    const mine = known.filter((one) => modelOf(one) === name && !aboutOf(one).placed);
    const rows = unique(mine.map((one) => one.c)).sort(byCondition).flatMap((condition) => {
      const these = mine.filter((one) => one.c === condition), tasks = unique(these.map((one) => one.t));
      return tasks.map((task, index) => ({ label: condition === "full" ? task : `${task}, ${data.conditions[condition]}`, begins: index === 0 && condition !== "full", at: (length) => find(these.filter((one) => one.t === task), length) }));
    });
    if (rows.length) made.push(heatMap(name, rows, lengths, data.results[mine[0].r].trained));
  }
  const scale = el("div", { class: "scale" }, el("b", null, "0 %"), el("i", { style: { background: gradient() } }), el("b", null, "100 %"),
    el("span", null, "A cell opens its samples; arrow keys move between cells."));
  holders.maps.replaceChildren(...(made.length ? [el("h2", null, "Heat map"), scale, el("div", { class: "maps" }, made)] : []));
}

const byCondition = (a, b) => Object.keys(data.conditions).indexOf(a) - Object.keys(data.conditions).indexOf(b);

// Controls are grey beside the full prompt, and have the colours of their models where they are asked for.
const greyed = (one) => state.condition === "full" && one.c !== "full" && "score" in one;

function named(one) {
  const model = modelNames().indexOf(modelOf(one));
  if (greyed(one)) return { name: data.conditions[one.c], model, stroke: "var(--soft)", dash: DASHES[one.c], thin: true };
  const name = one.c === "full" ? modelOf(one) : `${modelOf(one)}, ${data.conditions[one.c]}`;
  return { name, model, stroke: strokeOf(modelOf(one)), dash: DASHES[one.c] };
}

const grouped = (these) => unique(these.map((one) => `${one.r} ${one.c}`)).map((key) => these.filter((one) => `${one.r} ${one.c}` === key));
const scored = (x, one) => ({ x, y: 100 * one.score, low: greyed(one) ? undefined : 100 * one.low, high: greyed(one) ? undefined : 100 * one.high });
// Means over depths, or the cells of one depth.
const rates = () => (state.depth === ALL ? left(data.rates, state.condition === "full" ? "condition" : "") : left(data.cells));

function scoreCharts() {
  const shown = rates().filter((one) => !Object.keys(aboutOf(one).labels).length || state.task !== ALL);
  return unique(shown.map((one) => one.t)).map((task) => {
    const mine = shown.filter((one) => one.t === task), lengths = mine.map((one) => one.l), trained = data.results[mine[0].r].trained;
    const series = grouped(mine).map((these) => ({ ...named(these[0]), points: these.map((one) => scored(one.l, one)) }));
    return lineChart(task, series, { percent: true, up: `${aboutOf(mine[0]).metric}, %`, vertical: lengths.includes(trained) ? trained : null });
  });
}

// The mean over all tasks, where every one was asked.
function meanCharts() {
  if (state.task !== ALL || state.depth !== ALL || state.condition !== "full") return [];
  const mine = left(data.means);
  return mine.length ? [lineChart("mean of all tasks", grouped(mine).map((these) => ({ ...named(these[0]), points: these.map((one) => ({ x: one.l, y: one.mean })) })), { percent: true, up: "mean, %" })] : [];
}

// Against the number that tells tasks apart: a chart for each such number and length.
function labelCharts() {
  if (state.task !== ALL) return [];
  const shown = rates().filter((one) => Object.keys(aboutOf(one).labels).length), family = (one) => `${one.t.replace(/[^a-zA-Z]*[0-9]+$/, "")} ${Object.keys(aboutOf(one).labels)}`;
  return unique(shown.map(family)).flatMap((kin) => unique(shown.filter((one) => family(one) === kin).map((one) => one.l)).sort((a, b) => a - b).map((length) => {
    const mine = shown.filter((one) => family(one) === kin && one.l === length), [label] = Object.keys(aboutOf(mine[0]).labels);
    const series = grouped(mine).map((these) => ({ ...named(these[0]), points: these.map((one) => scored(aboutOf(one).labels[label], one)) }));
    return lineChart(`${kin.split(" ")[0]}, ${short(length)} tokens`, series, { percent: true, across: label, up: `${aboutOf(mine[0]).metric}, %` });
  }));
}

function depthCharts() {
  const shown = left(data.depths);
  return unique(shown.map((one) => one.t)).map((task) => lineChart(`${task}, all lengths`, grouped(shown.filter((one) => one.t === task)).map((these) => (
    { ...named(these[0]), points: these.map((one) => scored(100 * one.d, one)) })), { percent: true, across: "depth of the gold, %", up: `${aboutOf(shown[0]).metric}, %`, even: true }));
}

function measuredCharts() {
  const cells = left(data.measured, state.condition === "full" ? "condition" : ""), made = [];
  for (const task of unique(cells.map((one) => one.t))) {
    const mine = cells.filter((one) => one.t === task), groups = unique(mine.map((one) => `${one.r} ${one.c}`));
    if (unique(mine.map((one) => one.l)).length > 1) {
      for (const name of unique(mine.flatMap((one) => one.values.map((value) => value[0])))) {
        const series = groups.map((key) => {
          const these = mine.filter((one) => `${one.r} ${one.c}` === key);
          const points = these.map((one) => [one, one.values.find((value) => value[0] === name)]).filter((pair) => pair[1])
            .map(([one, [, y, ends]]) => ({ x: one.l, y, low: ends?.[0], high: ends?.[1] }));
          return { ...named(these[0]), points };
        });
        const unit = mine.flatMap((one) => one.values).find((value) => value[0] === name)[3];
        made.push(lineChart(`${task}: ${name.replaceAll("_", " ")}`, series, { up: unit }));
      }
    }
    for (const name of unique(mine.flatMap((one) => Object.keys(one.curves)))) {
      const having = groups.map((key) => mine.filter((one) => `${one.r} ${one.c}` === key && one.curves[name]).sort((a, b) => b.l - a.l)[0]).filter(Boolean);
      const series = having.map((one) => ({ ...named(one), points: one.curves[name].x.map((x, index) => {
        const y = one.curves[name].y[index], half = one.curves[name].half[index];
        return { x, y, low: half === undefined ? undefined : y - half, high: half === undefined ? undefined : y + half };
      }) }));
      made.push(lineChart(`${task}: ${name.replaceAll("_", " ")}, read at ${unique(having.map((one) => short(one.l))).join(", ")}`, series, { across: having[0].curves[name].x_name, up: having[0].curves[name].y_name, powers: true }));
    }
  }
  return made;
}

function curves() {
  const made = [...meanCharts(), ...scoreCharts(), ...labelCharts(), ...depthCharts(), ...measuredCharts()].filter(Boolean);
  const shown = [...rates(), ...left(data.measured, state.condition === "full" ? "condition" : "")];
  const keys = [...new Map(shown.map((one) => [named(one).name, named(one)])).values()].sort((a, b) => Boolean(a.thin) - Boolean(b.thin));
  holders.curves.replaceChildren(...(made.length ? [el("h2", null, "Curves"), lineKey(keys), el("div", { class: "charts" }, made)] : []));
}

function tables() {
  const mine = data.tables.filter((table) => table.suite === state.suite || table.suite === "");
  const made = mine.map((table) => el("details", { open: mine.length < 3 }, el("summary", null, table.title), el("div", { class: "scroll" },
    el("table", { class: "numbers" },
      el("thead", null, el("tr", null, table.heads.map((head) => el("th", { class: "head", scope: "col" }, head)), table.columns.map((column) => el("th", { scope: "col" }, column)))),
      el("tbody", null, table.rows.map((row) => el("tr", { class: row.begins && "begins" }, row.heads.map((head) => el("th", { scope: "row" }, head)),
        row.entries.map((entry) => el("td", null, entry.text, entry.small && el("small", null, entry.small)))))))),
    table.notes.map((note) => el("p", { class: "soft" }, note))));
  holders.tables.replaceChildren(...(made.length ? [el("h2", null, "Tables"), made].flat() : []));
}

// The prompt around the gold, which is marked.
function marked(text) {
  const [open, close] = data.marks;
  return text.split(open).flatMap((part, index) => {
    if (index === 0) return [part];
    const end = part.indexOf(close);
    return end < 0 ? [open + part] : [el("mark", null, part.slice(0, end)), part.slice(end + close.length)];
  });
}

function sample({ cell, at }) {
  const depths = (cell.depths[at] || []).map(depthOf).join(", "), condition = cell.c === "full" ? "" : `, ${data.conditions[cell.c]}`;
  const rows = () => [["gold", cell.answers[at]], ["output", cell.outputs[at] || "(nothing)"], ["prompt", cell.excerpts[at] ? marked(cell.excerpts[at]) : "answered in full: no excerpt is kept"],
    ["score", `${+cell.scores[at].toFixed(4)} (${aboutOf(cell).metric}, by ${cell.scoring})`], ["length", `${cell.lengths[at]} tokens`], depths && ["depth", depths],
    cell.logprobs.length > at && ["gold's log-probability", `${cell.logprobs[at]} nats`]].filter(Boolean);
  const body = el("dl", { class: "pair" });
  const fill = (event) => { if (event.target.open && !body.firstChild) body.append(...rows().flatMap(([name, value]) => [el("dt", null, name), el("dd", null, value)])); };
  return el("details", { class: "sample", ontoggle: fill }, el("summary", null,
    el("span", { class: "badge", style: colour(cell.scores[at]) }, percent(cell.scores[at])),
    el("span", { class: "where" }, `${modelOf(cell)}, ${cell.t}, ${short(cell.l)} tokens${cell.d === null ? "" : `, depth ${depthOf(cell.d)}`}${condition}, sample ${at + 1}`),
    " ", el("b", null, "output"), " ", quoted(cell.outputs[at]), " → ", el("b", null, "gold"), " ", quoted(cell.answers[at])), body);
}

const quoted = (text) => (text ? `“${text.length > 60 ? `${text.slice(0, 60)}…` : text}”` : "(nothing)");

function samples() {
  const cells = state.picked ? [state.picked] : left(data.cells);
  const every = cells.flatMap((cell) => cell.scores.map((score, at) => ({ cell, at, score })));
  const found = every.filter((one) => !state.failed || one.score < 1);
  const said = `${found.length.toLocaleString("en")}${state.failed ? " failed" : ""} of ${every.length.toLocaleString("en")} samples`;
  const where = state.picked ? `${modelOf(state.picked)}, ${state.picked.t}, ${short(state.picked.l)} tokens${state.picked.d === null ? "" : `, depth ${depthOf(state.picked.d)}`}: ` : "";
  const more = el("button", { type: "button", class: "plain more", onclick: () => { state.shown += PAGE; samples(); } }, `show ${Math.min(PAGE, found.length - state.shown)} more`);
  const all = el("button", { type: "button", class: "plain", onclick: () => change({}) }, "samples of all cells");
  holders.samples.replaceChildren(...(every.length ? [el("h2", { tabindex: -1 }, "Samples"), el("p", { role: "status" }, where + said, " ", state.picked && all),
    ...(state.picked ? state.picked.notes.map((note) => el("p", { class: "soft" }, note)) : []),
    ...found.slice(0, state.shown).map(sample), found.length > state.shown && more].filter(Boolean) : []));
}

// Each model's reasons, and the conditions that are skipped for them.
function skips(these) {
  const found = new Map();
  for (const one of these) {
    const why = `${modelOf(one)}: ${one.reason}`;
    found.set(why, (found.get(why) || new Set()).add(one.c));
  }
  return found;
}

function facts() {
  const made = data.results.filter((result) => result.suite === state.suite && (state.model === ALL || result.name === state.model)).map((result) =>
    el("details", null, el("summary", null, result.name), el("p", { class: "source" }, result.source),
      el("dl", { class: "pair" }, result.facts.flatMap(([name, value]) => [el("dt", null, name), el("dd", null, value)]))));
  const skipped = [...skips(left(data.skipped))].map(([why, conditions]) => (conditions.has("full") ? why : `${why} (${[...conditions].sort(byCondition).map((one) => data.conditions[one]).join(", ")})`));
  holders.facts.replaceChildren(
    ...(skipped.length ? [el("h2", null, "Skipped"), ...skipped.map((reason) => el("p", { class: "soft" }, reason))] : []),
    el("h2", null, "Settings and versions"), ...made);
}

function draw() {
  filters(); maps(); curves(); tables(); samples(); facts();
}

for (const name of ["filters", "maps", "curves", "tables", "samples", "facts"]) {
  holders[name] = el(name === "filters" ? "form" : "section", { id: name, class: name === "filters" ? "filters" : null, "aria-label": name, onsubmit: (event) => event.preventDefault() });
}
document.getElementById("page").append(el("h1", null, "Farfield results"), el("p", { class: "source" }, data.source), ...Object.values(holders));
draw();
