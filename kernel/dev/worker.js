"use strict";
// One stream for all documents of a browser, as it opens no more than six connections to a server. What the server says
// of a page is kept, so that a document which comes later hears the newest at once.
const ports = new Set();
const pages = new Map();
let pause = 500; // before the next try; the server may not be in dev mode any more

function connect() {
	const stream = new EventSource("events");
	stream.onopen = () => { pause = 500; };
	stream.onmessage = (event) => {
		const page = JSON.parse(event.data);
		pages.set(page.name, page);
		for (const port of ports) port.postMessage(page);
	};
	stream.onerror = () => {
		if (stream.readyState !== EventSource.CLOSED) return; // it tries again by itself
		setTimeout(connect, pause);
		pause = Math.min(2 * pause, 10000);
	};
}

onconnect = (event) => {
	const port = event.ports[0];
	port.onmessage = (message) => {
		if (message.data === "bye") {
			ports.delete(port);
			return;
		}
		ports.add(port);
		for (const page of pages.values()) port.postMessage(page);
	};
};

connect();
