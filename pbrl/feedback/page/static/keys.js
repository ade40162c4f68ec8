// Which key does what; people may choose others, or none.

export const ACTIONS = {
  left: ["ArrowLeft", "Left is better"],
  right: ["ArrowRight", "Right is better"],
  equal: ["ArrowDown", "Equally good"],
  cant_tell: ["ArrowUp", "Cannot tell"],
  pass: ["s", "Skip"],
  undo: ["z", "Undo"],
  submit: ["Enter", "Done, where an answer has parts"],
  tie: ["=", "The next is as good as the last one (ranking)"],
  remove: ["x", "Take away the last part"],
  good: ["g", "Hold: good from here to there"],
  bad: ["b", "Hold: bad from here to there"],
  play: [" ", "Play or pause"],
  restart: ["r", "From the start"],
  back: [",", "A frame back"],
  forward: [".", "A frame on"],
  slower: ["[", "Slower"],
  faster: ["]", "Faster"],
  note: ["n", "Write a note"],
  help: ["?", "Help"],
};
const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowDown: "↓", ArrowUp: "↑", " ": "Space", Enter: "⏎" };
const STORE = "pbrl-keys";

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
    const found = Object.keys(this.of).find((action) => this.of[action] === key);
    return found ?? (/^[1-9]$/.test(key) ? `digit ${key}` : null);
  }

  name(action) {
    const key = this.of[action];
    return NAMES[key] ?? key.toUpperCase();
  }

  // Gives an action another key; the action that had it gets the old one.
  set(action, key) {
    const other = Object.keys(this.of).find((a) => this.of[a] === key);
    if (other) this.of[other] = this.of[action];
    this.of[action] = key;
    this.keep();
  }

  reset() {
    for (const [action, [key]] of Object.entries(ACTIONS)) this.of[action] = key;
    this.keep();
  }
}
