// How each kind of question is answered. A panel fills the answer bar, takes actions, and calls `send(answer)` when done.
// `question.order[slot]` is which of the question's clips is shown at a slot; answers name clips, not slots.
// `caption(slot, ...)` fills the line under a clip; `choose(slot)` is what a click on a clip does, where it does something.

function button(text, action, keys, go) {
  const element = document.createElement("button");
  element.type = "button";
  element.append(text);
  if (action) {
    const key = document.createElement("kbd");
    key.dataset.key = element.dataset.action = action;
    key.textContent = keys.name(action);
    element.append(" ", key);
  }
  element.onclick = go;
  return element;
}

// Buttons in one row, or in two where they are many.
function bar(root, keys, choices) {
  root.replaceChildren(...choices.map(([text, action, go]) => button(text, action, keys, go)));
  root.style.setProperty("--columns", choices.length > 6 ? Math.ceil(choices.length / 2) : choices.length);
  const go = Object.fromEntries(choices.map(([, action, go]) => [action, go]));
  return { act: (action) => (go[action] ? (go[action](), true) : false) };
}

// A row of buttons with a name; `set(i)` marks the one that was chosen.
function choiceRow(name, buttons) {
  const row = document.createElement("div");
  const title = document.createElement("span");
  title.textContent = name;
  row.className = "choice";
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", name);
  row.append(title, ...buttons);
  row.style.setProperty("--choices", buttons.length);
  const set = (chosen) => buttons.forEach((b, i) => b.setAttribute("aria-pressed", i === chosen));
  set(null);
  return { row, set };
}

const named = (question, slot) => (question.order[slot] === 0 ? "first" : "second");
const cannotTell = (send) => ["Can’t tell", "cant_tell", () => send({ choice: "cant_tell" })];
const find = (root, action) => root.querySelector(`[data-action="${action}"]`);

function pair({ question, root, keys, send, caption }) {
  const better = question.words.better ?? "is better";
  ["Left", "Right"].forEach((name, slot) => caption(slot, name));
  const choose = (choice) => send({ choice, ...(strength && choice !== "equal" ? { strength } : {}) });
  let strength = null;
  const panel = bar(root, keys, [
    [`Left ${better}`, "left", () => choose(named(question, 0))],
    ["Equal", "equal", () => choose("equal")],
    [`Right ${better}`, "right", () => choose(named(question, 1))],
    cannotTell(send),
  ]);
  if (!question.words.strength) return panel;
  const buttons = ["slightly", "clearly", "far"].map((text, i) => button(text, `digit ${i + 1}`, keys, () => toggle(i + 1)));
  const { row, set } = choiceRow("By how much?", buttons);
  const toggle = (to) => {
    strength = strength === to ? null : to;
    set(strength && strength - 1);
  };
  root.prepend(row);
  return {
    act(action) {
      const digit = Number(action.split(" ")[1]);
      if (digit >= 1 && digit <= 3) return toggle(digit), true;
      return panel.act(action);
    },
  };
}

function triplet({ question, root, keys, send, caption }) {
  ["First: compare with this", "A", "B"].forEach((name, slot) => caption(slot, name));
  const which = (slot) => (question.order[slot] === 1 ? "first" : "second");
  return bar(root, keys, [
    ["A is more like it", "left", () => send({ choice: which(1) })],
    ["Equal", "equal", () => send({ choice: "equal" })],
    ["B is more like it", "right", () => send({ choice: which(2) })],
    cannotTell(send),
  ]);
}

function rating({ root, keys, send, caption }) {
  caption(0, "");
  const words = ["bad", "", "", "", "good"];
  const panel = bar(root, keys, [
    ...words.map((text, i) => [text, `digit ${i + 1}`, () => send({ rating: i + 1 })]),
    cannotTell(send),
  ]);
  for (const key of root.querySelectorAll("[data-action^=digit] kbd")) { // the number is the answer, not a key alone
    key.className = "scale";
    key.parentElement.prepend(key);
  }
  return panel;
}

const PLACES = ["best", "2nd", "3rd", "4th", "5th"];

