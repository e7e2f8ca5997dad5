// The certificate that a plugin makes for itself at each start. It is written out here because the libraries that make
// one take a second of a busy machine for it, or bring twenty packages.
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';

// certificate gives a key and a self-signed certificate for localhost (X.509, RFC 5280), as PEM. It has no end: what
// ends is the process.
export function certificate() {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
  const signed = sequence(
    der(0xa0, integer([2])), // version 3
    integer([1, ...randomBytes(8)]), // serial number
    ecdsaWithSHA256,
    localhost, // issuer
    sequence(der(0x17, text('700101000000Z')), der(0x18, text('99991231235959Z'))), // RFC 5280, 4.1.2.5: no end
    localhost, // subject
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(sequence(subjectAltName, der(0x04, sequence(der(0x82, text('localhost'))))))),
  );
  const whole = sequence(signed, ecdsaWithSHA256, der(0x03, Buffer.from([0]), sign('sha256', signed, privateKey)));
  return {
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }),
    cert: `-----BEGIN CERTIFICATE-----\n${whole.toString('base64').match(/.{1,64}/g).join('\n')}\n-----END CERTIFICATE-----\n`,
    base64: whole.toString('base64').replace(/=+$/, ''), // for the handshake
  };
}

// der encodes one value: tag, length and content.
function der(tag, ...parts) {
  const content = Buffer.concat(parts);
  const n = content.length;
  const length = n < 0x80 ? [n] : n < 0x100 ? [0x81, n] : [0x82, n >> 8, n & 0xff];
  return Buffer.concat([Buffer.from([tag, ...length]), content]);
}

function sequence(...parts) { return der(0x30, ...parts); }

function integer(bytes) { return der(0x02, Buffer.from(bytes)); }

function text(ascii) { return Buffer.from(ascii, 'ascii'); }

const commonName = der(0x06, Buffer.from([0x55, 0x04, 0x03])); // 2.5.4.3
const subjectAltName = der(0x06, Buffer.from([0x55, 0x1d, 0x11])); // 2.5.29.17
const ecdsaWithSHA256 = sequence(der(0x06, Buffer.from([0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]))); // 1.2.840.10045.4.3.2
const localhost = sequence(der(0x31, sequence(commonName, der(0x0c, text('localhost')))));
