// The client of the admin API: requests, values that are polled, changes and streams.
import { Observable, useEffect, useObservable, useState } from './dom.js';

const POLL_MS = 700;
/** Before a path that does not exist, such as the fleet of a sidecar without one, is tried again. */
const ABSENT_MS = 15_000;
const TIMEOUT_MS = 10_000;
const CHANGE_TIMEOUT_MS = 30_000;
/** A stream sends a comment each 15 s. */
const STREAM_SILENCE_MS = 40_000;
const RETRY_MS = [200, 500, 1000, 2000, 4000];
/** Values that are kept after their page was closed. */
const KEPT = 40;
const TOKEN_KEY = 'outrigger.token';

/** `state` is `connecting`, `live`, `disconnected` or `token`; `since` is when it began. */
export const connection = new Observable({ state: 'connecting', since: Date.now() });

/** Set while the page asks for the admin token: `{reason, resolve}`. */
export const tokenPrompt = new Observable(null);

export class ApiError extends Error {
  constructor(status, detail, problem) {
    super(detail);
    this.status = status;
    this.problem = problem;
  }

  /** The sidecar is older than this page and has no such endpoint. */
  get isAbsent() {
    return this.status === 404 && !this.problem;
  }

  get isDisconnected() {
    return this.status === 0;
  }
}

let token = null;
try { token = sessionStorage.getItem(TOKEN_KEY); } catch { /* storage is blocked */ }

/** Changes when a token is entered. */
const tokenEntered = new Observable(0);
let dismissed = false;

/** Calls `action` when a token was entered; returns a function that ends this. */
export const onToken = (action) => tokenEntered.subscribe(action);

function setToken(text) {
  token = text || null;
  tokenEntered.set(tokenEntered.value + 1);
  try {
    if (token) sessionStorage.setItem(TOKEN_KEY, token);
    else sessionStorage.removeItem(TOKEN_KEY);
  } catch { /* the token lives as long as the page */ }
}

function connect(state) {
  if (connection.value.state !== state) connection.set({ state, since: Date.now() });
}

function url(path) {
  return new URL(`../${path.replace(/^\//, '')}`, document.baseURI);
}

function headers(extra) {
  return { accept: 'application/json', ...(token ? { authorization: `Bearer ${token}` } : {}), ...extra };
}

async function send(path, { method = 'GET', body, accept, lastEventId, signal }) {
  const fields = {
    ...(accept ? { accept } : {}),
    ...(body !== undefined ? { 'content-type': 'application/json' } : {}),
    ...(lastEventId ? { 'last-event-id': lastEventId } : {}),
  };
  let response;
  try {
    const options = { method, headers: headers(fields), signal, cache: 'no-store', redirect: 'error' };
    if (body !== undefined) options.body = JSON.stringify(body);
    response = await fetch(url(path), options);
  } catch (error) {
    if (signal?.aborted && signal.reason?.name !== 'TimeoutError') throw error;
    connect('disconnected');
    throw new ApiError(0, 'the sidecar does not respond');
  }
  if (response.ok) {
    connect('live');
    return response;
  }
  throw await failure(response);
}

async function failure(response) {
  const text = await response.text().catch(() => '');
  let problem = null;
  try { problem = JSON.parse(text); } catch { /* no problem document */ }
  if (response.status === 401) connect('token');
  // A proxy in front of a sidecar that is gone.
  else if (response.status === 502 || response.status === 504) connect('disconnected');
  else connect('live');
  const detail = problem?.detail ?? (text.trim().slice(0, 300) || `status ${response.status}`);
  return new ApiError(response.status === 502 || response.status === 504 ? 0 : response.status, detail, problem);
}

/** The JSON of a `GET`. */
export async function get(path, { signal, timeout = TIMEOUT_MS } = {}) {
  return (await getText(path, signal, timeout)).data;
}

async function getText(path, signal, timeout) {
  const limit = AbortSignal.timeout(timeout);
  const response = await send(path, { signal: signal ? AbortSignal.any([signal, limit]) : limit });
  const text = await response.text().catch(() => {
    if (!signal?.aborted) connect('disconnected');
    throw new ApiError(0, 'the sidecar closed the connection');
  });
  try {
    return { text, data: JSON.parse(text) };
  } catch {
    throw new ApiError(response.status, 'the response is not JSON');
  }
}

