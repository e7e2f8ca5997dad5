"use strict";

const byId = (id) => document.getElementById(id);
const short = (release) => release.slice(0, 12) || "unnamed";
let release;

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

const source = new EventSource("/events/stream");
source.onerror = () => show("reconnecting…", false);
source.onmessage = (message) => {
  const event = JSON.parse(message.data);
  show("live", true);
  byId("clock").textContent = new Date(event.time).toLocaleTimeString([], { hour12: false });
  byId("clock").dateTime = event.time;
  byId("release").textContent = short(event.release);
  if (release !== undefined && release !== event.release) announce(release, event.release);
  release = event.release;
};
