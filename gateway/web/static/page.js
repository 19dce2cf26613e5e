// Keeps the status page up to date: asks for the part that changes, exchanges what differs, and lets the countdowns run
// in between. Parts carry a name in data-part; countdowns the seconds that were left when the gateway was asked.
"use strict";

const POLL_MILLISECONDS = 2000;
const TICK_MILLISECONDS = 250;
const live = document.getElementById("live");
const connection = document.getElementById("connection");
let readAt = performance.now();

function partsOf(root) {
  return new Map([...root.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
}

// A part stays the same element, so that a screen reader's place and what is marked survive, and live regions are told.
function exchange(fresh) {
  const before = partsOf(live);
  const after = partsOf(fresh);
  if ([...before.keys()].join() !== [...after.keys()].join()) {
    live.replaceChildren(...fresh.childNodes);
    return;
  }
  for (const [name, part] of after) {
    const old = before.get(name);
    for (const attribute of part.attributes) {
      if (old.getAttribute(attribute.name) !== attribute.value) old.setAttribute(attribute.name, attribute.value);
    }
    if (old.innerHTML !== part.innerHTML) old.replaceChildren(...part.childNodes);
  }
}

// The same words as the gateway's own `duration`.
function duration(seconds) {
  const whole = Math.ceil(seconds);
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

function tick() {
  const passed = (performance.now() - readAt) / 1000;
  for (const countdown of live.querySelectorAll(".countdown")) {
    const left = Math.max(0, Number(countdown.dataset.seconds) - passed);
    countdown.querySelector(".left").textContent = duration(left);
    const share = Math.min(100, (100 * left) / Number(countdown.dataset.of));
    countdown.querySelector(".fill").setAttribute("width", `${share}%`);
  }
}

function tell(text, isStale) {
  if (connection.textContent !== text) connection.textContent = text;
  document.body.classList.toggle("stale", isStale);
}

async function poll() {
  if (document.hidden) return;
  try {
    const url = new URL("/status/live", location.origin); // without the name and password that the page's URL may hold
    const answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (answer.status === 401 || answer.status === 403) {
      tell("This token opens the page no longer: reload it", true);
      clearInterval(polling);
      return;
    }
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const text = await answer.text();
    exchange(new DOMParser().parseFromString(text, "text/html").body);
    readAt = performance.now();
    tell("Live", false);
  } catch (error) {
    tell(`The gateway does not answer (${error.message}): what stands here is old`, true);
  }
  tick();
}

const polling = setInterval(poll, POLL_MILLISECONDS);
setInterval(tick, TICK_MILLISECONDS);
document.addEventListener("visibilitychange", poll);
poll();
