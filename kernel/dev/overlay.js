// What dev mode shows over a document, in a tree of its own that no style of the page reaches. Every text goes in as
// text.

const look = `
:host { all: initial; position: fixed; inset: 0; z-index: 2147483647; pointer-events: none; color-scheme: light dark; }
* { box-sizing: border-box; }
.shade { position: absolute; inset: 0; padding: min(6vh, 3rem) 1rem 1rem; background: light-dark(rgb(24 30 38 / .35), rgb(0 0 0 / .5));
	overflow: auto; pointer-events: auto; overscroll-behavior: contain; }
.card { position: relative; max-width: 58rem; margin: 0 auto; border-radius: 10px; border-top: 5px solid light-dark(#d02f3c, #ff6b72);
	font: 15px/1.5 system-ui, sans-serif; color: light-dark(#1d2228, #e4e7eb); background: light-dark(#fff, #1b1f25);
	box-shadow: 0 12px 48px rgb(0 0 0 / .35); overflow-wrap: anywhere; }
header, section { padding: 1rem 1.25rem; }
header { display: flex; gap: 1rem; align-items: flex-start; padding-bottom: 0; }
header > div { flex: 1; min-width: 0; }
h1 { margin: 0; font-size: 1.2rem; line-height: 1.3; color: light-dark(#b3202d, #ff8a90); }
.faint { margin: .2rem 0 0; font-size: 13px; color: light-dark(#5b6570, #9aa4af); }
h2 { margin: 0 0 .25rem; font-size: 1rem; color: light-dark(#b3202d, #ff8a90); }
.message { margin: 0 0 .5rem; font: 600 14px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; }
.finding + .finding { margin-top: 1.25rem; }
section + section { border-top: 1px solid light-dark(#e3e7eb, #2c323a); }
a, .place { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; color: light-dark(#0b5bb5, #7db7ff); }
.place { color: inherit; }
a:focus-visible, button:focus-visible { outline: 2px solid light-dark(#0b5bb5, #7db7ff); outline-offset: 2px; border-radius: 3px; }
pre { margin: .5rem 0 0; padding: .6rem 0; border-radius: 6px; overflow-x: auto; tab-size: 4;
	font: 13px/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: light-dark(#f4f6f8, #13161a); }
.code { display: grid; grid-template-columns: max-content 1fr; width: max-content; min-width: 100%; }
.code > * { padding: 0 .9rem; white-space: pre; }
.number { text-align: right; color: light-dark(#5f6a75, #8b96a1); user-select: none; }
.here { background: light-dark(#fde3e4, #48222a); }
.here.number { color: inherit; font-weight: 700; }
mark { color: inherit; background: none; text-decoration: underline wavy light-dark(#d02f3c, #ff6b72); text-underline-offset: 3px; }
.output { tab-size: 2; padding: .6rem .9rem; white-space: pre-wrap; max-height: 22rem; overflow-y: auto; }
footer { padding: 0 1.25rem 1rem; }
button { font: 13px/1 system-ui, sans-serif; padding: .5rem .7rem; border: 1px solid light-dark(#c8ced4, #3d454f); border-radius: 6px;
	color: inherit; background: transparent; cursor: pointer; white-space: nowrap; }
button:hover { background: light-dark(#eef1f4, #262c34); }
.corner { position: absolute; right: 12px; bottom: 12px; max-width: calc(100% - 24px); display: flex; flex-direction: column; gap: 6px; align-items: flex-end; }
.badge { padding: .45rem .7rem; border-radius: 6px; font: 13px/1.4 system-ui, sans-serif; color: #f2f4f6; background: rgb(28 33 40 / .94);
	border: 1px solid rgb(255 255 255 / .14); box-shadow: 0 2px 12px rgb(0 0 0 / .25); }
.badge b { font-weight: 600; color: #7fe0a3; }
.badge span { color: #b4bec8; margin-left: .6em; white-space: nowrap; }
button.badge { pointer-events: auto; background: #a51f2b; border-color: #a51f2b; color: #fff; }
button.badge:hover { background: #861722; }
[hidden] { display: none !important; }
@media (max-width: 40rem) { .shade { padding: .5rem; } header, section { padding-inline: .9rem; } footer { padding-inline: .9rem; } }
`;

// make gives an element with a class, a text and children.
function make(name, className = "", text = "", ...children) {
	const element = document.createElement(name);
	if (className) element.className = className;
	if (text) element.textContent = text;
	element.append(...children);
	return element;
}

