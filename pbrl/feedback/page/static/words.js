// Answers in words, as whoever gave them saw the clips.

const STRENGTHS = ["", "slightly", "clearly", "far"];

// `value` and `shown.order` as they were sent; `kind` of event.
export function describe({ kind, value, shown }) {
  if (kind === "retract") return "an answer taken back";
  if (kind === "pass") return "skipped";
  const order = shown?.order ?? [0, 1];
  const note = value?.note ? ` – “${value.note}”` : "";
  return say(value ?? {}, order) + note;
}

function say(value, order) {
  if (value.choice === "cant_tell") return "Can’t tell";
  if (value.choice === "equal") return "Equal";
  if (value.choice) return choice(value, order);
  if (value.rating) return `${value.rating} of 5`;
  if (value.tiers) return `Clip ${value.tiers.map((tier) => tier.map((p) => order.indexOf(p) + 1).join(" = ")).join(", then ")}`;
  if (value.attributes) {
    return Object.entries(value.attributes).map(([name, which]) => `${name}: ${say({ choice: which }, order)}`).join(", ");
  }
  return `${count(value.spans, "span")}, ${count(value.marks, "mark")}`;
}

function choice({ choice, strength }, order) {
  const which = choice === "first" ? 0 : 1;
  const name = order.length === 3 ? "AB"[order.indexOf(which + 1) - 1] : ["Left", "Right"][order.indexOf(which)];
  return strength ? `${name}, ${STRENGTHS[strength]}` : name;
}

const count = (list, what) => `${list?.length ?? 0} ${what}${list?.length === 1 ? "" : "s"}`;