/** Makes a change. Asks for the token and sends it again where the sidecar wants one. */
export async function change(path, body = {}, method = 'POST') {
  for (;;) {
    try {
      const response = await send(path, { method, body, signal: AbortSignal.timeout(CHANGE_TIMEOUT_MS) });
      const result = await response.json().catch(() => null);
      refresh();
      return result;
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 401)) throw error;
      if (!(await askForToken(error.message))) throw error;
    }
  }
}

/** Resolves to whether a token was given. Only one dialog is open at a time. */
export function askForToken(reason) {
  const open = tokenPrompt.value;
  if (open) return open.promise;
  let resolve;
  const promise = new Promise((done) => { resolve = done; });
  tokenPrompt.set({
    reason,
    promise,
    close(text) {
      dismissed = !text;
      tokenPrompt.set(null);
      if (text) setToken(text);
      resolve(Boolean(text));
      if (text) refresh();
    },
  });
  return promise;
}

/** Reading needs the token: asks for it, unless the dialog was closed without one. */
function needToken({ message }) {
  if (!dismissed) askForToken(message);
}

/** A path that is read again and again while a component uses it. */
class Resource extends Observable {
  constructor(path) {
    super({ data: undefined, error: null, at: 0 });
    this.path = path;
    this.text = null;
    this.users = new Map();
    this.timer = 0;
    this.loading = null;
  }

  use(user, every) {
    this.users.set(user, every);
    this.load();
    return () => {
      this.users.delete(user);
      if (!this.users.size) this.stop();
    };
  }

  stop() {
    clearTimeout(this.timer);
    this.loading?.abort();
    this.loading = null;
  }

  async load() {
    clearTimeout(this.timer);
    if (this.loading || document.hidden || !this.users.size) return undefined;
    const began = Date.now();
    const loading = new AbortController();
    this.loading = loading;
    try {
      const { text, data } = await getText(this.path, loading.signal, TIMEOUT_MS);
      if (this.loading !== loading) return undefined;
      const isSame = text === this.text && !this.value.error;
      this.text = text;
      if (isSame) this.value.at = Date.now();
      else this.set({ data, error: null, at: Date.now() });
    } catch (error) {
      if (this.loading !== loading) return undefined;
      this.set({ ...this.value, error });
      // Read again once there is a token, not before: each rejection is in the audit log.
      if (error.status === 401) {
        this.loading = null;
        return needToken(error);
      }
    }
    this.loading = null;
    if (this.again) {
      this.again = false;
      this.load();
    } else if (this.users.size) {
      const every = Math.min(...this.users.values());
      const wait = Number.isFinite(every) ? Math.max(100, every - (Date.now() - began)) : 0;
      const { error } = this.value;
      const failed = error ? Math.max(wait, error.status === 404 ? ABSENT_MS : POLL_MS) : wait;
      if (failed) this.timer = setTimeout(() => this.load(), failed);
    }
    return undefined;
  }

  /** A value that is read only once is not read again when it is there. */
  get isStale() {
    if (this.value.error) return this.value.error.status !== 404;
    return [...this.users.values()].some(Number.isFinite);
  }

  /** Reads it at once, or once more if it is being read. */
  refresh() {
    if (this.loading) this.again = true;
    else this.load();
  }
}

const resources = new Map();

function resource(path) {
  let found = resources.get(path);
  if (!found) found = new Resource(path);
  resources.delete(path);
  resources.set(path, found);
  for (const [old, { users }] of resources) {
    if (resources.size <= KEPT) break;
    if (!users.size) resources.delete(old);
  }
  return found;
}

/** Reads everything in use again, as after a change. */
export function refresh() {
  for (const one of resources.values()) if (one.users.size && one.isStale) one.refresh();
}

const none = new Observable({ data: undefined, error: null, at: 0 });

/**
 * The value of a path as `{data, error, at}`, read again each `every` ms; `Infinity` reads it once.
 * Without a path it is empty. Old data stays while new data is read and after an error.
 */
