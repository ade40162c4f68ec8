// Requests to the server; what goes wrong is one sentence, and why: login, other (project), rate, server or network.

const WHY = { 401: "login", 403: "login", 421: "other", 429: "rate" };

export function toTrouble(response, reply) {
  const why = WHY[response.status] ?? "server";
  const text = typeof reply.detail === "string" ? reply.detail : "The server is in trouble.";
  return { why, text, seconds: Number(response.headers.get("Retry-After")) || null };
}

async function request(path, options) {
  const response = await fetch(path, options);
  const reply = await response.json().catch(() => ({}));
  if (!response.ok) throw toTrouble(response, reply);
  return reply;
}

export const get = (path) => request(path);

export function send(path, body) {
  return fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

export const post = (path, body) =>
  request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const explain = (error) => error.text ?? "The server cannot be reached; trying again.";