function ranking({ question, root, keys, send, caption }) {
  const slots = question.order.map((_, slot) => slot);
  let tiers = [];
  let tied = false;
  const place = (slot) => tiers.findIndex((tier) => tier.includes(slot));
  const under = slots.map((slot) => {
    const element = button("", `digit ${slot + 1}`, keys, () => add(slot));
    element.prepend(document.createElement("span"));
    caption(slot, element);
    return element;
  });
  const show = () => {
    under.forEach((element, slot) => {
      const at = place(slot);
      element.firstChild.textContent = at < 0 ? `Clip ${slot + 1}: next best` : `Clip ${slot + 1}: ${PLACES[at]}`;
      element.setAttribute("aria-pressed", at >= 0);
    });
    find(root, "tie").setAttribute("aria-pressed", tied);
    find(root, "tie").disabled = find(root, "remove").disabled = !tiers.length;
    find(root, "submit").disabled = tiers.flat().length < slots.length;
  };
  const add = (slot) => {
    if (place(slot) >= 0) return;
    if (tied && tiers.length) tiers.at(-1).push(slot);
    else tiers.push([slot]);
    tied = false;
    show();
  };
  const remove = () => {
    if (tiers.at(-1)?.length > 1) tiers.at(-1).pop();
    else tiers.pop();
    show();
  };
  const done = () => {
    if (tiers.flat().length === slots.length) send({ tiers: tiers.map((tier) => tier.map((s) => question.order[s])) });
  };
  const tie = () => { tied = !tied && tiers.length > 0; show(); };
  const panel = bar(root, keys, [
    ["As good as the last", "tie", tie], ["Take back", "remove", remove], ["Done", "submit", done], cannotTell(send),
  ]);
  show();
  return {
    choose: add,
    act(action) {
      const slot = Number(action.split(" ")[1]) - 1;
      if (slot in slots) return add(slot), true;
      return panel.act(action);
    },
  };
}

function attributes({ question, root, keys, send, caption }) {
  ["Left", "Right"].forEach((name, slot) => caption(slot, name));
  const names = question.words.attributes;
  const choices = [["Left", "left"], ["Equal", "equal"], ["Right", "right"], ["Can’t tell", "cant_tell"]];
  const found = {};
  let at = 0;
  const rows = names.map((name, i) => choiceRow(name, choices.map(
    ([text, action]) => button(text, action, keys, () => { at = i; choose(action); }),
  )));
  const show = () => {
    rows.forEach(({ row }, i) => row.classList.toggle("current", i === at));
    done.disabled = Object.keys(found).length < names.length;
  };
  const choose = (action) => {
    const slot = { left: 0, right: 1 }[action];
    found[names[at]] = slot === undefined ? action : named(question, slot);
    rows[at].set(choices.findIndex(([, a]) => a === action));
    at = Math.min(names.length - 1, at + 1);
    show();
  };
  const submit = () => { if (Object.keys(found).length === names.length) send({ attributes: found }); };
  const done = button("Done", "submit", keys, submit);
  root.replaceChildren(...rows.map(({ row }) => row), done);
  root.style.setProperty("--columns", 1);
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

function spans({ question, root, keys, send, caption, player, marked }) {
  caption(0, "");
  const stages = question.words.stages ?? ["mark"];
  const parts = [];
  let open = null; // { start, good }
  const show = () => {
    marked(parts, open);
    for (const [action, good, word] of [["good", true, "Good"], ["bad", false, "Bad"]]) {
      const element = find(root, action);
      element.firstChild.textContent = open?.good === good ? `${word}: until here` : `${word} from here`;
      element.setAttribute("aria-pressed", open?.good === good);
    }
    find(root, "submit").disabled = !parts.length && !open;
    find(root, "remove").disabled = !parts.length && !open;
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
  const remove = () => { if (open) open = null; else parts.pop(); show(); };
  const done = () => {
    finish();
    if (parts.length) send({ spans: parts.filter((p) => "good" in p), marks: parts.filter((p) => "name" in p) });
  };
  const panel = bar(root, keys, [
    ["Good from here", "good", () => toggle(true)], ["Bad from here", "bad", () => toggle(false)],
    ...stages.map((name, i) => [`Mark: ${name}`, `digit ${i + 1}`, () => mark(name)]),
    ["Take back", "remove", remove], ["Done", "submit", done], cannotTell(send),
  ]);
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
