// What every plugin of tqserver does, whatever its stage: handshake, transport, lifecycle and the end. Copy this file
// for a plugin of your own. ../protocol.md says why each part is here.
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { fromJSON } from '@grpc/proto-loader';
import protobuf from 'protobufjs';
import diagnosticProto from 'protos/tqserver/diagnostic/v1/diagnostic.proto';
import lifecycleProto from 'protos/tqserver/lifecycle/v1/lifecycle.proto';
import { certificate } from './certificate.js';

const cookie = { name: 'TQSERVER_PLUGIN', value: '6f1c0d4b-stage-plugin' };
const protocol = 1; // version of the handshake
const maxMessage = 16 << 20; // bytes, in both directions
const drainLimit = 3000; // ms for what is under way when the kernel is gone

// go-plugin ends a plugin with Shutdown. Its client asks for health by the name "plugin".
const goPluginProtos = [
  `syntax = "proto3"; package plugin;
   message Empty {}
   service GRPCController { rpc Shutdown(Empty) returns (Empty); }`,
  `syntax = "proto3"; package grpc.health.v1;
   message HealthCheckRequest { string service = 1; }
   message HealthCheckResponse { int32 status = 1; }
   service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); }`,
];

// serve runs a plugin until the kernel ends it. The plugin has: name, version; protos, the texts of its stage's .proto
// files; services, full name -> method -> handler(request), which may be async; schema, as --describe prints it;
// validate(config), the faults that a schema cannot tell, as diagnostics; configure(config), called with the defaults
// filled in; drain(), which waits for what is under way.
export function serve(plugin) {
  if (process.argv.at(-1) === '--describe') {
    process.stdout.write(JSON.stringify(describe(plugin), null, 2) + '\n');
    return;
  }
  const missing = refusal(plugin);
  if (missing) {
    process.stderr.write(missing + '\n');
    process.exitCode = 1;
    return;
  }
  globalThis.console = new console.Console(process.stderr); // standard output is the protocol's
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => {}); // the kernel decides when to end
  process.stdin.on('close', () => leave(plugin)).on('error', () => {}).resume(); // the kernel is gone
  listen(plugin);
}

function describe({ name, version, services, schema }) {
  return { name, version, language: 'javascript', services: Object.keys(services), capabilities: ['log-level'], protocol, schema };
}

// refusal tells why the plugin cannot run; "" if it can.
function refusal({ name, version }) {
  if (process.env[cookie.name] !== cookie.value) {
    return `${name} ${version} is a plugin of tqserver and is started by it: name this file in the \`plugins:\` section of server.yaml`;
  }
  for (const variable of ['PLUGIN_CLIENT_CERT', 'PLUGIN_UNIX_SOCKET_DIR']) {
    if (!process.env[variable]) return `${name} ${version}: ${variable} is not set: start it with tqserver`;
  }
  return '';
}

// leave ends the process when what is under way has ended, or takes too long.
async function leave(plugin) {
  setTimeout(() => process.exit(1), drainLimit);
  await plugin.drain();
  process.exit(0);
}

// listen serves on a socket and tells the kernel where, in the one line that goes to standard output.
function listen(plugin) {
  const server = new grpc.Server({ 'grpc.max_receive_message_length': maxMessage, 'grpc.max_send_message_length': maxMessage });
  register(server, load([diagnosticProto, lifecycleProto, ...plugin.protos, ...goPluginProtos]), {
    'tqserver.plugin.lifecycle.v1.Lifecycle': lifecycle(plugin),
    'plugin.GRPCController': { Shutdown: () => end(server) },
    'grpc.health.v1.Health': { Check: () => ({ status: 1 }) }, // SERVING
    ...plugin.services,
  });
  const own = certificate();
  const socket = join(process.env.PLUGIN_UNIX_SOCKET_DIR, 'plugin');
  const credentials = grpc.ServerCredentials.createSsl(Buffer.from(process.env.PLUGIN_CLIENT_CERT),
    [{ private_key: Buffer.from(own.key), cert_chain: Buffer.from(own.cert) }], true);
  server.bindAsync(`unix:${socket}`, credentials, (err) => {
    if (err) throw err;
    process.stdout.write(`1|${protocol}|unix|${socket}|grpc|${own.base64}\n`);
  });
}

// load gives the services of .proto texts by their full names.
function load(texts) {
  const root = new protobuf.Root();
  for (const text of texts) protobuf.parse(text, root, { keepCase: true });
  return fromJSON(root.toJSON(), { keepCase: true, longs: String, enums: String, defaults: true });
}

