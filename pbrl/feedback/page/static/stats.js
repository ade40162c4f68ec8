// The overview of raters, drawn anew every few seconds: a table to sort, their notes, and what the owner may do.

import { explain, get, post } from "./requests.js";

const $ = (id) => document.getElementById(id);
const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)}\u00a0%`);
const number = (digits) => (value) => (value === null || value === undefined ? "–" : value.toFixed(digits));

const COLUMNS = [ // name, value of a rater, how it is shown
  ["Rater", (r) => r.name, String],
  ["Answers", (r) => r.answers, String],
  ["Seconds, median", (r) => r.median_seconds, number(1)],
  ["Equal", (r) => r.equal, percent],
  ["Can’t tell", (r) => r.cant_tell, percent],
  ["Left", (r) => r.left, percent],
  ["Gold right", (r) => r.gold, percent],
  ["Same when mirrored", (r) => r.consistent, percent],
  ["Agrees, κ", (r) => r.kappa, number(2)],
  ["Believed", (r) => r.accuracy, percent],
  ["Remark", (r) => (r.guesses ? "guesses" : r.one_sided ? "presses one side" : ""), String],
  ["Link", (r) => r.link, (link) => (link ? "open" : "none")],
];
let sorted = { column: 0, down: false };
let raters = [];
let me; // whose link is not revoked here

function compare(a, b) {
  const of = COLUMNS[sorted.column][1];
  const [x, y] = [of(a), of(b)];
  if ((x ?? null) === null || (y ?? null) === null) return ((x ?? null) === null) - ((y ?? null) === null); // unknown ones last
  return (sorted.down ? -1 : 1) * (typeof x === "string" ? x.localeCompare(y) : x - y);
}

function sortBy(column, down) {
  sorted = { column, down };
  $("sort").value = column;
  heads().forEach((head, i) => head.ariaSort = i === column ? (down ? "descending" : "ascending") : null);
  table();
}

const heads = () => [...$("raters").tHead.rows[0].cells];

function makeHeads() {
  $("raters").tHead.rows[0].replaceChildren(...COLUMNS.map(([name], i) => {
    const head = document.createElement("th");
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: name });
    button.onclick = () => sortBy(i, sorted.column === i ? !sorted.down : i > 0);
    head.scope = "col";
    head.append(button);
    return head;
  }));
  $("sort").replaceChildren(...COLUMNS.map(([name], i) => new Option(name, i)));
  $("sort").onchange = () => sortBy(Number($("sort").value), Number($("sort").value) > 0);
  sortBy(0, false);
}

function table() {
  if (document.activeElement?.closest("tbody")) return; // a button there is about to be pressed
  $("raters").hidden = !raters.length;
  $("raters").tBodies[0].replaceChildren(...raters.toSorted(compare).map((rater) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = rater.name;
    row.append(head);
    for (const [name, of, show] of COLUMNS.slice(1)) {
      const cell = row.insertCell();
      cell.dataset.label = name;
      cell.textContent = show(of(rater)) || "–";
      if (name === "Link" && rater.link && rater.name !== me) cell.replaceChildren(revoker(rater.name));
    }
    return row;
  }));
}

function revoker(rater) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: "Revoke" });
  button.setAttribute("aria-label", `Revoke the link of ${rater}`);
  button.onclick = async () => {
    button.blur();
    if (!confirm(`The link of ${rater} opens nothing more, and a new start makes no new one. Answers stay. Go on?`)) return;
    await post("/api/revoke", { rater }).catch((error) => alert(explain(error)));
    show();
  };
  return button;
}

// Bars of [label, count].
function bars(root, values) {
  const most = Math.max(1, ...values.map(([, n]) => n));
  root.replaceChildren(...values.flatMap(([label, n]) => {
    const [name, bar] = [document.createElement("dt"), document.createElement("dd")];
    name.textContent = label;
    bar.textContent = n;
    bar.style.setProperty("--share", n / most);
    return [name, bar];
  }));
}

function histogram(seconds) {
  const edges = [0, 0.5, 1, 2, 3, 5, 8, 13, 21, Infinity];
  return edges.slice(1).map((high, i) => {
    const label = high === Infinity ? `over ${edges[i]} s` : `${edges[i]} to ${high} s`;
    return [label, seconds.filter((s) => s >= edges[i] && s < high).length];
  });
}

function notes(found) {
  $("noted").hidden = !found.length;
  $("notes").replaceChildren(...found.map(({ rater, text }) => {
    const item = document.createElement("li");
    item.textContent = `${rater}: ${text}`;
    return item;
  }));
}

function summary({ counts: { asked, answered, ties, skipped }, alpha }) {
  const shared = Object.entries(alpha).filter(([, value]) => value !== null);
  const agreement = shared.map(([kind, value]) => `${kind} ${value.toFixed(2)}`).join(", ")
    || "no two raters have answered the same question yet";
  $("summary").textContent = answered
    ? `${asked} questions, ${answered} answers, ${ties} of them equal, ${skipped} could not tell. ` +
      `Agreement (Krippendorff's α): ${agreement}.`
    : `${asked} questions; nobody has answered yet.`;
}

// Every rater with a link is there, also one who has not answered.
function merge(stats, links) {
  const found = Object.entries(stats.raters).map(([name, r]) => ({ name, ...r, accuracy: stats.accuracy[name] }));
  const silent = links.filter(({ rater }) => !stats.raters[rater]).map(({ rater }) => ({ name: rater, answers: 0 }));
  const hasLink = Object.fromEntries(links.map(({ rater, link }) => [rater, link]));
  return [...found, ...silent].map((rater) => ({ ...rater, link: hasLink[rater.name] ?? false }));
}

async function show() {
  clearTimeout(show.timer);
  try {
    const stats = await get("/api/stats");
    const { owner, rater } = await get("/api/about");
    me = rater;
    $("exports").hidden = !owner;
    raters = merge(stats, owner ? (await get("/api/raters")).raters : []);
    summary(stats);
    table();
    notes(stats.notes ?? []);
    $("plots").hidden = !stats.counts.answered;
    bars($("answers-plot"), raters.map(({ name, answers }) => [name, answers]));
    bars($("seconds-plot"), histogram(stats.seconds));
  } catch (error) {
    $("summary").textContent = explain(error);
  }
  show.timer = setTimeout(show, 5000);
}

makeHeads();
show();
