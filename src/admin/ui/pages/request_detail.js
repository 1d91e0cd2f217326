// One request: its waterfall, each decision with its place in the policy, and its record.
import { html, useState } from '../dom.js';
import { usePoll } from '../api.js';
import { Badge, Dialog, Facts, Icon, Loaded, Source, Time, copy } from '../parts.js';
import * as format from '../format.js';

export function statusTone(status) {
  if (status >= 500) return 'bad';
  if (status >= 400) return 'warn';
  return status >= 200 ? 'good' : 'info';
}

/**
 * The parts of a request in time: `{kind, start, end, label, lane, failed}` with `kind` `wait`, `backoff`, `attempt`,
 * `hedge`, `local` or `response`.
 */
export function segments(record) {
  const total = record.duration_ms ?? 0;
  const attempts = (record.attempts ?? []).map((attempt) => {
    const start = attempt.start_ms ?? (record.attempts.length === 1 ? record.wait_ms ?? 0 : 0);
    return { attempt, start, end: start + (attempt.duration_ms ?? 0) };
  }).sort((a, b) => a.start - b.start);
  const found = [];
  let at = 0;
  let waited = record.wait_ms ?? 0;
  let backoff = record.backoff_ms ?? 0;
  attempts.forEach(({ attempt, start, end }, index) => {
    if (start - at > 0.5) {
      const isWait = waited > 0.5 && (!index || backoff <= 0.5);
      found.push({ kind: isWait ? 'wait' : 'backoff', start: at, end: start, lane: found.length, label: isWait ? 'Waiting for capacity or the end of a hold' : index ? 'Back-off' : 'Before the first attempt' });
      if (isWait) waited -= start - at; else backoff -= start - at;
    }
    const failed = attempt.class !== 'success' && attempt.class !== 'ignored';
    const kind = attempt.kind === 'hedge' ? 'hedge' : 'attempt';
    const name = attempt.kind ? attempt.kind.charAt(0).toUpperCase() + attempt.kind.slice(1) : `Attempt ${index + 1}`;
    found.push({ kind, start, end, failed, lane: found.length, attempt, label: name });
    at = Math.max(at, end);
  });
  if (!attempts.length) {
    if (waited > 0.5) found.push({ kind: 'wait', start: 0, end: Math.min(waited, total), lane: 0, label: 'Waiting for capacity or the end of a hold' });
    const start = Math.min(waited, total);
    if (total - start > 0.05 || !found.length) found.push({ kind: 'local', start, end: total, lane: found.length, label: record.cache === 'hit' || record.cache === 'stale' ? 'Served from the cache' : record.cache === 'coalesced' ? 'Shared with an equal request' : 'Handled by Outrigger' });
  } else if (total - at > Math.max(1, total * 0.02)) found.push({ kind: 'response', start: at, end: total, lane: found.length, label: record.result === 'complete' ? 'Rest of the response' : 'Until the end' });
  return found;
}

const share = (value, total) => `${Math.max(0, Math.min(1, value / (total || 1))) * 100}%`;

/** The parts of a request as one small bar; `scale` is the time of the full width. */
export function Waterfall({ record, scale }) {
  const parts = segments(record);
  const words = parts.map((part) => `${part.label} ${format.duration(part.end - part.start)}`).join(', ');
  return html`<div class="water" role="img" aria-label=${words}>${parts.map((part) => html`<i key=${part.lane} class=${`seg ${part.kind} ${part.failed ? 'failed' : ''}`}
    title=${`${part.label}: ${format.duration(part.end - part.start)}`} style=${{ left: share(part.start, scale), width: `max(2px, ${share(Math.min(part.end, scale) - part.start, scale)})` }}></i>`)}
    ${record.duration_ms > scale && html`<b class="beyond" title="longer than the scale">›</b>`}</div>`;
}

function Lanes({ record }) {
  const parts = segments(record);
  const total = Math.max(record.duration_ms ?? 0, ...parts.map((part) => part.end), 0.1);
  return html`<ol class="lanes" aria-label="Waterfall">${parts.map((part) => html`<li key=${part.lane}>
    <div class="lane-label"><strong>${part.label}</strong>${part.attempt && html` <bdi class="muted">${format.visible(part.attempt.endpoint, 80)}</bdi>`}
      ${part.attempt && html`<span class=${part.failed ? 'tone-bad' : 'muted'}> ${part.attempt.status ?? 'no response'}, ${part.attempt.class.replaceAll('_', ' ')}${part.attempt.probe ? ', probe' : ''}</span>`}
      ${(part.attempt?.error || part.attempt?.code) && html`<span class="sub">${format.visible([part.attempt.code, part.attempt.error].filter(Boolean).join(': '), 300)}</span>`}</div>
    <div class="water tall" aria-hidden="true"><i class=${`seg ${part.kind} ${part.failed ? 'failed' : ''}`} style=${{ left: share(part.start, total), width: `max(2px, ${share(part.end - part.start, total)})` }}></i></div>
    <div class="num muted">${format.duration(part.end - part.start)}</div></li>`)}</ol>`;
}

