// The overview of raters, drawn anew every few seconds.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)}\u00a0%`);
const number = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));

function note(rater) {
  if (rater.guesses) return "guesses";
  if (rater.one_sided) return "presses one side";
  return "";
}

function table({ raters, accuracy }) {
  const rows = Object.entries(raters).map(([name, r]) => [
    name, r.answers, number(r.median_seconds, 1), percent(r.equal), percent(r.cant_tell), percent(r.left),
    percent(r.gold), percent(r.consistent), number(r.kappa, 2), percent(accuracy[name]), note(r),
  ]);
  $("raters").tBodies[0].replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = cells[0];
    row.append(head);
    for (const cell of cells.slice(1)) row.insertCell().textContent = cell;
    return row;
  }));
}

// Bars of [label, count].
function bars(root, values, unit) {
  const most = Math.max(1, ...values.map(([, n]) => n));
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 640 ${24 * values.length + 4}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", values.map(([label, n]) => `${label}: ${n} ${unit}`).join(", "));
  values.forEach(([label, n], i) => {
    const make = (kind, attributes, text) => {
      const element = document.createElementNS(SVG, kind);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      if (text !== undefined) element.textContent = text;
      svg.append(element);
    };
    make("text", { x: 0, y: 24 * i + 17 }, label);
    make("rect", { x: 140, y: 24 * i + 4, width: (440 * n) / most, height: 16, rx: 3 });
    make("text", { x: 146 + (440 * n) / most, y: 24 * i + 17 }, n);
  });
  root.replaceChildren(svg);
}

function histogram(seconds) {
  const edges = [0, 0.5, 1, 2, 3, 5, 8, 13, 21, Infinity];
  return edges.slice(1).map((high, i) => {
    const label = high === Infinity ? `over ${edges[i]} s` : `${edges[i]} to ${high} s`;
    return [label, seconds.filter((s) => s >= edges[i] && s < high).length];
  });
}

async function show() {
  try {
    const response = await fetch("/api/stats");
    const stats = await response.json();
    if (!response.ok) throw new Error(stats.detail);
    const { asked, answered, ties, skipped } = stats.counts;
    const alpha = stats.alpha === null ? "no two raters have answered the same question yet" : stats.alpha.toFixed(2);
    $("summary").textContent = `${asked} questions, ${answered} answers, ${ties} of them equal, ${skipped} could not tell. ` +
      `Agreement (Krippendorff's α): ${alpha}.`;
    table(stats);
    bars($("answers-plot"), Object.entries(stats.raters).map(([name, r]) => [name, r.answers]), "answers");
    bars($("seconds-plot"), histogram(stats.seconds), "answers");
  } catch (error) {
    $("summary").textContent = error instanceof TypeError ? "The server cannot be reached; trying again." : error.message;
  }
  setTimeout(show, 5000);
}

show();
