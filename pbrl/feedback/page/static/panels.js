// How each kind of question is answered. A panel fills the answer bar, takes actions, and calls `send(answer)` when done.
// `question.order[slot]` is which of the question's clips is shown at a slot; answers name clips, not slots.

function button(text, action, keys, go) {
  const element = document.createElement("button");
  element.type = "button";
  element.append(text);
  if (action && keys.of[action]) {
    const key = document.createElement("kbd");
    key.textContent = keys.name(action);
    element.append(" ", key);
  }
  element.onclick = go;
  return element;
}

function bar(root, keys, choices) {
  root.replaceChildren(...choices.map(([text, action, go]) => button(text, action, keys, go)));
  const go = Object.fromEntries(choices.map(([, action, go]) => [action, go]));
  return { act: (action) => (go[action] ? (go[action](), true) : false) };
}

const named = (question, slot) => (question.order[slot] === 0 ? "first" : "second");

function pair({ question, root, keys, send, captions }) {
  const better = question.words.better ?? "is better";
  captions(["Left", "Right"]);
  const choose = (choice) => send({ choice, ...(strength && choice !== "equal" ? { strength } : {}) });
  let strength = null;
  const panel = bar(root, keys, [
    [`Left ${better}`, "left", () => choose(named(question, 0))],
    ["Equal", "equal", () => choose("equal")],
    [`Right ${better}`, "right", () => choose(named(question, 1))],
    ["Can't tell", "cant_tell", () => send({ choice: "cant_tell" })],
  ]);
  if (!question.words.strength) return panel;
  const group = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = "By how much?";
  const set = (to) => {
    strength = strength === to ? null : to;
    buttons.forEach((b, i) => b.setAttribute("aria-pressed", strength === i + 1));
  };
  const buttons = ["slightly", "clearly", "far"].map((text, i) => button(`${text} (${i + 1})`, null, keys, () => set(i + 1)));
  buttons.forEach((b) => b.setAttribute("aria-pressed", "false"));
  group.append(legend, ...buttons);
  root.prepend(group);
  return {
    act(action) {
      const digit = Number(action.split(" ")[1]);
      if (digit >= 1 && digit <= 3) return set(digit), true;
      return panel.act(action);
    },
  };
}

function triplet({ question, root, keys, send, captions }) {
  captions(["This one", "Left", "Right"]);
  const which = (slot) => (question.order[slot] === 1 ? "first" : "second");
  return bar(root, keys, [
    ["Left is more like it", "left", () => send({ choice: which(1) })],
    ["Equal", "equal", () => send({ choice: "equal" })],
    ["Right is more like it", "right", () => send({ choice: which(2) })],
    ["Can't tell", "cant_tell", () => send({ choice: "cant_tell" })],
  ]);
}

function rating({ root, keys, send, captions }) {
  captions([""]);
  const words = ["1 – bad", "2", "3", "4", "5 – good"];
  return bar(root, keys, [
    ...words.map((text, i) => [text, `digit ${i + 1}`, () => send({ rating: i + 1 })]),
    ["Can't tell", "cant_tell", () => send({ choice: "cant_tell" })],
  ]);
}

function ranking({ question, root, keys, send, captions }) {
  const slots = question.order.map((_, slot) => slot);
  let tiers = [];
  let tied = false;
  const place = (slot) => tiers.findIndex((tier) => tier.includes(slot));
  const show = () => {
    captions(slots.map((slot) => `Clip ${slot + 1}${place(slot) < 0 ? "" : `: place ${place(slot) + 1}`}`));
    root.querySelector("[data-tie]").setAttribute("aria-pressed", tied);
    root.querySelector("[data-done]").disabled = tiers.flat().length < slots.length;
  };
  const add = (slot) => {
    if (place(slot) >= 0) return;
    if (tied && tiers.length) tiers.at(-1).push(slot);
    else tiers.push([slot]);
    tied = false;
    show();
  };
  const remove = () => {
    const last = tiers.at(-1);
    if (last && last.length > 1) last.pop();
    else tiers.pop();
    show();
  };
  const done = () => {
    if (tiers.flat().length === slots.length) send({ tiers: tiers.map((tier) => tier.map((s) => question.order[s])) });
  };
  const tie = () => { tied = !tied; show(); };
  const panel = bar(root, keys, [
    ...slots.map((slot) => [`Next best: clip ${slot + 1}`, `digit ${slot + 1}`, () => add(slot)]),
    ["As good as the last", "tie", tie], ["Take back", "remove", remove], ["Done", "submit", done],
    ["Can't tell", "cant_tell", () => send({ choice: "cant_tell" })],
  ]);
  root.children[slots.length].dataset.tie = "";
  root.children[slots.length + 2].dataset.done = "";
  show();
  return panel;
}

