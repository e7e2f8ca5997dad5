#!/usr/bin/env node
// A rotator for tqserver: it appends every log line to one file, as JSON, and keeps old files if told to.
import { mkdir, open, rename, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import rotatorProto from 'protos/tqserver/rotator/v1/rotator.proto';
import { log, serve } from './plugin.js';

const schema = [
  { name: 'file', type: 'string', required: true, doc: 'file to append to; relative to the site' },
  { name: 'fsync', type: 'bool', default_json: 'false', doc: 'acknowledge lines when they are on the disk' },
  { name: 'max_size_mb', type: 'int', default_json: '0', min: 0, doc: 'size above which a new file is begun; 0: none' },
  { name: 'keep', type: 'int', default_json: '5', min: 1, max: 1000, doc: 'old files that are kept, as FILE.1 and so on' },
];

let settings;
let last = Promise.resolve(); // of the batches
const stored = new Map(); // stream -> seq of the last batch

// write stores one batch. Its error is part of the answer: the kernel sends the batch again later.
async function write({ batch }) {
  const work = last.then(() => store(batch ?? { seq: '0', stream: '', lines: [], dropped: '0' }));
  last = work.catch(() => {});
  try {
    await work;
    return { seq: batch?.seq };
  } catch (err) {
    log('warn', 'lines cannot be stored', { stream: batch?.stream, error: err.message });
    return { seq: batch?.seq, error: err.message };
  }
}

async function store(batch) {
  if (!settings) throw new Error('there was no Configure yet');
  if (batch.seq !== '0' && stored.get(batch.stream) === batch.seq) return; // the acknowledgement was lost
  const text = Buffer.from(entries(batch).map((e) => JSON.stringify(e) + '\n').join(''));
  if (text.length > 0) {
    const { file, fsync, max_size_mb: limit, keep } = settings; // those of the moment, for the whole batch
    await mkdir(dirname(file), { recursive: true });
    if (limit > 0) await rotate(file, keep, limit * 2 ** 20 - text.length);
    await append(file, text, fsync).catch((err) => { throw new Error(`append to ${file}: ${err.message}`); });
  }
  stored.set(batch.stream, batch.seq);
}

function entries({ stream, release, worker, lines, dropped }) {
  const all = lines.map((l) => ({
    time: timestamp(BigInt(l.time_unix_nano)),
    stream,
    source: l.source.replace('SOURCE_', '').toLowerCase(),
    ...(worker && { release, worker }),
    text: l.text.toString(), // JSON is text: bytes that are no UTF-8 become U+FFFD
  }));
  if (dropped !== '0') all.unshift({ time: new Date().toISOString(), stream, dropped: Number(dropped) });
  return all;
}

// timestamp is RFC 3339 in UTC; the time of a line has more digits than a Date.
function timestamp(nanoseconds) {
  const seconds = new Date(Number(nanoseconds / 1_000_000n)).toISOString().slice(0, 19);
  return `${seconds}.${String(nanoseconds % 1_000_000_000n).padStart(9, '0')}Z`;
}

// rotate begins a new file if the present one has more than limit bytes.
async function rotate(file, keep, limit) {
  const size = (await unlessMissing(stat(file)))?.size ?? 0;
  if (size === 0 || size <= limit) return;
  for (let n = keep - 1; n > 0; n--) await unlessMissing(rename(`${file}.${n}`, `${file}.${n + 1}`));
  await rename(file, `${file}.1`);
}

async function unlessMissing(promise) {
  try {
    return await promise;
  } catch (err) {
    if (err.code !== 'ENOENT') throw err;
  }
}

// append writes all of text or, as far as the system lets it, nothing.
async function append(file, text, fsync) {
  const handle = await open(file, 'a+', 0o640);
  try {
    const { size } = await handle.stat();
    if (size > 0 && (await handle.read(Buffer.alloc(1), 0, 1, size - 1)).buffer[0] !== 10) {
      await handle.appendFile('\n'); // the process was killed in the middle of a line
    }
    try {
      await handle.appendFile(text);
      if (fsync) await handle.datasync();
    } catch (err) {
      await handle.truncate(size).catch(() => {});
      throw err;
    }
  } finally {
    await handle.close();
  }
}

function validate({ file }) {
  return file.trim() === '' ? [{ path: 'config.file', message: 'is empty; give the name of a file' }] : [];
}

serve({
  name: 'jsonfile',
  version: '1.0.0',
  protos: [rotatorProto],
  services: { 'tqserver.plugin.rotator.v1.Rotator': { Write: write } },
  schema,
  validate,
  configure: (config) => { settings = config; },
  drain: () => last,
});
