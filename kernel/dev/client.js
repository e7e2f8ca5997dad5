// What dev mode does in a document: follow the state of the page that it came from, reload when it is out of date, and
// show what is wrong.

const script = document.currentScript;
const base = new URL(".", script.src);
const own = {
	page: script.dataset.page,
	boot: Number(script.dataset.boot),
	reloads: Number(script.dataset.reloads),
	styles: Number(script.dataset.styles),
	until: script.dataset.until,
};
const keys = { form: "tqserver:form:" + location.pathname + location.search, times: "tqserver:reloads:" + location.pathname, live: "tqserver:live" };
const overlay = newOverlay();
let leaving = false;
let state = null; // of the own page, as last heard

function heard(page) {
	if (leaving) return;
	if (page.name !== own.page) {
		if (page.styles.version > 0 && isNews(page)) restyle(page.styles.files, false);
		return;
	}
	if (page.boot < own.boot) return; // of a server that is no more
	state = page;
	overlay.building(page.building);
	overlay.problems(page.problems ?? []);
	const newer = page.boot > own.boot || page.reloads > own.reloads;
	if (page.serving && (newer || own.until === "serving")) {
		reload(page);
		return;
	}
	if (page.boot === own.boot && page.styles.version > own.styles) {
		const missed = page.styles.version > own.styles + 1;
		own.styles = page.styles.version;
		if (restyle(missed ? null : page.styles.files, true)) timing(page);
		else reload(page);
		return;
	}
	if (stored(keys.live) === page.name) {
		store(keys.live, null);
		timing(page);
	}
}

// isNews tells whether the stylesheets of another page changed since this document has heard of that.
const styles = new Map();
function isNews(page) {
	const id = page.boot + "." + page.styles.version, before = styles.get(page.name);
	styles.set(page.name, id);
	return before !== undefined && before !== id;
}

function timing(page) {
	if (page.live) overlay.timing(page.live);
}

// Reloading

// A reload would call back who has set out for another document, which a build may hold up, and which comes with the
// state that asks for the reload. He gets some seconds to arrive. He may not: it was a download, or he has stopped it.

let departed = 0, departing = false;
globalThis.navigation?.addEventListener("navigate", (event) => {
	if (!event.destination.sameDocument && event.downloadRequest === null && /^https?:/.test(event.destination.url)) departed = Date.now();
});

function letGo() {
	if (departing) return true;
	departing = Date.now() - departed < 60000;
	departed = 0;
	if (departing) setTimeout(() => {
		departing = false;
		own.reloads = -1;
		heard(state);
	}, 5000);
	return departing;
}

function reload(page) {
	if (letGo()) return;
	const now = Date.now();
	const times = (JSON.parse(stored(keys.times) ?? "[]")).filter((t) => now - t < 5000 && t <= now);
	if (times.length >= 8) {
		overlay.notice("Not reloaded: the page has changed 8 times in 5 seconds. Does it write files beside its source?");
		Object.assign(own, { boot: page.boot, reloads: page.reloads, until: "" });
		return;
	}
	leaving = true;
	setTimeout(() => { leaving = false; }, 30000); // the reader has stopped it
	store(keys.times, JSON.stringify([...times, now]));
	store(keys.live, page.name);
	store(keys.form, JSON.stringify(snapshot()));
	location.reload();
}

function stored(key) {
	try {
		return sessionStorage.getItem(key);
	} catch {
		return null; // a document may have no storage
	}
}

function store(key, value) {
	try {
		if (value === null) sessionStorage.removeItem(key);
		else sessionStorage.setItem(key, value);
	} catch {
		// as above, or it is full
	}
}

// What a reload keeps: where the reader is, and what has been typed and opened. Passwords, files and card numbers are
// never written down.

const secret = /passw|cc-|one-time-code/i;

function fields() {
	const seen = new Map();
	return [...document.querySelectorAll("input, textarea, select, details")].map((element) => {
		const name = [element.localName, element.type ?? "", element.name ?? "", element.id].join("|");
		const n = seen.get(name) ?? 0;
		seen.set(name, n + 1);
		return { element, key: name + "|" + n };
	}).filter(({ element }) => !/^(password|file|hidden|submit|button|image|reset)$/.test(element.type ?? "") && !secret.test(element.autocomplete + " " + element.name)); // one that is being shown is of type text
}

// valueOf gives what a visitor has changed, or undefined: what is as the page sent it is to be as the new page sends it.
function valueOf(element) {
	switch (true) {
	case element.localName === "details":
		return element.open;
	case element.localName === "select": {
		const options = [...element.options];
		const initial = options.some((o) => o.defaultSelected);
		const same = options.every((o, i) => o.selected === (initial || element.multiple ? o.defaultSelected : i === 0));
		return same ? undefined : options.filter((o) => o.selected).map((o) => o.value);
	}
	case element.type === "checkbox" || element.type === "radio":
		return element.checked === element.defaultChecked ? undefined : element.checked;
	}
	return element.value === element.defaultValue ? undefined : element.value;
}

