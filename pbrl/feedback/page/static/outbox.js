// Answers that are not yet known to be kept. They survive a reload, a dead server, a login that has ended and a closed
// lid: an event leaves only when the server says that it is on the disk, or, set aside, that it can never be.

import { Drawer } from "./drawer.js";
import { send, toTrouble } from "./requests.js";

const REFUSALS = new Set([400, 403, 409, 413, 422]); // what is sent again would be refused again
const SLOWEST = 4000; // ms between attempts
const LOGIN = 15000; // ms, where only the rater can mend it
const TOGETHER = 3; // events that fail before the rest waits too

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is missing where the page is plain HTTP
  return [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
}

export const isSame = (a, b) => a.rater === b.rater && (a.project ?? "") === (b.project ?? "");

export class Outbox {
  // `owner` {rater, project} keeps apart the answers of people and projects that share a browser. `changed(outbox)` is called
  // at each change, `kept(reply)` with what the server says of an event, `identify()` finds whose page the server would show.
  constructor(owner, { changed, kept, identify }) {
    Object.assign(this, { owner, changed, kept, identify });
    this.waiting = new Drawer("outbox", owner);
    this.refused = new Drawer("refused", owner);
    this.trouble = null; // { why, text }
    this.failures = 0;
    this.tries = new Map(); // of a question: how often its first event failed
    this.takeOver();
    addEventListener("beforeunload", (leaving) => this.isNeeded() && leaving.preventDefault());
    for (const name of ["online", "focus"]) addEventListener(name, () => this.trouble && this.flush());
    addEventListener("storage", (event) => event.key?.startsWith("pbrl-") && this.changed(this)); // by another tab
    this.flush();
  }

  get events() {
    return this.waiting.list().map(({ entry }) => entry);
  }

  // Whether the page has to stay open for them, as far as it can know.
  isNeeded() {
    return this.waiting.keys().length > 0 && !["login", "other"].includes(this.trouble?.why);
  }

  // What earlier versions of the page kept, in one list a rater.
  takeOver() {
    for (const [key, drawer] of [[`pbrl-outbox-${this.owner.rater}`, this.waiting], ["pbrl-refused", this.refused]]) {
      for (const entry of JSON.parse(localStorage.getItem(key) ?? "[]")) drawer.add(entry);
      localStorage.removeItem(key);
    }
  }

  add(event) {
    const { project } = this.owner;
    this.waiting.add({ ...event, ...(project ? { project } : {}), time: new Date().toISOString() });
    this.flush();
  }

  sendRefusedAgain() {
    for (const { key, entry } of this.refused.list()) {
      this.waiting.add(entry.event);
      this.refused.remove(key);
    }
    this.flush();
  }

  // The page is another rater's or project's now: nothing more is sent from here.
  stop() {
    this.trouble = { why: "other" };
    this.stopped = true;
    clearTimeout(this.timer);
    this.changed(this);
  }

  async flush() {
    if (this.sending || this.stopped) return this.changed(this);
    this.sending = true;
    clearTimeout(this.timer);
    try {
      this.trouble = await this.sendAll();
    } catch (error) {
      this.trouble = error.why ? error : { why: "network" };
    }
    this.sending = false;
    this.failures = this.trouble ? this.failures + 1 : 0;
    if (this.trouble) this.timer = setTimeout(() => this.flush(), this.pause());
    this.changed(this);
  }

  pause() {
    if (this.trouble.seconds) return 1000 * this.trouble.seconds;
    return ["login", "other"].includes(this.trouble.why) ? LOGIN : Math.min(SLOWEST, 250 * 2 ** this.failures);
  }

  // Sends what waits, events of one question in their order; one that fails holds up only its own question. Returns what
  // is wrong, or null.
  async sendAll() {
    const failed = new Set();
    let trouble = null;
    if (this.trouble && this.waiting.keys().length) await this.check(); // the server may be another one by now
    while (failed.size < TOGETHER) {
      const tries = ({ entry }) => this.tries.get(entry.question) ?? 0;
      const left = this.waiting.list().filter(({ entry }) => !failed.has(entry.question));
      const next = left.sort((a, b) => tries(a) - tries(b))[0];
      if (!next || this.stopped) break;
      const found = await this.send(next);
      if (!found) continue;
      trouble = found;
      if (["login", "other", "rate"].includes(found.why)) break;
      failed.add(next.entry.question);
      this.tries.set(next.entry.question, tries(next) + 1);
    }
    return this.stopped ? this.trouble : trouble;
  }

  async send({ key, entry }) {
    const response = await send("/api/answer", entry);
    const reply = await response.json().catch(() => ({}));
    if (!response.ok && !REFUSALS.has(response.status)) return toTrouble(response, reply);
    if (!response.ok) {
      await this.check();
      this.refused.add({ event: entry, why: reply });
    }
    this.waiting.remove(key);
    this.tries.delete(entry.question);
    if (response.ok) this.kept(reply);
    this.changed(this);
    return null;
  }

  // Throws what is wrong unless the server still shows this project to this rater: what another one refuses is not refused.
  async check() {
    if (!isSame(await this.identify(), this.owner)) throw { why: "other" };
  }
}
