// Answers that are not yet known to be kept. They survive a reload, a dead server and a closed lid: an event leaves
// only when the server says that it is on the disk, or that it can never be.

const KEY = "pbrl-outbox";
const REFUSED = "pbrl-refused";

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is missing where the page is plain HTTP
  return [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  // `rater` keeps apart the answers of people who share a browser; `changed(waiting, trouble)` is called at each change, and
  // `kept(reply)` what the server says of an event when it has it.
  constructor(rater, changed, kept) {
    this.key = `${KEY}-${rater}`;
    Object.assign(this, { changed, kept });
    this.events = JSON.parse(localStorage.getItem(this.key) ?? "[]");
    this.sending = false;
    this.failures = 0;
    addEventListener("beforeunload", (leaving) => this.events.length && leaving.preventDefault());
    addEventListener("online", () => this.flush());
    this.flush();
  }

  add(event) {
    this.events.push({ ...event, time: new Date().toISOString() });
    this.keep();
    this.flush();
  }

  keep() {
    localStorage.setItem(this.key, JSON.stringify(this.events));
  }

  async flush() {
    if (this.sending) return;
    this.sending = true;
    clearTimeout(this.timer);
    try {
      while (this.events.length) {
        const event = this.events[0];
        const response = await fetch("/api/answer", {
          method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(event),
        });
        if (response.status >= 500 || response.status === 429) throw new Error((await response.json()).detail);
        const reply = await response.json();
        this.events.shift();
        this.keep();
        this.failures = 0;
        this.changed(this.events.length, "");
        response.ok ? this.kept(reply) : this.refuse(event, reply);
      }
    } catch (error) {
      this.failures += 1;
      const n = this.events.length;
      const server = error instanceof TypeError ? "The server cannot be reached" : error.message;
      this.changed(n, `${server}. ${n} answer${n > 1 ? "s are" : " is"} kept here and will be sent.`);
      this.timer = setTimeout(() => this.flush(), Math.min(4000, 250 * 2 ** this.failures));
    } finally {
      this.sending = false;
    }
  }

  refuse(event, why) {
    const refused = JSON.parse(localStorage.getItem(REFUSED) ?? "[]");
    localStorage.setItem(REFUSED, JSON.stringify([...refused, { event, why }]));
    const reason = typeof why.detail === "string" ? why.detail : JSON.stringify(why.detail);
    this.changed(this.events.length, `An answer was refused (${reason}); it is kept in this browser.`);
  }
}
