// Sliders and words become targets; what is asked for, read and measured is shown as the server says.

import { explain, get, post } from "/label/requests.js";

const EVERY_MS = 150;
const $ = (id) => document.getElementById(id);
const rows = new Map(); // by attribute
let about, state, changes = {}, sending = false, lost = true;

const shown = (value, digits = 2) => (value == null ? "–" : value.toFixed(digits));

function makeRow(name) {
  const row = $("row").content.cloneNode(true).firstElementChild;
  const find = (part) => row.querySelector(part);
  const slider = find(".strength"), any = find(".any");
  find("th").textContent = name;
  row.dataset.attribute = name;
  slider.setAttribute("aria-label", name);
  any.setAttribute("aria-label", `any ${name}`);
  slider.addEventListener("input", () => change(name, Number(slider.value)));
  any.addEventListener("change", () => change(name, any.checked ? null : Number(slider.value)));
  slider.addEventListener("pointerdown", () => { row.held = true; });
  for (const end of ["change", "pointerup", "pointercancel"]) slider.addEventListener(end, () => { row.held = false; });
  rows.set(name, { row, slider, any, find });
  $("targets").append(row);
}

// One request at a time: while it is under way, later moves of the sliders are gathered.
async function change(name, strength) {
  changes[name] = strength;
  if (sending) return;
  sending = true;
  while (Object.keys(changes).length) {
    const targets = changes;
    changes = {};
    await send("/api/targets", { targets });
  }
  sending = false;
}

async function send(path, body) {
  try {
    const reply = await post(path, body);
    say("");
    show(reply);
    return reply;
  } catch (error) {
    say(explain(error), true);
  }
}

function say(text, isTrouble = false) {
  $("said").textContent = text;
  $("said").classList.toggle("trouble", isTrouble);
}

function show(next) {
  state = next;
  for (const [name, { row, slider, any, find }] of rows) {
    const target = name in changes ? changes[name] : state.targets[name];
    if (!row.held && target !== null) slider.value = target;
    any.checked = target === null;
    row.classList.toggle("free", target === null);
    find(".asked").textContent = state.targets[name] === null ? "any" : shown(state.targets[name]);
    find(".read").textContent = shown(state.read[name]);
    find(".measured").textContent = name in state.measured ? Number(state.measured[name].toPrecision(3)) : "–";
  }
  $("pause").textContent = state.paused ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", state.paused);
  $("no-picture").hidden = !state.no_picture;
  $("no-picture").textContent = `No picture, numbers only: ${state.no_picture}`;
  $("film").hidden = Boolean(state.no_picture);
  $("clock").textContent = describeTime();
}

function describeTime() {
  const place = `Seed ${state.seed}, step ${state.step} of ${about.horizon}`;
  if (state.paused || state.rate === null) return place;
  const slow = state.rate < 0.9 * about.hz ? `, slower than the robot's ${Math.round(about.hz)}: this machine cannot keep up` : "";
  return `${place} · ${state.rate.toFixed(state.rate < 10 ? 1 : 0)} steps a second${slow}`;
}

async function follow() {
  try {
    const next = await get("/api/state");
    if (!sending) show(next);
    if (lost) $("film").src = `/film?${Date.now()}`;
    lost = false;
    $("trouble").hidden = true;
  } catch (error) {
    lost = true;
    $("trouble").textContent = explain(error);
    $("trouble").hidden = false;
  }
  setTimeout(follow, EVERY_MS);
}

$("pause").addEventListener("click", () => send("/api/pause", { paused: !state.paused }));
$("episode").addEventListener("submit", (event) => {
  event.preventDefault();
  send("/api/start", { seed: Number($("seed").value) });
});
$("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const reply = await send("/api/say", { words: $("words").value });
  if (!reply) return;
  const said = Object.entries(reply.changes).map(([name, value]) => `${name} ${value === null ? "any" : shown(value)}`);
  say(said.join(", "));
  $("words").select();
});

about = await get("/api/about");
$("title").textContent = `Steering ${about.task}`;
about.attributes.forEach(makeRow);
follow();
$("seed").value = (await get("/api/state")).seed;