/** `kept` is the record of the list, for a request that the sidecar has already forgotten. */
export function RequestDetail({ id, kept, onClose }) {
  const found = usePoll(`/api/requests/${encodeURIComponent(id)}`, Infinity);
  const [record] = useState(kept);
  const isForgotten = found.error?.status === 404 && record;
  const detail = isForgotten ? { data: { request: record, decisions: [], curl: null }, error: null } : found;
  const data = detail.data;
  const foot = html`<button type="button" class="button" disabled=${!data} onClick=${() => copy(JSON.stringify(data.request, null, 2), 'Record copied')}><${Icon} name="copy" /> Copy record</button>
    <button type="button" class="button" disabled=${!data?.curl} onClick=${() => copy(data.curl, 'Command copied')}><${Icon} name="copy" /> Copy as curl</button>
    <button type="button" class="button primary" onClick=${onClose}>Close</button>`;
  const title = data ? `${data.request.method} ${format.visible(data.request.path, 100)}` : 'Request';
  return html`<${Dialog} title=${title} wide onClose=${onClose} foot=${foot}>
    <${Loaded} of=${detail} absent="Its record is no longer kept: the sidecar keeps the last 1,000.">${({ request, decisions, curl }) => html`
      <div class="row"><${Badge} tone=${statusTone(request.status)}>${request.status}<//><span>${outcome(request)}</span></div>
      <section><h3>Why it went there</h3>${!decisions.length && html`<p class="muted">The sidecar no longer keeps this record; below it is as the list had it.</p>`}<ol class="decisions">${decisions.map((step, index) => html`<li key=${index}><span class="num muted">${step.at_ms == null ? '' : format.duration(step.at_ms)}</span>
        <span><span class="name">${format.visible(step.text, 600)}</span> <${Source}>${step.source}<//></span></li>`)}</ol></section>
      <section><h3>Time spent</h3><${Lanes} record=${request} /></section>
      <details class="help"><summary>Record</summary><${Record} request=${request} /></details>
      ${curl && html`<details class="help"><summary>Command</summary><pre class="name">${format.visible(curl, 4000)}</pre></details>`}`}<//><//>`;
}

function outcome(request) {
  const end = { complete: 'Complete', local_response: 'Response by Outrigger', interrupted: 'Cut after its first byte', client_disconnected: 'The client disconnected' }[request.result] ?? request.result;
  const reason = request.reason ? ` (${request.reason.replaceAll('_', ' ')})` : '';
  return `${format.visible(end, 60)}${format.visible(reason, 60)} after ${format.duration(request.duration_ms)}`;
}

function Record({ request }) {
  const text = (value) => (value == null ? null : html`<span class="name">${format.visible(value, 200)}</span>`);
  return html`<${Facts} of=${[
    ['Ended', html`<${Time} at=${request.time} />`], ['Route', text(request.route)], ['Model', text(request.model)], ['Class', text(request.class)], ['Flow', text(request.flow)],
    ['First byte', request.first_byte_ms == null ? null : format.duration(request.first_byte_ms)], ['Waited', request.wait_ms == null ? null : format.duration(request.wait_ms)],
    ['Sizes', `${format.bytes(request.bytes_in)} in, ${format.bytes(request.bytes_out)} out`],
    ['Tokens', request.tokens_in == null && request.tokens_out == null ? null : `${format.number(request.tokens_in)} in, ${format.number(request.tokens_out)} out`],
    ['Cost', request.cost == null ? null : format.compact(request.cost)], ['Cache', text(request.cache)], ['No retry because', text(request.retry_denied?.replaceAll('_', ' '))],
    ['Sent once because', text(request.not_replayable)], ['Job', text(request.job)], ['Request id', text(request.request_id)], ['Trace', text(request.trace_id)], ['Policy', text(request.policy)],
  ]} />`;
}
