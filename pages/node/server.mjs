// A page in Node.js: listen on TQ_PORT at 127.0.0.1, answer /health, end at SIGTERM. page.yaml says how to start it.
// With `endpoint: unix` there is a socket to listen on instead, TQ_SOCKET.
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'

const greeting = 'Hello from Node.js.'

const route = process.env.TQ_ROUTE ?? '/node'
const below = route === '/' ? '' : route
const socket = process.env.TQ_SOCKET
const port = Number(process.env.TQ_PORT ?? 9000)
const started = Date.now()

// The working directory is the release: a copy of this folder that later saves leave alone.
const style = await readFile('style.css')

const escape = text => text.replace(/[&<>"']/g, c => `&#${c.codePointAt(0)};`)

const page = () => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(greeting)}</title>
<link rel="stylesheet" href="${escape(below)}/style.css">
<main>
<h1>${escape(greeting)}</h1>
<p>Change the greeting in <code>pages/node/server.mjs</code>, save, reload: the new release takes over without one failed request, as that of a Go page does.</p>
<dl>
<dt>Node.js</dt><dd>${escape(process.version)}</dd>
<dt>Release</dt><dd><code>${escape((process.env.TQ_RELEASE ?? 'by hand').slice(0, 12))}</code></dd>
<dt>Process</dt><dd>${process.pid}</dd>
<dt>Up for</dt><dd>${Math.round((Date.now() - started) / 1000)} s</dd>
</dl>
<p><a href="/">All pages</a></p>
</main>
`

const answers = {
  '/health': ['text/plain; charset=utf-8', () => 'OK\n'],
  [route]: ['text/html; charset=utf-8', page],
  [`${below}/style.css`]: ['text/css; charset=utf-8', () => style],
}

const server = createServer((request, response) => {
  request.resume() // a body that nobody wants must not hold up the connection
  const { pathname } = new URL(request.url, 'http://page')
  const [type, body] = answers[pathname] ?? ['text/plain; charset=utf-8', () => 'Not found.\n']
  response.writeHead(answers[pathname] ? 200 : 404, {
    'Content-Type': type,
    'Cache-Control': 'no-cache',
    'Content-Security-Policy': "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
  })
  response.end(request.method === 'HEAD' ? undefined : body())
})

// tqserver keeps connections open and reuses them: a page that closes an idle one may hit the next request. It is
// tqserver that closes them.
server.keepAliveTimeout = 0

// By now all requests were answered. Stop listening; the process ends when the connections have.
process.on('SIGTERM', () => {
  server.close()
  server.closeIdleConnections()
})

server.listen(socket ? { path: socket } : { host: '127.0.0.1', port },
  () => console.log(`node ${process.version} listens on ${socket ?? `127.0.0.1:${port}`}`))
