// One page, one question at a time: the next ones are loaded while this one is watched, and an answer goes to the
// outbox before anything else happens.

import { makeFigures, whyBroken } from "./clips.js";
import { Help } from "./help.js";
import { makeKept, showKept } from "./kept.js";
import { Keys } from "./keys.js";
import { Large } from "./large.js";
import { Notices } from "./notices.js";
import { isSame, newId, Outbox } from "./outbox.js";
import { Own } from "./own.js";
import { PANELS } from "./panels.js";
import { Player } from "./player.js";
import { explain, get, post } from "./requests.js";

const AHEAD = 4; // questions that are ready before they are needed
const DEEP = 50; // answers that can be undone
const RENEW = 45000; // ms; the server hands questions to others after two minutes
const DEAD = 150; // ms after a new question in which a key is meant for the last one
const AGAIN = 4000; // ms after which questions are asked for again
const SESSION = "pbrl-session"; // whose page was opened last in this browser
const $ = (id) => document.getElementById(id);
const controls = { scrubber: $("scrubber"), frame: $("frame"), play: $("play"), speed: $("speed") };
const keys = new Keys();
const large = new Large($("clips"));
const notices = new Notices();

let about, help, outbox, current, player, panel, shownAt, fetching = false, reached = false, done = 0, left = 0;
let queue = []; // { question, figures, before: what was answered to it, where it is shown again }
const known = new Set(); // questions shown here
let past = []; // { question, uid, kind }, the last one last
let times = [];

// Questions

function load(question, before = null) {
  const hooks = { broken: (video) => current?.question === question && broken(video), choose: (slot) => panel.choose?.(slot) };
  return { question, figures: makeFigures(question, hooks), before };
}

async function refill() {
  if (fetching || outbox.stopped) return;
  fetching = true;
  try {
    const n = Math.min(30, AHEAD + 1 + outbox.events.length + (current ? 1 : 0));
    take(await post("/api/next", { n }));
    reached = true;
    notices.trouble("");
  } catch (error) {
    notices.trouble(explain(error));
    clearTimeout(refill.timer);
    refill.timer = setTimeout(refill, AGAIN);
  } finally {
    fetching = false;
  }
  progress();
  if (!current) next();
}

function take(got) {
  if ("rater" in got && !isSame(got, outbox.owner)) return outbox.stop();
  left = got.left;
  if (!outbox.events.length) done = got.done;
  about.practice = got.practice;
  if (got.again) {
    known.clear();
    notices.toast("Some practice answers were not what was expected. Read the help, and try once more.");
    help.open();
  }
  for (const question of got.questions ?? []) {
    if (known.has(question.question)) continue;
    known.add(question.question);
    queue.push(load(question));
  }
}

function next() {
  player?.end();
  large.set(null);
  current = queue.shift() ?? null;
  current ? show() : rest();
  const isPractice = current?.question.purpose === "practice";
  notices.above({ isPractice, practice: about.practice, before: current?.before });
  if (queue.length < AHEAD) refill();
}

function show() {
  const { question, figures } = current;
  const videos = figures.map((figure) => figure.firstChild);
  $("text").textContent = question.words.text ?? "Which clip is better?";
  $("clips").replaceChildren(...figures);
  $("rest").hidden = true;
  $("tasks").textContent = tasksOf(question);
  $("tasks").hidden = !$("tasks").textContent;
  for (const name of ["stage", "timeline", "answers", "more", "pass", "note-label"]) $(name).hidden = false;
  $("marks").replaceChildren();
  $("note").value = "";
  for (const id of ["clips", "answers"]) Object.assign($(id).dataset, { kind: question.kind, count: videos.length });
  const clocks = question.order.map((place) => ({ fps: question.fps[place], times: question.times[place] }));
  player = new Player(videos, clocks, controls);
  const caption = (slot, content) => figures[slot].lastChild.replaceChildren(content);
  panel = PANELS[question.kind]({ question, root: $("answers"), keys, send, caption, player, marked });
  help.show(question);
  wait(videos);
}

