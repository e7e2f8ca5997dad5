"use strict";
// One stream for all documents of a browser, as it opens no more than six connections to a server. What the server says
// of a page is kept, so that a document which comes later hears the newest at once.
const ports = new Set();
const pages = new Map();

function connect() {
	const stream = new EventSource("events");
	stream.onmessage = (event) => {
		const page = JSON.parse(event.data);
		pages.set(page.name, page);
		for (const port of ports) port.postMessage(page);
	};
	stream.onerror = () => {
		if (stream.readyState === EventSource.CLOSED) setTimeout(connect, 500); // it does not try again by itself
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