function setValue(element, value) {
	if (element.localName === "details") {
		element.open = value;
		return;
	}
	if (element.localName === "select") for (const option of element.options) option.selected = value.includes(option.value);
	else if (typeof value === "boolean") element.checked = value;
	else element.value = value;
	element.dispatchEvent(new Event("input", { bubbles: true }));
}

function snapshot() {
	const all = fields();
	const kept = { at: Date.now(), values: {}, scrolled: [], x: scrollX, y: scrollY };
	for (const { element, key } of all) {
		const value = valueOf(element);
		if (value !== undefined) kept.values[key] = value;
		if (element === document.activeElement) {
			kept.focus = { key };
			try {
				kept.focus.range = [element.selectionStart, element.selectionEnd];
			} catch {
				// such a field has no selection
			}
		}
	}
	for (const element of document.querySelectorAll("[id]")) {
		if (element.scrollTop || element.scrollLeft) kept.scrolled.push([element.id, element.scrollLeft, element.scrollTop]);
	}
	return kept;
}

function restore() {
	const text = stored(keys.form);
	if (!text) return;
	store(keys.form, null);
	const kept = JSON.parse(text);
	if (Date.now() - kept.at > 60000) return; // that reload did not happen
	for (const { element, key } of fields()) {
		if (key in kept.values) setValue(element, kept.values[key]);
		if (kept.focus?.key === key) refocus(element, kept.focus.range);
	}
	const scroll = () => {
		for (const [id, x, y] of kept.scrolled) document.getElementById(id)?.scrollTo({ left: x, top: y, behavior: "instant" });
		scrollTo({ left: kept.x, top: kept.y, behavior: "instant" });
	};
	scroll();
	if (document.readyState === "complete") return;
	let moved = false; // the reader goes on by himself
	for (const type of ["wheel", "touchmove", "keydown", "pointerdown"]) addEventListener(type, () => { moved = true; }, { once: true, passive: true });
	addEventListener("load", () => { if (!moved) scroll(); }, { once: true }); // what came late has its height now
}

function refocus(element, range) {
	if (document.activeElement && document.activeElement !== document.body) return;
	element.focus({ preventScroll: true });
	try {
		if (range?.[0] != null) element.setSelectionRange(range[0], range[1]);
	} catch {
		// as in snapshot
	}
}

// restyle loads stylesheets again, those with one of the names, or all: the old one goes when the new one is there, so
// nothing flashes. A sheet may be imported by another, so when none has the name, all of a page's own are loaded again.
// It tells whether there was any.
function restyle(names, all) {
	const links = [...document.querySelectorAll('link[rel~="stylesheet"][href]')].filter((link) => new URL(link.href).origin === location.origin);
	const wanted = names?.flatMap((name) => [name, encodeURIComponent(name), encodeURI(name)]);
	const named = links.filter((link) => wanted?.includes(new URL(link.href).pathname.split("/").pop()));
	const chosen = named.length || !all ? named : links;
	chosen.forEach(relink);
	return chosen.length > 0;
}

const coming = new Map(); // stylesheet -> the one that will replace it

function relink(link) {
	if ([...coming.values()].includes(link)) return; // it is followed by another anyway
	coming.get(link)?.remove();
	const url = new URL(link.href);
	url.searchParams.set("tqserver", Date.now().toString(36));
	const next = link.cloneNode();
	next.href = url.href;
	coming.set(link, next);
	const settle = (loser) => {
		if (coming.get(link) !== next) return;
		coming.delete(link);
		loser.remove();
	};
	next.addEventListener("load", () => settle(link), { once: true });
	next.addEventListener("error", () => settle(next), { once: true });
	link.after(next);
}

// The way to the server: one stream for all documents of the browser, or else one for each that can be seen.

function follow() {
	try {
		const worker = new SharedWorker(new URL("worker.js" + new URL(script.src).search, base), { name: "tqserver" });
		worker.port.onmessage = (event) => heard(event.data);
		worker.onerror = (event) => {
			event.preventDefault();
			followAlone();
		};
		worker.port.postMessage("hello");
		addEventListener("pagehide", () => worker.port.postMessage("bye"));
		addEventListener("pageshow", (event) => { if (event.persisted) worker.port.postMessage("hello"); });
	} catch {
		followAlone();
	}
}

function followAlone() {
	let stream = null, forbidden = false;
	addEventListener("securitypolicyviolation", (event) => { forbidden ||= event.blockedURI.startsWith(base.href); });
	const open = () => {
		if (stream || document.visibilityState === "hidden") return;
		stream = new EventSource(new URL("events", base));
		stream.onmessage = (event) => heard(JSON.parse(event.data));
		stream.onerror = () => {
			if (stream?.readyState !== EventSource.CLOSED) return;
			stream = null;
			setTimeout(() => {
				if (forbidden) console.info("tqserver: a policy in this document forbids connections to its own server, so it does not reload by itself");
				else open();
			}, 500);
		};
	};
	const close = () => {
		stream?.close();
		stream = null;
	};
	document.addEventListener("visibilitychange", () => (document.visibilityState === "hidden" ? close() : open()));
	addEventListener("pagehide", close);
	addEventListener("pageshow", open);
	open();
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", restore, { once: true });
else restore();
follow();
