// The lines around a question: what is wrong, what has just happened, how far one has come.

import { explainWaiting } from "./kept.js";

const $ = (id) => document.getElementById(id);

export class Notices {
  constructor() {
    this.text = "";
  }

  // What went wrong last; the outbox has more to say than that.
  trouble(text = this.text) {
    this.text = text;
    const shown = (this.outbox && explainWaiting(this.outbox)) || text;
    $("trouble").textContent = shown;
    $("trouble").hidden = !shown;
  }

  toast(text) {
    $("toast").textContent = text;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { $("toast").textContent = ""; }, 6000);
  }

  // That a question is practice, or was answered before.
  above({ isPractice, practice, before }) {
    const counted = practice ? ` (${practice.answered} of ${practice.asked} answered)` : "";
    $("notice").hidden = !isPractice && !before;
    $("notice-text").textContent = before ? `You answered: ${before}. Answer again to change it.`
      : `Practice${counted}: afterwards you are told whether it was right. It does not count.`;
    $("leave-practice").hidden = !isPractice || !practice;
    $("pass-text").textContent = before ? "Leave as it is" : "Skip";
  }

  // Nothing to answer: for good, for now, or because the server is away.
  rest({ reached, waiting, left }) {
    const [title, text] = !reached
      ? ["Waiting for the server…", ""]
      : waiting ? ["Please wait a moment", "Your last answers are still being sent. Keep this page open."]
      : left > 0 ? ["Nothing for you just now", `${left} more to come: they appear here by themselves.`]
      : ["You are done. Thank you!", "Every answer is kept; you may close this page. If more is asked, it appears here."];
    $("text").textContent = title;
    $("rest").textContent = text;
  }
}