function register(server, protos, services) {
  for (const [name, methods] of Object.entries(services)) {
    const handlers = Object.entries(methods).map(([method, handle]) => [method, unary(`${name}/${method}`, handle)]);
    server.addService(protos[name], Object.fromEntries(handlers)); // a method without a handler is UNIMPLEMENTED
  }
}

// unary turns what a handler throws into an error of that one call.
function unary(name, handle) {
  return async (call, callback) => {
    try {
      callback(null, await handle(call.request));
    } catch (err) {
      if (!err.status) log('error', 'a call failed', { call: name, error: err.stack });
      callback({ code: err.status ?? grpc.status.UNKNOWN, details: err.message });
    }
  };
}

function lifecycle(plugin) {
  const { language, capabilities, services } = describe(plugin);
  return {
    Init: (request) => {
      setLevel(request.log_level);
      return { name: plugin.name, version: plugin.version, language, services, capabilities };
    },
    Schema: () => ({ fields: plugin.schema.map((f) => ({ ...f, type: `FIELD_TYPE_${f.type.toUpperCase()}` })) }),
    Validate: (request) => ({ diagnostics: read(plugin, request.config_json).faults }),
    Configure: (request) => {
      const { config, faults } = read(plugin, request.config_json);
      if (faults.length > 0) throw invalid(`${faults[0].path}: ${faults[0].message}`);
      plugin.configure(config);
      return {};
    },
    Check: (request) => ({ nonce: request.nonce }),
    SetLogLevel: (request) => { setLevel(request.level); return {}; },
    Drain: async () => { await plugin.drain(); return {}; },
    Shutdown: () => ({}), // what has to be done before is done in Drain; GRPCController.Shutdown follows
  };
}

function invalid(message) {
  return Object.assign(new Error(message), { status: grpc.status.INVALID_ARGUMENT });
}

// read gives a configuration with its defaults, and what is wrong with it, as diagnostics.
function read({ schema, validate }, json) {
  let given;
  try {
    given = JSON.parse(json.toString() || '{}');
  } catch (err) {
    return { faults: [{ path: 'config', message: err.message }] };
  }
  if (given === null || typeof given !== 'object' || Array.isArray(given)) {
    return { faults: [{ path: 'config', message: 'want a mapping of keys to values' }] };
  }
  const config = {}, faults = [];
  const known = schema.map((f) => f.name);
  for (const key of Object.keys(given)) {
    if (!known.includes(key)) faults.push({ path: `config.${key}`, message: `unknown key; known are: ${known.join(', ')}` });
  }
  for (const field of schema) {
    const message = fault(field, given[field.name]);
    if (message) faults.push({ path: `config.${field.name}`, message });
    config[field.name] = given[field.name] ?? (field.default_json && JSON.parse(field.default_json));
  }
  return { config, faults: faults.length > 0 ? faults : validate(config) };
}

const kinds = {
  string: ['a string', (v) => typeof v === 'string'],
  bool: ['true or false', (v) => typeof v === 'boolean'],
  int: ['a whole number', Number.isInteger],
  number: ['a number', Number.isFinite],
  strings: ['a list of strings', (v) => Array.isArray(v) && v.every((s) => typeof s === 'string')],
};

function fault({ type, required, one_of: oneOf, min, max }, value) {
  const [kind, fits] = kinds[type];
  if (value === undefined) return required ? 'is required' : '';
  if (!fits(value)) return `want ${kind}, got ${JSON.stringify(value)}`;
  if (oneOf && !oneOf.includes(value)) return `want one of ${oneOf.join(', ')}, got ${JSON.stringify(value)}`;
  if (min !== undefined && value < min) return `want at least ${min}, got ${value}`;
  if (max !== undefined && value > max) return `want at most ${max}, got ${value}`;
  return '';
}

// end lets the answer go out, then ends the process.
function end(server) {
  setTimeout(() => process.exit(0), 200); // the kernel's connection may stay open
  server.tryShutdown(() => process.exit(0));
  return {};
}

const levels = ['trace', 'debug', 'info', 'warn', 'error'];
let threshold = levels.indexOf('info');

function setLevel(level) {
  if (levels.includes(level)) threshold = levels.indexOf(level);
}

// log writes to the log of tqserver, in the form of hclog. fields must not be named @….
export function log(level, message, fields = {}) {
  if (levels.indexOf(level) < threshold) return;
  const entry = { '@level': level, '@message': message, '@timestamp': new Date().toISOString(), ...fields };
  process.stderr.write(JSON.stringify(entry) + '\n');
}
