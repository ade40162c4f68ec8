// What waits in this browser and what was refused, in words, with a way to take it along: no answer goes away unseen.

import { describe } from "./words.js";
import { listElsewhere } from "./drawer.js";

const $ = (id) => document.getElementById(id);
const answers = (n) => `${n} answer${n === 1 ? "" : "s"}`;
const are = (n) => (n === 1 ? "is" : "are");

// What the yellow line says while answers wait; nothing where all is well.
export function explainWaiting(outbox) {
  const n = outbox.waiting.keys().length;
  const { why, text } = outbox.trouble ?? {};
  if (why === "other") {
    return "Another rater or another project is open at this address now" +
      (n ? `. ${answers(n)} ${are(n)} kept here for the earlier one.` : ".") + " Reload the page to go on.";
  }
  if (!n || !why) return "";
  const kept = `${answers(n)} ${are(n)} kept here and will be sent`;
  if (why === "login") return `You are not logged in any more. ${kept} when you open your link again.`;
  if (why === "network") return `The server cannot be reached. ${kept}.`;
  return `${(text ?? "The server is in trouble").replace(/\.$/, "")}. ${kept}.`;
}

// The list of what was refused, and a line about answers of other projects and raters.
export function showKept(outbox) {
  const refused = outbox.refused.list();
  const elsewhere = listElsewhere("outbox", outbox.owner);
  const names = [...new Set(elsewhere.map(({ rater }) => rater))].join(", ");
  const n = elsewhere.length;
  $("kept").hidden = !refused.length && !n;
  $("elsewhere").textContent = n
    ? `${answers(n)} to another project or by another rater (${names}) ${are(n)} kept in this browser and will be sent ` +
      "when that page is open here again." : "";
  $("refused").hidden = !refused.length;
  $("refused-count").textContent = `${answers(refused.length)} could not be taken; see why`;
  $("refused-list").replaceChildren(...refused.map(({ entry: { event, why } }) => {
    const item = document.createElement("li");
    const reason = typeof why.detail === "string" ? why.detail : JSON.stringify(why.detail ?? why);
    item.textContent = `${new Date(event.time).toLocaleString()}: ${describe(event)}. Refused: ${reason}`;
    return item;
  }));
}

export function makeKept(outbox) {
  $("refused-again").onclick = () => outbox.sendRefusedAgain();
  $("refused-remove").onclick = () => {
    if (!confirm("Remove these answers from this browser for good?")) return;
    for (const { key } of outbox.refused.list()) outbox.refused.remove(key);
    showKept(outbox);
  };
  for (const button of document.querySelectorAll(".download-kept")) button.onclick = () => download(outbox);
}

function download(outbox) {
  const elsewhere = listElsewhere("outbox", outbox.owner);
  const lines = [
    ...outbox.refused.list().map(({ entry }) => ({ ...entry.event, rater: outbox.owner.rater, refused: entry.why })),
    ...elsewhere.map(({ project, rater, entry }) => ({ ...entry, project, rater })),
  ];
  const text = lines.map((line) => `${JSON.stringify(line)}\n`).join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
  link.download = "answers-in-this-browser.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
