// One's own answers, the latest first: each can be looked at again and changed.

import { closeByEnter } from "./help.js";
import { explain, get } from "./requests.js";
import { describe } from "./words.js";

const $ = (id) => document.getElementById(id);
const PAGE = 50;

export class Own {
  // `change(question, text)` shows a question again, which was answered so.
  constructor(change) {
    this.change = change;
    closeByEnter($("own"), $("close-own"));
    $("own-more").onclick = () => this.load();
    $("open-own").onclick = () => this.open();
  }

  async open() {
    this.last = null;
    $("own-list").replaceChildren();
    $("own").showModal();
    await this.load();
  }

  async load() {
    $("own-said").textContent = "Loading…";
    try {
      const { answers, more } = await get(`/api/mine?n=${PAGE}${this.last === null ? "" : `&before=${this.last}`}`);
      this.last = answers.at(-1)?.seq ?? this.last;
      $("own-list").append(...answers.map((answer) => this.item(answer)));
      $("own-more").hidden = !more;
      $("own-said").textContent = $("own-list").children.length ? "" : "No answers yet.";
    } catch (error) {
      $("own-said").textContent = explain(error);
    }
  }

  item({ question, value, time }) {
    const item = document.createElement("li");
    const words = document.createElement("p");
    const about = document.createElement("small");
    const change = document.createElement("button");
    const text = describe({ kind: "answer", value, shown: { order: question.order } });
    words.textContent = text;
    about.textContent = [question.purpose === "practice" ? "Practice" : "", question.words.text ?? "",
      time ? new Date(time).toLocaleString() : ""].filter(Boolean).join(" · ");
    words.append(about);
    Object.assign(change, { type: "button", textContent: "Look again" });
    change.setAttribute("aria-label", `Look again, to change: ${text}`);
    change.onclick = () => { $("own").close(); this.change(question, text); };
    item.append(words, change);
    return item;
  }
}
