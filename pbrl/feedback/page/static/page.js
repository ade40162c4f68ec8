// One page, one question at a time: the next ones are loaded while this one is watched, and an answer goes to the
// outbox before anything else happens.

import { ACTIONS, Keys } from "./keys.js";
import { newId, Outbox } from "./outbox.js";
import { PANELS } from "./panels.js";
import { Player } from "./player.js";

const AHEAD = 4; // questions that are ready before they are needed
const DEEP = 50; // answers that can be undone
const RENEW = 45000; // ms; the server hands questions to others after two minutes
const DEAD = 150; // ms after a new question in which a key is meant for the last one
const $ = (id) => document.getElementById(id);
const controls = { scrubber: $("scrubber"), frame: $("frame"), play: $("play"), speed: $("speed") };
const keys = new Keys();

let about, outbox, current, player, panel, shownAt, fetching = false, done = 0, left = 0;
const queue = [];
const known = new Set(); // questions shown here
let past = []; // { question, uid, kind }, the last one last
let times = [];

async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error((await response.json()).detail);
  return response.json();
}

// Questions

function load(question) {
  const figures = question.order.map((place) => {
    const figure = document.createElement("figure");
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: question.clips[place] });
    video.disablePictureInPicture = true;
    video.addEventListener("error", () => current?.question === question && broken(video));
    figure.append(video, document.createElement("figcaption"));
    return figure;
  });
  return { question, figures };
}

async function refill() {
  if (fetching) return;
  fetching = true;
  try {
    const waiting = outbox.events.length;
    const n = Math.min(30, AHEAD + 1 + waiting + (current ? 1 : 0));
    const got = await post("/api/next", { n });
    left = got.left;
    if (got.again) {
      known.clear();
      toast("Some practice answers were not what was expected. Read the help, and try once more.");
      openHelp();
    }
    for (const question of got.questions) {
      if (known.has(question.question)) continue;
      known.add(question.question);
      queue.push(load(question));
    }
    if (!outbox.events.length) trouble("");
  } catch (error) {
    const why = error instanceof TypeError ? "The server cannot be reached; trying again." : error.message;
    if (!outbox.events.length) trouble(why); // else the outbox says more
  } finally {
    fetching = false;
  }
  progress();
  if (!current) next();
}

function next() {
  player?.end();
  current = queue.shift() ?? null;
  current ? show() : rest();
  if (queue.length < AHEAD) refill();
}

function show() {
  const { question, figures } = current;
  $("text").textContent = question.words.text ?? "Which clip is better?";
  $("clips").replaceChildren(...figures);
  $("timeline").hidden = $("more").hidden = false;
  $("marks").replaceChildren();
  $("note").value = "";
  figures.forEach((figure, i) => figure.firstChild.setAttribute("aria-label", `Clip ${i + 1}`));
  const videos = figures.map((figure) => figure.firstChild);
  const clocks = question.order.map((place) => ({ fps: question.fps[place], times: question.times[place] }));
  player = new Player(videos, clocks, controls);
  const captions = (texts) => figures.forEach((figure, i) => { figure.lastChild.textContent = texts[i] ?? ""; });
  panel = PANELS[question.kind]({ question, root: $("answers"), keys, send, captions, player, marked });
  shownAt = Infinity; // until the clips are there
  delete document.body.dataset.question;
  $("clips").classList.add("loading");
  const mine = player;
  player.ready.then(() => {
    if (player !== mine) return;
    if ($("trouble").textContent.startsWith("A clip")) trouble("");
    $("clips").classList.remove("loading");
    shownAt = performance.now();
    document.body.dataset.question = question.question;
  });
  for (const video of videos) if (video.error) broken(video);
}

function rest() {
  $("text").textContent = "There is nothing to answer now. Thank you!";
  $("clips").replaceChildren();
  $("answers").replaceChildren();
  $("timeline").hidden = true;
  $("more").hidden = !past.length;
  player = null;
  delete document.body.dataset.question;
  clearTimeout(rest.timer);
  rest.timer = setTimeout(refill, 2000); // a training run may ask more
}

// A clip that does not play is no answer: the page says why and tries again; raters who do not want to wait skip.
async function broken(video) {
  const question = current?.question;
  let why = "this browser does not play it";
  try {
    const response = await fetch(video.src);
    if (!response.ok) why = (await response.json()).detail;
  } catch {
    why = "the server cannot be reached";
  }
  if (current?.question !== question) return;
  trouble(`A clip is not there (${why}). Trying again; you may skip.`);
  setTimeout(() => current?.question === question && video.load(), 3000);
}

// Answers

function send(answer) {
  if (shownAt === Infinity) return toast("The clips are not there yet.");
  if (performance.now() - shownAt < DEAD) return;
  const note = $("note").value.trim();
  times = [...times.slice(-19), (performance.now() - shownAt) / 1000];
  record("answer", { ...answer, ...(note ? { note } : {}) });
}

function record(kind, value, more = {}) {
  const { question } = current;
  const uid = newId();
  const shown = { order: question.order, watched: round(player.watched), speed: player.speed, ...more };
  const seconds = shownAt === Infinity ? 0 : round((performance.now() - shownAt) / 1000);
  outbox.add({ uid, question: question.question, kind, ...(value ? { value } : {}), shown, seconds });
  past = [...past.slice(1 - DEEP), { question, uid, kind }];
  keepPast();
  if (kind === "answer") done += 1;
  next();
  progress();
}

