// Which key does what; people may choose others, or none.

export const ACTIONS = {
  left: ["ArrowLeft", "Left is better"],
  right: ["ArrowRight", "Right is better"],
  equal: ["ArrowDown", "Equally good"],
  cant_tell: ["ArrowUp", "Can’t tell"],
  submit: ["Enter", "Done"],
  tie: ["=", "The next is as good as the last one"],
  remove: ["x", "Take back the last part"],
  good: ["g", "Hold: good from here to there"],
  bad: ["b", "Hold: bad from here to there"],
  pass: ["s", "Skip"],
  undo: ["z", "Undo the last answer"],
  play: [" ", "Play or pause"],
  restart: ["r", "From the start"],
  back: [",", "A frame back"],
  forward: [".", "A frame on"],
  slower: ["[", "Slower"],
  faster: ["]", "Faster"],
  large: ["l", "One clip alone, larger; again: the next"],
  note: ["n", "Write a note"],
  help: ["?", "This help"],
};
const ALWAYS = ["pass", "undo", "play", "restart", "back", "forward", "slower", "faster", "large", "note", "help"];
const OF_KIND = { // the keys of a kind, and what they mean there if it is something else
  pair: { left: 0, right: 0, equal: 0, cant_tell: 0 },
  triplet: { left: "A is more like it", right: "B is more like it", equal: "Equally like it", cant_tell: 0 },
  rating: { cant_tell: 0 },
  ranking: { tie: 0, remove: 0, submit: 0, cant_tell: 0 },
  attributes: { left: "Left has more of it", right: "Right has more of it", equal: "Equal", cant_tell: 0,
    remove: "Back to the row above", submit: 0 },
  spans: { good: 0, bad: 0, remove: 0, submit: 0, cant_tell: 0 },
};
const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowDown: "↓", ArrowUp: "↑", " ": "Space", Enter: "⏎" };
const STORE = "pbrl-keys";
const plain = (key) => (key.length === 1 ? key.toLowerCase() : key); // caps lock changes nothing

// [action, what it does] of a kind of question, its own first.
export function actionsOf(kind) {
  const own = Object.entries(OF_KIND[kind] ?? {}).map(([action, text]) => [action, text || ACTIONS[action][1]]);
  return [...own, ...ALWAYS.map((action) => [action, ACTIONS[action][1]])];
}

// What digits do: the last one, and a word; none where they do nothing.
export function digitsOf({ kind, words, clips }) {
  if (kind === "rating") return [5, "How good it is"];
  if (kind === "ranking") return [clips.length, "The next best clip"];
  if (kind === "spans") return [words.stages?.length ?? 1, "Mark a stage here"];
  return kind === "pair" && words.strength ? [3, "By how much, before left or right"] : null;
}

export class Keys {
  constructor() {
    const stored = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    this.on = stored.on ?? true;
    this.of = Object.fromEntries(Object.entries(ACTIONS).map(([action, [key]]) => [action, stored.of?.[action] ?? key]));
  }

  keep() {
    localStorage.setItem(STORE, JSON.stringify({ on: this.on, of: this.of }));
  }

  action(key) {
    const found = Object.keys(this.of).find((action) => this.of[action] === plain(key));
    return found ?? (/^[1-9]$/.test(key) ? `digit ${key}` : null);
  }

  name(action) {
    const key = this.of[action] ?? action.split(" ")[1];
    return NAMES[key] ?? key.toUpperCase();
  }

  isChanged() {
    return Object.entries(ACTIONS).some(([action, [key]]) => this.of[action] !== key);
  }

  // Gives an action another key; the action that had it gets the old one, and its name is returned.
  set(action, key) {
    const other = Object.keys(this.of).find((a) => a !== action && this.of[a] === plain(key));
    if (other) this.of[other] = this.of[action];
    this.of[action] = plain(key);
    this.keep();
    return other;
  }

  reset() {
    for (const [action, [key]] of Object.entries(ACTIONS)) this.of[action] = key;
    this.keep();
  }
}
