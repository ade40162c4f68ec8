// The help: how to answer, and the keys of the kind of question that is shown. Close comes first and has the focus, so that
// Enter leaves the help as it was.

import { actionsOf, digitsOf } from "./keys.js";

const NEVER = /^(Tab|Escape|Shift|Control|Alt|AltGraph|Meta|CapsLock|Dead|Process|Unidentified|[1-9]|F\d+)$/;
const $ = (id) => document.getElementById(id);

export class Help {
  constructor(keys, instructions) {
    Object.assign(this, { keys, question: null });
    const paragraphs = instructions.trim().split(/\n\s*\n/).map((text) => text.replace(/\s*\n\s*/g, " "));
    $("instructions").replaceChildren(...paragraphs.map((text) => {
      const element = document.createElement("p");
      element.textContent = text;
      return element;
    }));
    $("keys-on").onchange = () => { keys.on = $("keys-on").checked; keys.keep(); this.show(); };
    $("reset-keys").onclick = () => { keys.reset(); this.show(); this.say("Keys are as they were."); };
    closeByEnter($("help"), $("close-help"));
    this.show();
  }

  open() {
    this.say("");
    $("help").showModal();
    $("help").scrollTop = 0;
  }

  // The keys for this question, here and on the buttons.
  show(question = this.question) {
    this.question = question;
    for (const label of document.querySelectorAll("kbd[data-key]")) label.textContent = this.keys.name(label.dataset.key);
    document.body.classList.toggle("no-keys", !this.keys.on);
    $("keys-on").checked = this.keys.on;
    $("reset-keys").hidden = !this.keys.isChanged();
    const digits = question && digitsOf(question);
    const rows = actionsOf(question?.kind).map(([action, text]) => this.row(text, this.changer(action, text)));
    $("keys").replaceChildren(...(digits ? [this.row(digits[1], digitKeys(digits[0]))] : []), ...rows);
  }

  row(text, content) {
    const row = document.createElement("tr");
    row.insertCell().append(content);
    row.insertCell().textContent = text;
    return row;
  }

  changer(action, text) {
    const change = document.createElement("button");
    change.type = "button";
    change.textContent = this.keys.name(action);
    change.setAttribute("aria-label", `${text}: ${this.keys.name(action)}. Change`);
    change.onclick = () => this.listen(change, action, text);
    return change;
  }

  // The next key is the action's, unless the focus goes elsewhere before.
  listen(change, action, text) {
    change.textContent = "press a key";
    change.onblur = () => { change.textContent = this.keys.name(action); change.onkeydown = null; };
    change.onkeydown = (event) => {
      if (NEVER.test(event.key) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      if (event.key === "Enter") return $("close-help").focus(); // as it was: Enter leaves
      const other = this.keys.set(action, event.key);
      this.show();
      const instead = other ? ` ${this.keys.name(other)} is now “${actionsOf().concat(actionsOf(this.question?.kind))
        .find(([a]) => a === other)?.[1] ?? other}”.` : "";
      this.say(`${this.keys.name(action)} is now “${text}”.${instead}`);
      $("close-help").focus();
    };
  }

  say(text) {
    $("keys-said").textContent = text;
  }
}

function digitKeys(last) {
  const keys = document.createElement("kbd");
  keys.textContent = last > 1 ? `1 – ${last}` : "1";
  return keys;
}

export function closeByEnter(dialog, button) {
  button.onclick = () => dialog.close();
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target.closest("button, a, summary")) return;
    event.preventDefault();
    dialog.close();
  });
}
