// Requests: the last 1,000 with a filter and a live tail, and what sets some of them apart.
import { html, useEffect, useMemo, useRef, useState, useUniqueId } from '../dom.js';
import { get, onToken, openStream } from '../api.js';
import { Ago, Badge, Card, Choice, Icon, Name, Page, State, Table } from '../parts.js';
import { replaceQuery, useRoute } from '../router.js';
import { RequestDetail, Waterfall, statusTone } from './request_detail.js';
import { Differences } from './differences.js';
import * as format from '../format.js';

const KEPT = 1000;
const TYPING_MS = 250;
const FLUSH_MS = 250;

const PRESETS = [['', 'All'], ['failed', 'Failed'], ['took:>2s', 'Slow'], ['retried', 'Retried'], ['fallback', 'Fallback'], ['waited:>100ms', 'Waited']];

export function Requests() {
  const { query } = useRoute();
  const filter = query.get('filter') ?? '';
  const view = query.get('view') ?? 'list';
  const id = query.get('id');
  const [live, setLive] = useState(true);
  const list = useRequests(filter, live && !id);
  return html`<${Page} title="Requests" intro="The records of the last 1,000 requests, newest first."
    actions=${html`<${Choice} label="View" value=${view} onChange=${(value) => replaceQuery({ view: value === 'list' ? '' : value })} options=${[['list', 'List'], ['differences', 'Differences']]} />`}>
    <${FilterField} filter=${filter} error=${list.error?.status === 400 ? list.error : null} />
    ${view === 'differences' ? html`<${Differences} filter=${filter} against=${query.get('against') ?? ''} />`
      : html`<${RequestList} list=${list} live=${live} setLive=${setLive} filter=${filter} />`}
    ${id && html`<${RequestDetail} id=${id} kept=${list.records?.find((record) => record.request_id === id)} onClose=${() => replaceQuery({ id: '' })} />`}<//>`;
}

/** The records that a filter admits: read once, then continued by the stream. */
function useRequests(filter, live) {
  const [state, setState] = useState({ records: null, error: null, sampled: false, fresh: 0, filter, loads: 0 });
  const newest = useRef(null);
  const [loads, reload] = useState(0);
  useEffect(() => {
    const aborter = new AbortController();
    let timer = 0;
    newest.current = null;
    const load = async () => {
      try {
        const page = await get(`/api/requests?limit=${KEPT}&filter=${encodeURIComponent(filter)}`, { signal: aborter.signal });
        newest.current = page.requests[0]?.number ?? 0;
        setState({ records: page.requests, error: null, sampled: page.sampled, fresh: 0, filter, loads });
      } catch (error) {
        if (aborter.signal.aborted) return;
        setState((old) => ({ ...old, error }));
        if (error.status !== 400 && error.status !== 401) timer = setTimeout(load, 1000);
      }
    };
    load();
    const stop = onToken(load);
    return () => {
      stop();
      clearTimeout(timer);
      aborter.abort();
    };
  }, [filter, loads]);

  const isLoaded = state.records !== null && state.filter === filter && state.loads === loads && !state.error;
  useEffect(() => {
    if (!live || !isLoaded) return undefined;
    let waiting = [];
    let timer = 0;
    const flush = () => {
      timer = 0;
      const added = waiting.reverse();
      waiting = [];
      setState((old) => ({ ...old, records: [...added, ...old.records].slice(0, KEPT), fresh: old.fresh + added.length }));
    };
    const close = openStream(`/api/requests/stream?filter=${encodeURIComponent(filter)}`, {
      lastEventId: String(newest.current ?? 0),
      onEvent: ({ id, data }) => {
        // Numbers begin again when the sidecar does.
        if (Number(id) <= newest.current) return reload((n) => n + 1);
        newest.current = Number(id);
        if (data && typeof data === 'object') waiting.push(data);
        timer ||= setTimeout(flush, FLUSH_MS);
        return undefined;
      },
    });
    return () => {
      clearTimeout(timer);
      if (waiting.length) flush();
      close();
    };
  }, [filter, live, loads, isLoaded]);
  return state;
}

function FilterField({ filter, error }) {
  const [text, setText] = useState(filter);
  const id = useUniqueId('filter');
  const timer = useRef(0);
  const sent = useRef(filter);
  useEffect(() => {
    if (filter !== sent.current) setText(filter);
    sent.current = filter;
  }, [filter]);
  const apply = (value) => {
    clearTimeout(timer.current);
    sent.current = value;
    replaceQuery({ filter: value });
  };
  const type = (event) => {
    const { value } = event.target;
    setText(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => apply(value.trim()), TYPING_MS);
  };
  const choose = (value) => {
    setText(value);
    apply(value);
  };
  return html`<form class="filter" role="search" onSubmit=${(event) => { event.preventDefault(); apply(text.trim()); }}>
    <label class="visually-hidden" for=${id}>Filter</label>
    <input id=${id} class="input mono" data-filter type="text" value=${text} onInput=${type} placeholder="to:openai status:5xx waited:>1s" autocomplete="off" spellcheck=${false} autocapitalize="off"
      aria-invalid=${error ? 'true' : undefined} aria-describedby=${error ? `${id}-error` : `${id}-help`} />
    ${error && html`<p class="field-error" id=${`${id}-error`} role="alert">${format.visible(error.message, 600)}</p>`}
    <div class="row"><${Choice} label="Common filters" value=${filter} onChange=${choose} options=${PRESETS} />
      <details class="help" id=${`${id}-help`}><summary>Terms</summary><div><${Terms} /></div></details></div>
  </form>`;
}