function replied(reply) {
  if (reply.right === true) toast("Practice: right.");
  if (reply.right === false) toast("Practice: the other answer was expected.");
  if (!current && !queue.length) refill(); // practice may be over
}

function undo() {
  const last = past.pop();
  if (!last) return toast("There is nothing to undo.");
  keepPast();
  if (last.kind === "answer") {
    outbox.add({ uid: newId(), question: last.question.question, kind: "retract", supersedes: last.uid });
    done -= 1;
  }
  if (current) queue.unshift(load(current.question));
  queue.unshift(load(last.question));
  next();
  progress();
  toast("Taken back: answer again.");
}

function keepPast() {
  sessionStorage.setItem("pbrl-past", JSON.stringify(past));
}

const round = (seconds) => Math.round(seconds * 1000) / 1000;

// What is around a question

function progress() {
  const pace = times.length ? ` · ${(times.reduce((a, b) => a + b) / times.length).toFixed(1)} s each` : "";
  $("progress").textContent = `${about.rater}: ${done} answered, ${left + queue.length + (current ? 1 : 0)} to go${pace}`;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

function toast(text) {
  $("toast").textContent = text;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { $("toast").textContent = ""; }, 6000);
}

function marked(parts, open) {
  const at = (frame) => `${(100 * frame) / player.frames}%`;
  $("marks").replaceChildren(...[...parts, ...(open ? [{ ...open, end: player.frame }] : [])].map((part) => {
    const element = document.createElement("span");
    const start = part.frame ?? part.start;
    element.className = "name" in part ? "name" : part.good ? "good" : "bad";
    element.style.left = at(start);
    element.style.width = at((part.end ?? start) - start + 1);
    return element;
  }));
}

const OWN = {
  pass: () => record("pass"), undo, play: () => player.toggle(), restart: () => player.restart(),
  back: () => player.step(-1), forward: () => player.step(1), slower: () => player.faster(-1),
  faster: () => player.faster(1), note: () => $("note").focus(), help: openHelp,
};

addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (typing && event.key === "Escape") event.target.blur();
  if (typing && event.target === $("note") && event.key === "Enter") event.target.blur();
  if (!keys.on || event.repeat || event.ctrlKey || event.altKey || event.metaKey || typing || $("help").open) return;
  if (event.target.matches("button") && (event.key === " " || event.key === "Enter")) return;
  const action = keys.action(event.key);
  if (!action) return;
  const needsQuestion = !["undo", "help"].includes(action);
  if (needsQuestion && !current) return;
  if (current && panel.act(action)) event.preventDefault();
  else if (OWN[action]) {
    event.preventDefault();
    OWN[action]();
  }
});
addEventListener("keyup", (event) => current && panel.release?.(keys.action(event.key)));

// Help and keys

function openHelp() {
  $("help").showModal();
}

function showKeys() {
  for (const label of document.querySelectorAll("[data-key]")) label.textContent = keys.name(label.dataset.key);
  $("keys-on").checked = keys.on;
  $("keys").replaceChildren(...Object.entries(ACTIONS).map(([action, [, text]]) => {
    const row = document.createElement("tr");
    const change = document.createElement("button");
    change.type = "button";
    change.textContent = keys.name(action);
    change.setAttribute("aria-label", `${text}: ${keys.name(action)}`);
    change.onclick = () => {
      change.textContent = "press a key";
      change.onkeydown = (event) => {
        if (["Tab", "Escape", "Shift"].includes(event.key)) return;
        event.preventDefault();
        event.stopPropagation();
        keys.set(action, event.key.length === 1 ? event.key.toLowerCase() : event.key);
        showKeys();
      };
    };
    row.insertCell().textContent = text;
    row.insertCell().append(change);
    return row;
  }));
}

$("keys-on").onchange = () => { keys.on = $("keys-on").checked; keys.keep(); };
$("reset-keys").onclick = () => { keys.reset(); showKeys(); };
$("close-help").onclick = () => $("help").close();
$("open-help").onclick = openHelp;
$("undo").onclick = undo;
$("pass").onclick = () => current && record("pass");
$("play").onclick = () => player?.toggle();
$("slower").onclick = () => player?.faster(-1);
$("faster").onclick = () => player?.faster(1);

async function start() {
  try {
    const response = await fetch("/api/about");
    if (!response.ok) throw new Error((await response.json()).detail);
    about = await response.json();
  } catch (error) {
    trouble(error instanceof TypeError ? "The server cannot be reached; trying again." : error.message);
    setTimeout(start, 1000);
    return;
  }
  ({ done, left } = about);
  past = JSON.parse(sessionStorage.getItem("pbrl-past") ?? "[]");
  outbox = new Outbox(about.rater, (waiting, text) => trouble(text), replied);
  for (const event of outbox.events) known.add(event.question); // answered before a reload, and still on its way
  $("instructions").textContent = about.instructions;
  showKeys();
  trouble("");
  if (!localStorage.getItem("pbrl-welcome")) {
    localStorage.setItem("pbrl-welcome", "1");
    openHelp();
  }
  refill();
  setInterval(() => document.visibilityState === "visible" && refill(), RENEW); // what is on the screen stays ours
}

start();