function attributes({ question, root, keys, send, captions }) {
  captions(["Left", "Right"]);
  const names = question.words.attributes;
  const found = {};
  const rows = names.map((name, i) => {
    const row = document.createElement("fieldset");
    const legend = document.createElement("legend");
    legend.textContent = name;
    const choices = [["Left", "left"], ["Equal", "equal"], ["Right", "right"], ["Can't tell", "cant_tell"]];
    row.append(legend, ...choices.map(([text, action]) => {
      const element = button(text, null, keys, () => { at = i; choose(action); });
      element.setAttribute("aria-pressed", "false");
      element.dataset.action = action;
      return element;
    }));
    return row;
  });
  let at = 0;
  const show = () => {
    rows.forEach((row, i) => row.classList.toggle("current", i === at));
    done.disabled = Object.keys(found).length < names.length;
  };
  const choose = (action) => {
    const slot = { left: 0, right: 1 }[action];
    found[names[at]] = slot === undefined ? action : named(question, slot);
    for (const b of rows[at].querySelectorAll("button")) b.setAttribute("aria-pressed", b.dataset.action === action);
    at = Math.min(names.length - 1, at + 1);
    show();
  };
  const submit = () => { if (Object.keys(found).length === names.length) send({ attributes: found }); };
  const done = button("Done", "submit", keys, submit);
  root.replaceChildren(...rows, done);
  show();
  return {
    act(action) {
      if (["left", "right", "equal", "cant_tell"].includes(action)) choose(action);
      else if (action === "remove") { at = Math.max(0, at - 1); show(); }
      else if (action === "submit") submit();
      else return false;
      return true;
    },
  };
}

function spans({ question, root, keys, send, captions, player, marked }) {
  captions([""]);
  const stages = question.words.stages ?? ["mark"];
  const parts = [];
  let open = null; // { start, good }
  const show = () => {
    marked(parts, open);
    root.querySelector("[data-done]").disabled = !parts.length;
  };
  const begin = (good) => { if (!open) { open = { start: player.frame, good }; show(); } };
  const finish = () => {
    if (!open) return;
    const [start, end] = [open.start, player.frame].sort((a, b) => a - b);
    parts.push({ start, end, good: open.good });
    open = null;
    show();
  };
  const toggle = (good) => (open ? finish() : begin(good));
  const mark = (name) => { parts.push({ frame: player.frame, name }); show(); };
  const remove = () => { open = null; parts.pop(); show(); };
  const done = () => {
    finish();
    if (parts.length) send({ spans: parts.filter((p) => "good" in p), marks: parts.filter((p) => "name" in p) });
  };
  const panel = bar(root, keys, [
    ["Good: from / to", "good", () => toggle(true)], ["Bad: from / to", "bad", () => toggle(false)],
    ...stages.map((name, i) => [`${i + 1} ${name}`, `digit ${i + 1}`, () => mark(name)]),
    ["Take back", "remove", remove], ["Done", "submit", done],
    ["Can't tell", "cant_tell", () => send({ choice: "cant_tell" })],
  ]);
  root.children[stages.length + 3].dataset.done = "";
  show();
  return {
    act(action) {
      if (action === "good" || action === "bad") return begin(action === "good"), true;
      return panel.act(action);
    },
    release(action) {
      if (action === "good" || action === "bad") finish();
    },
  };
}

export const PANELS = { pair, triplet, rating, ranking, attributes, spans };