function newOverlay() {
	const host = make("tqserver-dev");
	const root = host.attachShadow({ mode: "open" });
	const sheet = new CSSStyleSheet(); // a policy that forbids inline styles does not mind
	sheet.replaceSync(look);
	root.adoptedStyleSheets = [sheet];
	const shade = make("div", "shade"), reopen = make("button", "badge"), corner = make("div", "corner");
	const note = make("div", "badge"), busy = make("div", "badge", "building …");
	corner.append(busy, note, reopen);
	shade.hidden = reopen.hidden = note.hidden = busy.hidden = true;
	note.setAttribute("role", "status");
	root.append(shade, corner);

	let shown = "", hiddenID = "", noteEnds = 0, busyBegins = 0;
	const attach = () => { if (!host.isConnected) document.documentElement.append(host); };
	const hide = (on) => {
		hiddenID = on ? shown : "";
		shade.hidden = on || !shown;
		reopen.hidden = !on || !shown;
	};
	const say = (milliseconds, ...content) => {
		attach();
		note.replaceChildren(...content);
		note.hidden = false;
		clearTimeout(noteEnds);
		noteEnds = setTimeout(() => { note.hidden = true; }, milliseconds);
	};
	shade.addEventListener("click", (event) => { if (event.target === shade) hide(true); });
	reopen.addEventListener("click", () => hide(false));
	addEventListener("keydown", (event) => {
		if (event.key !== "Escape" || shade.hidden) return;
		event.stopImmediatePropagation();
		hide(true);
	}, true);

	return {
		// problems shows them, unless the reader has hidden the very same.
		problems(all) {
			const id = all.length ? JSON.stringify(all) : "";
			if (id === shown) return;
			shown = id;
			shade.replaceChildren(...(all.length ? [card(all, () => hide(true))] : []));
			if (all.length) {
				attach();
				note.hidden = true;
			}
			reopen.textContent = all[0]?.title ?? "";
			hide(id !== "" && id === hiddenID);
		},
		building(on) {
			if (!on) {
				clearTimeout(busyBegins);
				busyBegins = 0;
				busy.hidden = true;
			} else if (!busyBegins) busyBegins = setTimeout(() => {
				attach();
				busy.hidden = false;
			}, 150);
		},
		timing(live) {
			const steps = live.steps.filter((step) => step.ms >= 0.5).map((step) => make("span", "", `${step.name} ${span(step.ms)}`));
			say(6000, make("b", "", `live in ${span(live.total)}`), ...steps);
		},
		notice(text) { say(20000, text); },
	};
}

function span(ms) {
	return ms >= 10000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms)} ms`;
}

function card(problems, hide) {
	const [first] = problems, close = make("button", "", "Hide (Esc)");
	close.addEventListener("click", hide);
	const title = make("div", "", "", make("h1", "", first.title));
	if (first.note) title.append(make("p", "faint", first.note));
	const box = make("div", "card", "", make("header", "", "", title, close));
	box.setAttribute("role", "alert");
	for (const problem of problems) box.append(part(problem, problem !== first));
	return box;
}

function part(problem, titled) {
	const section = make("section");
	if (titled) section.append(make("h2", "", problem.title));
	if (titled && problem.note) section.append(make("p", "faint", problem.note));
	for (const finding of problem.findings ?? []) section.append(place(finding));
	if (problem.output) section.append(make("pre", "output", problem.output));
	return section;
}

function place(finding) {
	const box = make("div", "finding", "", make("p", "message", finding.message));
	if (finding.file) {
		const where = [finding.file, finding.line, finding.column].filter(Boolean).join(":");
		const link = make(finding.link ? "a" : "span", finding.link ? "" : "place", where);
		if (finding.link) link.href = finding.link;
		box.append(link);
	}
	if (finding.source?.length) box.append(source(finding));
	return box;
}

// source shows lines, the one that is meant stressed from its column on.
function source(finding) {
	const grid = make("code", "code");
	for (const { number, text } of finding.source) {
		const here = number === finding.line ? " here" : "";
		const line = make("span", "text" + here);
		const at = here && finding.column ? offset(text, finding.column) : text.length;
		const word = /^(\w+|\S+)/.exec(text.slice(at))?.[0] ?? "";
		line.append(text.slice(0, at));
		if (word) line.append(make("mark", "", word), text.slice(at + word.length));
		if (!text) line.append(" ");
		grid.append(make("span", "number" + here, String(number)), line);
	}
	return make("pre", "", "", grid);
}

// offset turns a column, in bytes from 1, into an index.
function offset(text, column) {
	return new TextDecoder().decode(new TextEncoder().encode(text).slice(0, column - 1)).length;
}