// What the robot was told to do in the clips, from left to right; nothing where it was told nothing.
function tasksOf({ order, tasks }) {
  const told = order.map((place) => tasks[place]);
  if (!told.some(Boolean)) return "";
  if (told.every((task) => task === told[0])) return `Task: ${told[0]}`;
  return told.map((task, slot) => `${slot + 1}: ${task || "no task"}`).join(" · ");
}

// Until the clips are there nothing can be said of them.
function wait(videos) {
  const mine = player;
  shownAt = Infinity;
  delete document.body.dataset.question;
  $("clips").classList.add("loading");
  player.ready.then(() => {
    if (player !== mine) return;
    if (notices.text.startsWith("A clip")) notices.trouble("");
    $("clips").classList.remove("loading");
    shownAt = performance.now();
    document.body.dataset.question = current.question.question;
  });
  for (const video of videos) if (video.error) broken(video);
}

// Nothing to answer: for good, for now, or because the server is away.
function rest() {
  $("clips").replaceChildren();
  $("answers").replaceChildren();
  for (const name of ["tasks", "stage", "timeline", "answers", "pass", "note-label"]) $(name).hidden = true;
  $("more").hidden = !past.length && !done;
  $("rest").hidden = false;
  player = null;
  delete document.body.dataset.question;
  sayRest();
  clearTimeout(rest.timer);
  rest.timer = setTimeout(refill, 2000); // a training run may ask more
}

function sayRest() {
  if (!current) notices.rest({ reached, waiting: outbox.events.length, left });
}

// A clip that does not play is no answer: the page says why and tries again; raters who do not want to wait skip.
async function broken(video) {
  const question = current?.question;
  const why = await whyBroken(video);
  if (current?.question !== question) return;
  notices.trouble(`A clip is not there (${why}). Trying again; you may skip.`);
  setTimeout(() => current?.question === question && video.load(), 3000);
}

// Answers

function send(answer) {
  if (shownAt === Infinity) return notices.toast("The clips are not there yet.");
  if (performance.now() - shownAt < DEAD) return;
  const note = $("note").value.trim();
  times = [...times.slice(-19), (performance.now() - shownAt) / 1000];
  record("answer", { ...answer, ...(note ? { note } : {}) });
}

function record(kind, value) {
  const { question, before } = current;
  const uid = newId();
  const shown = { order: question.order, watched: round(player.watched), speed: player.speed };
  const seconds = shownAt === Infinity ? 0 : round((performance.now() - shownAt) / 1000);
  outbox.add({ uid, question: question.question, kind, ...(value ? { value } : {}), shown, seconds });
  past = [...past.slice(1 - DEEP), { question, uid, kind }];
  keepPast();
  if (kind === "answer" && !before) count(question, 1);
  next();
  progress();
}

function count(question, by) {
  if (question.purpose !== "practice") done += by;
  else if (about.practice) about.practice.answered += by;
}

// A question that is shown again is left as it was answered.
function pass() {
  if (!current) return;
  if (!current.before) return record("pass");
  next();
}

function replied(reply) {
  if (notices.text.startsWith("The server")) notices.trouble("");
  if (reply.right === true) notices.toast("Practice: right.");
  if (reply.right === false) notices.toast("Practice: the other answer was expected.");
  if (!current && !queue.length) refill(); // practice may be over
}

function undo() {
  const last = past.pop();
  if (!last) return notices.toast("There is nothing to undo.");
  keepPast();
  if (last.kind === "answer") {
    outbox.add({ uid: newId(), question: last.question.question, kind: "retract", supersedes: last.uid });
    count(last.question, -1);
  }
  showNow(last.question);
  notices.toast("Taken back: answer again.");
}

// Shows a question at once, and what was shown after it.
function showNow(question, before = null) {
  if (current && !current.before) queue.unshift(load(current.question));
  queue = [load(question, before), ...queue.filter((one) => one.question.question !== question.question)];
  next();
  progress();
}

function keepPast() {
  sessionStorage.setItem(`pbrl-past-${about.project ?? ""}`, JSON.stringify(past));
}

