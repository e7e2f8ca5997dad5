"use strict";

const byId = (id) => document.getElementById(id);
const short = (release) => release.slice(0, 12) || "unnamed";
let release, late;

function show(state, open) {
  if (byId("state").textContent === state) return; // say a change once
  byId("state").textContent = state;
  byId("dot").classList.toggle("open", open);
}

function announce(from, to) {
  const reload = document.createElement("a");
  reload.href = "/events";
  reload.textContent = "Reload";
  byId("news").replaceChildren(`New release: ${short(from)} is now ${short(to)}. `, reload, " to get its page as well.");
}

function tick(message) {
  const event = JSON.parse(message.data);
  clearTimeout(late);
  late = undefined;
  show("live", true);
  byId("clock").textContent = new Date(event.time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  byId("clock").dateTime = event.time;
  byId("release").textContent = short(event.release);
  if (release !== undefined && release !== event.release) announce(release, event.release);
  release = event.release;
}

// A stream ends every few seconds and the browser opens the next: only what takes longer is worth a word.
function connect() {
  const source = new EventSource("/events/stream");
  source.onmessage = tick;
  source.onerror = () => {
    late ??= setTimeout(() => show("reconnecting…", false), 2000);
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000); // after an error the browser gives up
  };
}
connect();
