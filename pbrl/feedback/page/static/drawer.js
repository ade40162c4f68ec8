// Entries in localStorage, each under a key of its own: two tabs never write over each other's. Where the browser has no
// room they stay in memory, as long as the page does.

const part = (text) => encodeURIComponent(text ?? "");

export const drawerName = (name, { project, rater }) => `pbrl-${name}/${part(project)}/${part(rater)}/`;

export class Drawer {
  constructor(name, owner) {
    this.prefix = drawerName(name, owner);
    this.memory = new Map();
    this.last = 0;
  }

  // In the order in which they were added.
  keys() {
    return [...Object.keys(localStorage), ...this.memory.keys()].filter((key) => key.startsWith(this.prefix)).sort();
  }

  list() {
    const read = (key) => this.memory.get(key) ?? localStorage.getItem(key);
    return this.keys().map((key) => ({ key, entry: JSON.parse(read(key)) })).filter(({ entry }) => entry);
  }

  add(entry) {
    const newest = Number(this.keys().at(-1)?.slice(this.prefix.length).split("-")[0] ?? 0);
    this.last = Math.max(Date.now(), this.last + 1, newest + 1); // also where the clock is set back
    const key = `${this.prefix}${String(this.last).padStart(15, "0")}-${Math.random().toString(36).slice(2)}`;
    try {
      localStorage.setItem(key, JSON.stringify(entry));
    } catch {
      this.memory.set(key, JSON.stringify(entry));
    }
  }

  remove(key) {
    localStorage.removeItem(key);
    this.memory.delete(key);
  }
}

// Of all drawers of that name but one's own: how many entries wait, by whom.
export function listElsewhere(name, owner) {
  const mine = drawerName(name, owner);
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(`pbrl-${name}/`) && !key.startsWith(mine));
  return keys.map((key) => {
    const [, project, rater] = key.split("/").map(decodeURIComponent);
    return { project, rater, entry: JSON.parse(localStorage.getItem(key)) };
  });
}