async function skipPractice() {
  try {
    take(await post("/api/practice", { skip: true }));
    queue = queue.filter((one) => one.question.purpose !== "practice");
    if (current?.question.purpose === "practice") next();
    notices.toast("Practice is over: from now on answers count.");
  } catch (error) {
    notices.toast(explain(error));
  }
}

const round = (seconds) => Math.round(seconds * 1000) / 1000;

// What is around a question

function progress() {
  const pace = times.length ? ` · ${(times.reduce((a, b) => a + b) / times.length).toFixed(1)} s each` : "";
  const waiting = [current, ...queue].filter((one) => one && !one.before).length;
  $("progress").textContent = `${about.rater}: ${done} answered, ${left + waiting} to go${pace}`;
  $("open-own").hidden = about.project === undefined;
  sayRest();
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
  pass, undo, play: () => player.toggle(), restart: () => player.restart(), back: () => player.step(-1),
  forward: () => player.step(1), slower: () => player.faster(-1), faster: () => player.faster(1),
  large: () => large.turn(), note: () => $("note").focus(), help: () => help.open(),
};

addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (typing && (event.key === "Escape" || (event.target === $("note") && event.key === "Enter"))) event.target.blur();
  if (!help || event.repeat || event.ctrlKey || event.altKey || event.metaKey || typing || $("help").open || $("own").open) return;
  if (event.key === "Escape") return large.set(null);
  if (event.target.matches("button, a, summary") && (event.key === " " || event.key === "Enter")) return;
  const action = keys.on && keys.action(event.key);
  if (!action) return;
  document.body.classList.add("keyboard");
  if (current && panel.act(action)) event.preventDefault();
  else if (OWN[action] && (current || ["undo", "help"].includes(action))) {
    event.preventDefault();
    OWN[action]();
  }
});
addEventListener("keyup", (event) => current && panel.release?.(keys.action(event.key)));
// A click or a drag leaves no focus behind: the next Space or arrow is the question's, not the button's or the slider's.
document.addEventListener("click", (event) => {
  if (event.detail && !event.target.closest("dialog")) event.target.closest("button, a, summary")?.blur();
}, true);
$("scrubber").addEventListener("pointerup", () => $("scrubber").blur());

$("undo").onclick = undo;
$("pass").onclick = pass;
$("leave-practice").onclick = skipPractice;
$("play").onclick = () => player?.toggle();
$("slower").onclick = () => player?.faster(-1);
$("faster").onclick = () => player?.faster(1);
$("larger").onclick = () => large.turn();
$("open-help").onclick = () => help?.open();

// Another tab opened another project or another rater's link: this one sends nothing more in that name.
addEventListener("storage", ({ key, newValue }) => {
  if (key === SESSION && newValue && outbox && !isSame(JSON.parse(newValue), outbox.owner)) outbox.stop();
});

async function start() {
  try {
    about = await get("/api/about");
  } catch (error) {
    notices.trouble(explain(error));
    setTimeout(start, 1000);
    return;
  }
  const owner = { rater: about.rater, ...(about.project === undefined ? {} : { project: about.project }) };
  ({ done, left } = about);
  past = JSON.parse(sessionStorage.getItem(`pbrl-past-${about.project ?? ""}`) ?? "[]");
  localStorage.setItem(SESSION, JSON.stringify(owner));
  const changed = (box) => { if (outbox) { notices.trouble(); showKept(box); sayRest(); } };
  help = new Help(keys, about.instructions);
  outbox = new Outbox(owner, { changed, kept: replied, identify: () => get("/api/about") });
  notices.outbox = outbox;
  for (const event of outbox.events) known.add(event.question); // answered before a reload, and still on its way
  makeKept(outbox);
  showKept(outbox);
  new Own(showNow);
  $("open-stats").hidden = !about.owner;
  notices.trouble("");
  if (!localStorage.getItem("pbrl-welcome")) {
    localStorage.setItem("pbrl-welcome", "1");
    help.open();
  }
  refill();
  setInterval(() => document.visibilityState === "visible" && refill(), RENEW); // what is on the screen stays ours
}

start();
