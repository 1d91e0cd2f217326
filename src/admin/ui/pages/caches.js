// Caches: how much of the traffic they answer, how full they are, and purging.
import { html, useState } from '../dom.js';
import { change, usePoll } from '../api.js';
import { Bar, Card, ChangeDialog, Facts, Figures, Loaded, Name, Page, State, Tally, Verdict } from '../parts.js';
import { History } from '../charts.js';
import { Recommendations } from './overview.js';
import * as format from '../format.js';

const HITS = ['hit', 'stale', 'revalidated', 'coalesced'];
const RESULTS = { hit: 'Hit', stale: 'Stale', revalidated: 'Revalidated', coalesced: 'Coalesced', miss: 'Miss', bypass: 'Bypass' };

/** Served without a full response of the origin, and all but bypasses. */
function hits(requests) {
  const found = HITS.reduce((total, result) => total + (requests[result] ?? 0), 0);
  const all = found + (requests.miss ?? 0);
  return { found, all, share: all > 0 ? found / all : null };
}

export function Caches() {
  const caches = usePoll('/api/caches');
  const [dialog, setDialog] = useState(null);
  return html`<${Page} title="Caches" intro="Responses that are stored in memory and sent again.">
    <${Loaded} of=${caches}>${(data) => (data.caches.length ? html`<${Total} caches=${data.caches} /><${Recommendations} codes=${['cache_never_hits']} />
      ${data.caches.map((cache) => html`<${Cache} key=${cache.name} cache=${cache} onPurge=${setDialog} />`)}
      <${History} title="Share of hits" note="Of all requests but bypasses" query="metric=cache_requests&by=cache,result" lines=${lines} show=${format.percent} />`
      : html`<section class="card"><${State} title="No route has a cache">Add one under <code>caches</code> and name it as <code>cache</code> of a route.<//></section>`)}<//>
    ${dialog && html`<${ChangeDialog} ...${dialog} onClose=${() => setDialog(null)} />`}<//>`;
}

function Total({ caches }) {
  const all = {};
  for (const { requests } of caches) for (const [result, count] of Object.entries(requests)) all[result] = (all[result] ?? 0) + count;
  const { found, all: asked, share } = hits(all);
  const full = caches.filter((cache) => cache.bytes >= cache.max_bytes * 0.95 && cache.evictions > 0);
  return html`<${Verdict} tone=${full.length ? 'warn' : 'good'}>${share == null ? 'No request has used a cache yet.' : `Caches answered ${format.number(found)} of ${format.plural(asked, 'request')} (${format.percent(share)}).`}${full.length ? ` ${full.map((one) => format.visible(one.name, 40)).join(', ')} ${full.length === 1 ? 'is' : 'are'} full and evict responses.` : ''}<//>`;
}

function Cache({ cache, onPurge }) {
  const { share } = hits(cache.requests);
  const used = cache.max_bytes > 0 ? cache.bytes / cache.max_bytes : null;
  const name = format.visible(cache.name, 60);
  const purge = () => onPurge({
    title: `Purge cache ${name}`, verb: 'Purge', danger: true, withDuration: false, text: `${format.plural(cache.entries, 'response')} will be removed. Providers get the requests that they answered.`, done: `${name} purged`,
    run: (body) => change(`/api/caches/purge/${encodeURIComponent(cache.name)}`, body),
  });
  return html`<${Card} title=${html`<${Name}>${cache.name}<//>`} actions=${html`<button type="button" class="button danger" onClick=${purge}>Purge<span class="visually-hidden"> cache ${name}</span></button>`}>
    <div class="stack tight"><${Figures} of=${[
      { label: 'Share of hits', value: format.percent(share), note: 'since the start' },
      { label: 'Size', value: format.bytes(cache.bytes), note: html`<${Bar} share=${used} tone=${used >= 0.95 ? 'warn' : ''} /> ${format.percent(used)} of ${format.bytes(cache.max_bytes)}` },
      { label: 'Responses', value: format.number(cache.entries), note: cache.entries ? `${format.bytes(cache.bytes / cache.entries)} each` : '' },
      { label: 'Evictions', value: format.number(cache.evictions) },
    ]} /><div class="columns"><div><h3>Requests by result</h3><${Tally} of=${Object.entries(RESULTS).map(([key, label]) => ({ label, count: cache.requests[key] ?? 0, tone: HITS.includes(key) ? '' : 'warn' }))} /></div>
      <div><h3>In progress</h3><${Facts} of=${[['Being received', format.bytes(cache.recording_bytes)], ['Shared fetches', format.number(cache.coalesced_fetches)]]} /></div></div></div><//>`;
}

/** The share of hits of each cache, at each moment. */
function lines({ at, series }) {
  const names = [...new Set(series.map(({ labels }) => labels.cache))];
  return names.map((label) => ({
    label,
    values: at.map((_, index) => hits(Object.fromEntries(series.filter(({ labels }) => labels.cache === label).map(({ labels, values }) => [labels.result, values[index] ?? 0]))).share),
  }));
}
