// Drives OpenFeature's OFREP providers for the tests of this folder. It reads one JSON command a line on standard
// input and answers each with one line of JSON: {"ok": ...} or {"error": "..."}.
//
// The providers are used as they come. Only what their documentation offers is set: base URL, headers, and a fetch
// that notes what was asked and answered. Node has no EventSource; the package of that name fills in.
import { createInterface } from 'node:readline';
import { EventSource } from 'eventsource';
import { OpenFeature as Server } from '@openfeature/server-sdk';
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { OpenFeature as Web, ProviderEvents } from '@openfeature/web-sdk';
import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';

globalThis.EventSource = EventSource;

const exchanges = [];
const changes = [];
let awake = () => {};

async function notedFetch(input, init) {
  const request = input instanceof Request ? input : new Request(input, init);
  const response = await fetch(input, init);
  exchanges.push({
    path: new URL(request.url).pathname,
    query: new URL(request.url).search,
    ifNoneMatch: request.headers.get('If-None-Match') ?? '',
    status: response.status,
    etag: response.headers.get('ETag') ?? '',
  });
  return response;
}

const kinds = { boolean: 'getBooleanDetails', string: 'getStringDetails', number: 'getNumberDetails', object: 'getObjectDetails' };

const commands = {
  async start({ baseUrl, token, context }) {
    const options = { baseUrl, headers: [['Authorization', `Bearer ${token}`]], fetchImplementation: notedFetch };
    await Server.setProviderAndWait(new OFREPProvider(options));
    await Web.setContext(context);
    Web.addHandler(ProviderEvents.ConfigurationChanged, (e) => {
      changes.push(...(e.flagsChanged ?? []));
      awake();
    });
    await Web.setProviderAndWait(new OFREPWebProvider(options));
    return true;
  },
  server: ({ kind, key, fallback, context }) => Server.getClient()[kinds[kind]](key, fallback, context),
  web: ({ kind, key, fallback }) => Web.getClient()[kinds[kind]](key, fallback),
  async webContext({ context }) {
    await Web.setContext(context);
    return true;
  },
  exchanges: () => exchanges.splice(0),
  // Waits until the web provider has told of a change of the flag.
  async changed({ key }) {
    while (!changes.includes(key)) {
      await new Promise((resolve) => { awake = resolve; });
    }
    changes.length = 0;
    return true;
  },
  async stop() {
    await Server.close();
    await Web.close();
    return true;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { op, ...args } = JSON.parse(line);
  let answer;
  try {
    answer = { ok: await commands[op](args) };
  } catch (e) {
    answer = { error: String(e?.stack ?? e) };
  }
  await new Promise((written) => { process.stdout.write(`${JSON.stringify(answer)}\n`, written); });
  if (op === 'stop') {
    process.exit(0); // the server SDK's agents would keep connections open for a while
  }
}
