// Events: changes of state, newest first, with a filter; new ones arrive by the stream.
import { html, useEffect, useState, useUniqueId } from '../dom.js';
import { get } from '../api.js';
import { Ago, Badge, Card, Choice, Icon, Name, Page, State, Table, Time } from '../parts.js';
import { replaceQuery, useRoute } from '../router.js';
import { KINDS, causeOf, newest, stateOf } from '../events.js';
import * as format from '../format.js';

const PAGE = 100;
const GOOD = ['closed', 'left', 'applied', 'attached', 'recovery', 'normal', 'done', 'undrained', 'resumed'];
const BAD = ['open', 'entered', 'rejected', 'detached', 'regression', 'dead', 'expired', 'missed', 'failed', 'alarm'];

export function Events() {
  const { query } = useRoute();
  const kind = query.get('kind') ?? '';
  const key = query.get('key') ?? '';
  const [live, setLive] = useState(true);
  const list = useEvents(kind, key, live);
  return html`<${Page} title="Events" intro="Changes of state of breakers, policies, modes, jobs and the fleet, and changes by hand.">
    <${Filter} kind=${kind} value=${key} />
    <${List} list=${list} live=${live} setLive=${setLive} isFiltered=${Boolean(kind || key)} /><//>`;
}

/** The newest events that a filter admits, older pages on request, and new ones while `live`. */
function useEvents(kind, key, live) {
  const filter = `${kind ? `&kind=${kind}` : ''}${key ? `&key=${encodeURIComponent(key)}` : ''}`;
  const [state, setState] = useState({ events: null, next: null, error: null, busy: false });
  const load = async (before, signal) => {
    setState((old) => ({ ...old, busy: true }));
    try {
      const page = await get(`/api/events?limit=${PAGE}${filter}${before ? `&before=${before}` : ''}`, { signal });
      if (!signal?.aborted) setState((old) => ({ events: before ? merge(old.events ?? [], page.events) : page.events, next: page.next ?? null, error: null, busy: false }));
    } catch (error) {
      if (!signal?.aborted) setState((old) => ({ ...old, error, busy: false }));
    }
  };
  useEffect(() => {
    const aborter = new AbortController();
    load(null, aborter.signal);
    return () => aborter.abort();
  }, [filter]);
  useEffect(() => {
    if (!live) return undefined;
    return newest.subscribe(() => {
      const event = newest.value;
      const admitted = event && (!kind || kind.split(',').includes(event.kind)) && String(event.key ?? '').startsWith(key);
      if (admitted) setState((old) => (old.events ? { ...old, events: merge([event], old.events) } : old));
    });
  }, [filter, live]);
  useEffect(() => {
    if (!state.error || state.error.status === 400) return undefined;
    const timer = setTimeout(() => load(null), 1500);
    return () => clearTimeout(timer);
  }, [state.error]);
  return { ...state, older: () => load(state.next), again: () => load(null) };
}

function merge(first, second) {
  const known = new Set(first.map((event) => event.id));
  return [...first, ...second.filter((event) => !known.has(event.id))];
}

function Filter({ kind, value }) {
  const id = useUniqueId('key');
  return html`<form class="filter" role="search" onSubmit=${(event) => event.preventDefault()}>
    <label class="visually-hidden" for=${id}>Beginning of the key</label>
    <input id=${id} class="input mono" data-filter type="text" value=${value} onInput=${(event) => replaceQuery({ key: event.target.value.trimStart() })} placeholder="Beginning of a key, such as openai/" autocomplete="off" spellcheck=${false} autocapitalize="off" />
    <${Choice} label="Kind of events" value=${kind} onChange=${(next) => replaceQuery({ kind: next })} options=${[['', 'All'], ...Object.entries(KINDS)]} /></form>`;
}

function List({ list, live, setLive, isFiltered }) {
  const { events, error, next, busy, older, again } = list;
  if (!events) return html`<section class="card"><${State} title=${error ? (error.isDisconnected ? 'The sidecar does not respond' : 'Events could not be read') : 'Loading'}>${error && format.visible(error.message, 300)}<//></section>`;
  const columns = [
    { label: 'Time', cell: (row) => html`<${Time} at=${row.at} /><span class="sub"><${Ago} at=${row.at} /></span>` },
    { label: 'Kind', cell: (row) => html`<span class="nowrap">${KINDS[row.kind] ?? format.words(row.kind)}</span>` },
    { label: 'Key', lead: true, cell: (row) => html`<div class="wide-cell"><button type="button" class="link-button" title="Only events of this key" onClick=${() => replaceQuery({ key: row.key })}><${Name}>${row.key}<//></button></div>` },
    { label: 'State', blank: (row) => !stateOf(row), cell: (row) => html`<${EventState} event=${row} />` },
    { label: 'Detail', full: true, cell: (row) => html`${format.visible(format.sentence(row.detail), 600)}${row.cause && !String(row.detail).includes(row.cause) && html`<span class="sub">${format.visible(format.words(causeOf(row)), 200)}</span>`}` },
  ];
  const follow = () => {
    if (!live) again();
    setLive(!live);
  };
  return html`${error && html`<p class="notice warn" role="status">Events could not be read again: ${format.visible(error.message, 300)}.</p>`}
    <${Card} title=${isFiltered ? 'Events that match' : 'All events'} note=${format.plural(events.length, 'event')} flush actions=${html`<button type="button" class="button" onClick=${follow}><${Icon} name=${live ? 'pause' : 'down'} /> ${live ? 'Pause' : 'Follow'}</button>`}>
      <${Table} label="Events" columns=${columns} rows=${events} rowKey=${(row) => row.id} empty=${isFiltered ? 'No event matches the filter' : 'No event yet'} />
      ${next != null && html`<div class="more"><button type="button" class="button" disabled=${busy} onClick=${older}>${busy ? 'Reading' : 'Read older events'}</button></div>`}<//>`;
}

function EventState({ event }) {
  const state = stateOf(event);
  if (!state) return null;
  const tone = BAD.includes(state) ? 'bad' : GOOD.includes(state) ? 'good' : state === 'half_open' ? 'warn' : 'info';
  return html`<${Badge} tone=${tone} icon=${state === 'half_open' ? 'half' : undefined}>${format.words(state)}<//>`;
}
