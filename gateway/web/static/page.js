// Keeps the status page up to date: asks for the part that changes, exchanges what differs, and lets the times run in
// between. A proxy may lead each question to another gateway. The page shows one of them steadily, the one that it came
// from, and offers the others that have answered. What is not up to date is said above everything else.
"use strict";

const POLL_MILLISECONDS = 2000;
const TICK_MILLISECONDS = 250;
const STALE_MILLISECONDS = 10000; // without news of the gateway that is shown
const FORGET_MILLISECONDS = 60000; // without news of another
const live = document.getElementById("live");
const connection = document.getElementById("connection");
const stale = document.getElementById("stale");
const gateways = document.getElementById("gateways");
const seen = new Map(); // by id: name, when it answered last, what it said
let shownId = idOf(live);
let readAt = performance.now(); // when the shown gateway said what stands here, by a clock that nobody sets
let readTime = new Date(live.querySelector(".asof time").dateTime);
let trouble = "";
let isOver = false;
let isAsking = false;
let visibleAt = performance.now(); // a page that was hidden asks first

function idOf(root) {
  return root.querySelector("[data-gateway]").dataset.gateway;
}

function nameOf(root) {
  return root.querySelector("[data-gateway]").dataset.name;
}

// Elements stay the same where only texts and attributes differ, so that a screen reader's place and what is marked
// survive, and live regions tell of what has changed alone.
function become(old, fresh) {
  const kinds = (node) => [...node.childNodes].map((child) => child.nodeName + (child.dataset?.part ?? "")).join();
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (kinds(old) !== kinds(fresh)) {
    old.replaceChildren(...fresh.childNodes);
    return;
  }
  [...fresh.childNodes].forEach((child, index) => {
    const there = old.childNodes[index];
    if (child.nodeType === Node.ELEMENT_NODE) become(there, child);
    else if (there.data !== child.data) there.data = child.data;
  });
}

// The same words as the gateway's own `countdown` and `ago`.
function countdown(seconds) {
  const whole = Math.ceil(seconds);
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}:${two(whole % 60)}`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

function ago(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return `${Math.floor(Math.max(seconds, 0))} s ago`;
}

function timeOfDay(date) {
  return date.toLocaleTimeString("en-GB");
}

// The gateway writes UTC; a reader thinks in local time.
function localise(root) {
  for (const time of root.querySelectorAll("time.clock")) time.textContent = timeOfDay(new Date(time.dateTime));
  for (const zone of root.querySelectorAll(".zone")) zone.textContent = "your time";
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function runTimes(root, passed) {
  for (const element of root.querySelectorAll(".left")) {
    put(element, countdown(Math.max(0, Number(element.dataset.left) - passed)));
  }
  for (const element of root.querySelectorAll(".ago")) put(element, ago(Number(element.dataset.ago) + passed));
  for (const bar of root.querySelectorAll(".bar[data-left]")) {
    const left = Math.max(0, Number(bar.dataset.left) - passed);
    bar.querySelector(".fill").setAttribute("width", `${Math.min(100, (100 * left) / Number(bar.dataset.of))}%`);
  }
}

function tick() {
  runTimes(live, (performance.now() - readAt) / 1000);
  tellStale();
  tellGateways();
}

function tellStale() {
  const now = performance.now();
  const isLate = now - readAt > STALE_MILLISECONDS && now - visibleAt > POLL_MILLISECONDS;
  const isStale = Boolean(trouble) || isLate;
  document.body.classList.toggle("stale", isStale);
  if (isStale) {
    const name = nameOf(live);
    const others = [...seen.values()].filter((each) => each.id !== shownId && performance.now() - each.at < STALE_MILLISECONDS);
    const why = trouble || (others.length
      ? `${name} has not answered since; this address leads to ${others[0].name} now: choose it below.`
      : `${name} has not answered since.`);
    const text = `This page is stale, as of ${timeOfDay(readTime).slice(0, 5)}. ${why}`;
    if (stale.dataset.text !== text) {
      stale.dataset.text = text;
      const lead = document.createElement("p");
      lead.textContent = text;
      stale.replaceChildren(lead);
    }
    document.title = `Stale: ${name}`;
  } else {
    document.title = live.querySelector("[data-title]").dataset.title;
  }
  stale.hidden = !isStale;
  put(connection, isOver ? "Stopped" : isStale ? "Trying again" : "Live");
}

// Who has answered under this address, if there are several: each with its age, and a button to show it instead.
function tellGateways() {
  for (const { id, at } of [...seen.values()]) {
    if (id !== shownId && performance.now() - at > FORGET_MILLISECONDS) seen.delete(id);
  }
  gateways.hidden = seen.size < 2;
  if (gateways.hidden) return;
  const ids = [...seen.keys()].sort();
  if (gateways.dataset.ids !== ids.join("\n")) {
    gateways.dataset.ids = ids.join("\n");
    const lead = document.createElement("span");
    lead.textContent = `${ids.length} gateways have answered here:`;
    gateways.replaceChildren(lead, ...ids.map(buttonFor));
  }
  for (const button of gateways.querySelectorAll("button")) {
    const { at } = seen.get(button.dataset.id);
    const age = Math.round((performance.now() - at) / 1000);
    button.setAttribute("aria-pressed", String(button.dataset.id === shownId));
    put(button.querySelector(".age"), age < 5 ? "" : ago(age));
  }
}

function buttonFor(id) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.id = id;
  const age = document.createElement("span");
  age.className = "age";
  button.append(`${id} `, age);
  button.addEventListener("click", () => {
    shownId = id;
    show(seen.get(id));
    tick();
  });
  return button;
}

function show(answer) {
  localise(answer.root);
  runTimes(answer.root, (performance.now() - answer.at) / 1000);
  become(live, answer.root);
  readAt = answer.at;
  readTime = answer.time;
}

// One question. Whether the gateway that is shown has answered.
async function ask() {
  const url = new URL("/status/live", location.origin); // without the name and password that the page's URL may hold
  const response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(STALE_MILLISECONDS) });
  if (response.status === 401 || response.status === 403) {
    isOver = true;
    throw new Error("This token no longer opens it: load the page again and give another.");
  }
  if (!response.ok) throw new Error(`The answer has status ${response.status}.`);
  const root = document.createElement("div");
  root.id = live.id;
  root.append(...new DOMParser().parseFromString(await response.text(), "text/html").body.childNodes);
  if (!root.querySelector("[data-gateway]")) return false; // a gateway of an older version, beside this one
  const id = idOf(root);
  const answer = { id, name: nameOf(root), at: performance.now(), time: new Date(), root };
  seen.set(id, { ...answer, root: root.cloneNode(true) });
  if (id !== shownId) return false;
  show(answer);
  return true;
}

async function poll() {
  if (document.hidden || isOver || isAsking) return;
  isAsking = true;
  try {
    // Others that answer instead are asked past; each gateway once more than its turn.
    for (let tries = 0; tries <= seen.size && !(await ask()); tries += 1);
    trouble = "";
  } catch (error) {
    const isWords = error.message.endsWith(".");
    trouble = isWords ? error.message : `${nameOf(live)} does not answer: is it running?`;
    if (isOver) clearInterval(polling);
  }
  isAsking = false;
  tick();
}

localise(live);
const polling = setInterval(poll, POLL_MILLISECONDS);
setInterval(tick, TICK_MILLISECONDS);
document.addEventListener("visibilitychange", () => {
  visibleAt = performance.now();
  poll();
});
poll();