const TERMS = [
  ['to:openai', 'an attempt went to this provider or endpoint'], ['route: model: class: flow: method: path:', 'of the request; * stands for any characters, a|b for either'],
  ['status:5xx  status:429|503', 'the status that the client received'], ['outcome:failure  error:timeout', 'of an attempt'],
  ['result: reason: cache: policy: key: id:', 'as in the record'], ['took:>2s  first_byte:<100ms  waited:>=1s', 'times'],
  ['attempts:>1  tokens_out:>1000  bytes_in:<1k  cost:>0.01', 'numbers'], ['failed  retried  degraded  fallback', 'flags'], ['-route:chat', 'not this one'],
];

function Terms() {
  return html`<dl class="facts">${TERMS.map(([term, meaning]) => html`<dt><code>${term}</code></dt><dd>${meaning}</dd>`)}</dl>
    <p class="muted small">Terms are separated by spaces, and all of them must hold.</p>`;
}

function RequestList({ list, live, setLive, filter }) {
  const records = list.records;
  const scale = useMemo(() => longest(records ?? []), [records]);
  if (!records) {
    const away = list.error?.isDisconnected;
    return html`<section class="card"><${State} title=${away ? 'The sidecar does not respond' : list.error ? 'No requests to show' : 'Loading'}>${list.error && (list.error.status === 400 ? 'The filter has an error.' : format.visible(list.error.message, 300))}<//></section>`;
  }
  const columns = [
    { label: 'Time', cell: (row) => html`<time class="nowrap mono small" datetime=${row.time} title=${row.time}>${format.clockTime(row.time)}</time><span class="sub"><${Ago} at=${row.time} /></span>` },
    { label: 'Request', lead: true, cell: (row) => html`<button type="button" class="link-button" onClick=${() => replaceQuery({ id: row.request_id })}>${row.method} <${Name} longest=${80}>${row.path}<//></button>
      <span class="sub">${row.route === '-' ? 'no route' : html`route <${Name} longest=${60}>${row.route}<//>`}${row.model && html`, model <${Name} longest=${60}>${row.model}<//>`}</span>` },
    { label: 'Status', cell: (row) => html`<${Status} record=${row} />` },
    { label: 'Went to', cell: (row) => destination(row) },
    { label: 'Time spent', full: true, cell: (row) => html`<${Waterfall} record=${row} scale=${scale} />` },
    { label: 'Took', num: true, cell: (row) => html`${format.duration(row.duration_ms)}${row.wait_ms >= 1 && html`<span class="sub">waited ${format.duration(row.wait_ms)}</span>`}` },
  ];
  const note = `${format.plural(records.length, 'request')}${list.fresh ? `, ${format.number(list.fresh)} new` : ''}`;
  return html`<${Card} title=${list.error?.status === 400 ? 'Not filtered: the filter has an error' : filter ? 'Requests that match' : 'All requests'} note=${html`<span data-count=${records.length}>${note}</span>`} flush actions=${html`<button type="button" class="button" onClick=${() => setLive(!live)}><${Icon} name=${live ? 'pause' : 'down'} /> ${live ? 'Pause' : 'Follow'}</button>`}>
    <div class="toolbar"><span class="key-of"><span><i class="seg wait"></i>waiting</span><span><i class="seg backoff"></i>back-off</span><span><i class="seg"></i>attempt</span><span><i class="seg failed"></i>failed attempt</span><span><i class="seg local"></i>without a provider</span></span></div>
    ${list.sampled && html`<p class="muted small inset">Under high load some records are not kept: see <code>server.recent_requests</code>.</p>`}
    <${Table} label="Requests" columns=${columns} key=${filter} rows=${records} rowKey=${(row) => row.number} select=${(row) => replaceQuery({ id: row.request_id })}
      empty=${filter ? 'No request matches the filter' : 'No request yet'} />
  <//>`;
}

/** The scale of the small waterfalls: all but the slowest few requests fit. */
function longest(records) {
  const times = records.map((record) => record.duration_ms ?? 0).sort((a, b) => a - b);
  return times[Math.floor(times.length * 0.95)] || 1;
}

export function Status({ record }) {
  const { status, result } = record;
  const word = { local_response: 'by Outrigger', interrupted: 'cut', client_disconnected: 'client left' }[result];
  const tone = result === 'interrupted' ? 'bad' : statusTone(status);
  const text = record.reason ?? word;
  return html`<${Badge} tone=${tone}>${status}<//>${text && html`<span class="sub">${format.visible(text.replaceAll('_', ' '), 60)}</span>`}`;
}

function destination({ attempts = [], cache, result, job }) {
  if (!attempts.length && job) return html`job <span class="sub">enqueued</span>`;
  if (!attempts.length) return cache === 'hit' || cache === 'stale' || cache === 'coalesced' ? html`cache <span class="sub">${cache}</span>` : html`<span class="muted">${result === 'local_response' ? 'no provider' : format.NONE}</span>`;
  const last = attempts.at(-1);
  const failed = attempts.filter((attempt) => attempt.class !== 'success').length;
  return html`<${Name} longest=${40}>${last.endpoint.split('/')[0]}<//>${attempts.length > 1 && html`<span class="sub">${attempts.length} attempts, ${failed} failed</span>`}`;
}