export function usePoll(path, every = POLL_MS) {
  const of = path ? resource(path) : none;
  useEffect(() => {
    const user = {};
    return path ? of.use(user, every) : undefined;
  }, [of, path, every]);
  return useObservable(of);
}

document.addEventListener('visibilitychange', () => {
  if (!document.hidden) refresh();
});
addEventListener('online', refresh);

/**
 * Reads a stream of server-sent events until `close()`: connects again with the id of the last event, and pauses
 * while the page is hidden. `onEvent({id, kind, data})`; `onState('open' | 'waiting', error)`.
 */
export function openStream(path, { onEvent, onState = () => {}, lastEventId = null }) {
  const stream = { lastEventId, closed: false, failures: 0, controller: null, timer: 0 };
  const connectAgain = (wait) => {
    clearTimeout(stream.timer);
    if (!stream.closed && !document.hidden) stream.timer = setTimeout(run, wait);
  };
  const run = async () => {
    const controller = new AbortController();
    stream.needsToken = false;
    stream.controller = controller;
    try {
      const options = { accept: 'text/event-stream', lastEventId: stream.lastEventId, signal: controller.signal };
      const response = await send(path, options);
      onState('open');
      await readEvents(response.body, controller, (event) => {
        stream.failures = 0;
        if (event.id) stream.lastEventId = event.id;
        onEvent(event);
      });
      stream.failures = 0;
    } catch (error) {
      if (stream.closed || stream.controller !== controller) return undefined;
      stream.failures++;
      onState('waiting', error);
      stream.needsToken = error.status === 401;
      if (stream.needsToken) return needToken(error);
    }
    if (stream.controller === controller) connectAgain(RETRY_MS[Math.min(stream.failures, RETRY_MS.length - 1)]);
    return undefined;
  };
  const stopWaiting = onToken(() => stream.needsToken && run());
  const onVisibility = () => {
    if (document.hidden) {
      clearTimeout(stream.timer);
      const { controller } = stream;
      stream.controller = null;
      controller?.abort();
    } else if (!stream.controller) run();
  };
  document.addEventListener('visibilitychange', onVisibility);
  if (!document.hidden) run();
  return () => {
    stream.closed = true;
    stopWaiting();
    clearTimeout(stream.timer);
    document.removeEventListener('visibilitychange', onVisibility);
    stream.controller?.abort();
  };
}

async function readEvents(body, controller, onEvent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const watchdog = setTimeout(() => controller.abort(), STREAM_SILENCE_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(watchdog));
    if (done) return;
    rest = (rest + value).replace(/\r\n?/g, '\n');
    const blocks = rest.split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parseEvent(block);
      if (event) onEvent(event);
    }
  }
}

function parseEvent(block) {
  const event = { id: null, kind: 'message', data: '' };
  const data = [];
  for (const line of block.split('\n')) {
    const at = line.indexOf(':');
    if (at <= 0) continue;
    const value = line.slice(at + 1).replace(/^ /, '');
    const field = line.slice(0, at);
    if (field === 'data') data.push(value);
    else if (field === 'id') event.id = value;
    else if (field === 'event') event.kind = value;
  }
  if (!data.length) return null;
  try { event.data = JSON.parse(data.join('\n')); } catch { event.data = data.join('\n'); }
  return event;
}

let now = null;

/** The current time, which renders again each second while the page is visible. */
export function useNow() {
  now ??= startClock();
  return useObservable(now);
}

function startClock() {
  const clock = new Observable(Date.now());
  setInterval(() => {
    if (!document.hidden && clock.listeners.size) clock.set(Date.now());
  }, 1000);
  return clock;
}

/** Runs an asynchronous action of a button: `[busy, error, run]`. */
export function useAction(action) {
  const [state, setState] = useState({ busy: false, error: null });
  const run = async (...values) => {
    setState({ busy: true, error: null });
    try {
      const result = await action(...values);
      setState({ busy: false, error: null });
      return result;
    } catch (error) {
      setState({ busy: false, error });
      return undefined;
    }
  };
  return [state.busy, state.error, run];
}
