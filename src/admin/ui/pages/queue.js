// Queue and jobs: who waits, how fast it drains, and durable jobs with their errors.
import { html, useEffect, useState } from '../dom.js';
import { change, refresh, usePoll } from '../api.js';
import { Ago, Badge, Card, ChangeDialog, Choice, Dialog, Facts, Failure, Figures, Loaded, Name, Page, Table, Time, toast } from '../parts.js';
import { Chart } from '../charts.js';
import { replaceQuery, useRoute } from '../router.js';
import * as format from '../format.js';

const STATES = {
  ready: ['info', 'wait', 'Ready'], retry_wait: ['warn', 'wait', 'Waits for a retry'], leased: ['info', 'half', 'Running'], done: ['good', 'good', 'Done'],
  dead: ['bad', 'bad', 'Dead'], expired: ['bad', 'bad', 'Expired'], cancelled: ['info', 'info', 'Cancelled'],
};

export function Queue() {
  const queue = usePoll('/api/queue');
  const [dialog, setDialog] = useState(null);
  return html`<${Page} title="Queue and jobs" intro="Requests that wait for capacity, and requests that became durable jobs.">
    <${Loaded} of=${queue}>${(data) => html`
      ${data.queues.map((one) => html`<${Waiting} key=${one.name} queue=${one} onChange=${setDialog} />`)}
      <${Drain} providers=${data.providers} />
      <${History} />
      ${data.queues.some((one) => one.jobs) ? html`<${Jobs} queues=${data.queues} onChange=${setDialog} />` : html`<${Card} title="Jobs"><p class="muted">Durable jobs need a store: start the sidecar with <code>--data DIRECTORY</code>.</p><//>`}`}<//>
    ${dialog && html`<${ChangeDialog} ...${dialog} onClose=${() => setDialog(null)} />`}<//>`;
}

function Waiting({ queue, onChange }) {
  const waiting = queue.classes.reduce((sum, one) => sum + one.waiting, 0);
  const oldest = Math.max(0, ...queue.classes.map((one) => one.oldest_ms ?? 0));
  const action = queue.paused ? 'resume' : 'pause';
  const pause = () => onChange({
    title: `${queue.paused ? 'Resume' : 'Pause'} queue ${format.visible(queue.name, 60)}`, verb: queue.paused ? 'Resume' : 'Pause', danger: !queue.paused, withDuration: !queue.paused,
    text: queue.paused ? 'Waiting requests are dispatched again.' : 'Nothing is dispatched; new requests wait.', done: queue.paused ? 'Resumed' : 'Paused',
    run: (body) => change(`/api/queue/${action}/${encodeURIComponent(queue.name)}`, body),
  });
  const columns = [
    { label: 'Class', lead: true, cell: (row) => html`<strong><${Name}>${row.name}<//></strong>` },
    { label: 'Waiting', num: true, cell: (row) => format.number(row.waiting) },
    { label: 'Oldest', num: true, cell: (row) => (row.oldest_ms == null ? format.NONE : format.duration(row.oldest_ms)) },
    { label: 'Weight', num: true, cell: (row) => format.number(row.weight) },
    { label: 'Turn', num: true, help: 'While its requests wait, at least one of this many dispatches is theirs', cell: (row) => (row.at_least_every == null ? format.NONE : row.at_least_every === 1 ? 'each' : `1 of ${row.at_least_every}`) },
    { label: 'Flows', cell: (row) => (row.flows?.length ? row.flows.map((count) => format.number(count)).join(', ') : format.NONE) },
  ];
  const states = queue.jobs?.states ?? {};
  return html`<${Card} title=${html`Queue ${format.visible(queue.name, 60)}`} note=${queue.paused ? html`<${Badge} tone="warn" icon="pause">Paused<//>` : html`<${Badge} tone="good">Dispatching<//>`}
    actions=${html`<button type="button" class=${queue.paused ? 'button primary' : 'button'} onClick=${pause}>${queue.paused ? 'Resume' : 'Pause'}</button>`} flush>
    <div class="card-body"><${Figures} of=${[
      { label: 'Waiting', value: format.number(waiting), note: `of ${format.number(queue.max_waiting)}`, tone: waiting * 10 >= queue.max_waiting * 8 ? 'bad' : '' },
      { label: 'Oldest', value: oldest ? format.duration(oldest) : format.NONE, note: `rejected after ${format.duration(queue.max_wait_ms)}`, tone: oldest * 2 > queue.max_wait_ms ? 'bad' : '' },
      ...(queue.jobs ? [
        { label: 'Jobs to do', value: format.number((states.ready ?? 0) + (states.retry_wait ?? 0) + (states.leased ?? 0)), note: `${format.number(states.leased ?? 0)} running of ${queue.jobs.workers}` },
        { label: 'Oldest job', value: queue.jobs.oldest_ms == null ? format.NONE : format.coarse(queue.jobs.oldest_ms), note: `${format.bytes(queue.jobs.bytes)} stored` },
        { label: 'Dead jobs', value: format.number(states.dead ?? 0), tone: states.dead ? 'bad' : '' },
      ] : []),
    ]} /></div>
    <${Table} label=${`Classes of queue ${format.visible(queue.name, 60)}`} columns=${columns} rows=${queue.classes} rowKey=${(row) => row.name} /><//>`;
}

function Drain({ providers }) {
  const rows = providers.filter((one) => one.waiting > 0 || one.drain_rate != null);
  const left = (row) => (row.drain_rate > 0 && row.waiting > 0 ? format.duration((row.waiting / row.drain_rate) * 1000) : format.NONE);
  const columns = [
    { label: 'Provider', lead: true, cell: (row) => html`<strong><${Name}>${row.name}<//></strong>` },
    { label: 'Waiting', num: true, cell: (row) => format.number(row.waiting) },
    { label: 'Drain rate', num: true, help: 'Waiting requests that are dispatched in a second', cell: (row) => (row.drain_rate == null ? format.NONE : `${format.compact(row.drain_rate)}/s`) },
    { label: 'Time to drain', num: true, cell: left },
  ];
  return html`<${Card} title="Waiting by provider" flush><${Table} label="Waiting by provider" columns=${columns} rows=${rows} rowKey=${(row) => row.name} empty="No request waits for a provider" /><//>`;
}

function History() {
  const series = usePoll('/api/series?metric=queue_waiting_requests&by=queue,class&from=30m', 5000);
  if (!series.data?.series.length) return null;
  const lines = series.data.series.map(({ labels, values }) => ({ label: [labels.queue, labels.class].filter(Boolean).join(' '), values }));
  return html`<${Card} title="Waiting in the last 30 minutes"><${Chart} label="Waiting requests by class" at=${series.data.at} series=${lines} show=${format.compact} height=${150} /><//>`;
}

function Jobs({ queues, onChange }) {
  const { query } = useRoute();
  const state = query.get('state') ?? '';
  const before = query.get('before') ?? '';
  const [chosen, setChosen] = useState(() => new Set());
  const [open, setOpen] = useState(null);
  useEffect(() => setChosen(new Set()), [state, before]);
  const jobs = usePoll(`/api/queue/jobs?limit=50${state ? `&state=${state}` : ''}${before ? `&before=${before}` : ''}`);
  const totals = {};
  for (const one of queues) for (const [name, count] of Object.entries(one.jobs?.states ?? {})) totals[name] = (totals[name] ?? 0) + count;
  const options = [['', 'All'], ...Object.entries(STATES).map(([name, [, , word]]) => [name, `${word}${totals[name] ? ` ${format.number(totals[name])}` : ''}`])];
  const dead = queues.filter((one) => one.jobs?.states?.dead);
  const bulk = (queue, action, verb, text) => () => onChange({
    title: `${verb} of queue ${format.visible(queue.name, 60)}`, verb, danger: action !== 'requeue', withDuration: false, text, done: 'Done',
    run: (body) => change(`/api/queue/${action}/${encodeURIComponent(queue.name)}${action === 'purge' ? '?state=dead' : ''}`, body),
  });
  return html`<${Card} title="Jobs" flush>
    <div class="toolbar"><${Choice} label="State of jobs" value=${state} onChange=${(value) => replaceQuery({ state: value, before: '' })} options=${options} />
      ${dead.map((queue) => html`<span class="row" key=${queue.name}><button type="button" class="button" onClick=${bulk(queue, 'requeue', 'Retry all dead jobs', 'Each dead job runs again from the start.')}>Retry all dead${queues.length > 1 ? ` of ${format.visible(queue.name, 30)}` : ''}</button>
        <button type="button" class="button danger" onClick=${bulk(queue, 'purge', 'Delete dead jobs', 'Dead jobs are deleted with their requests. This cannot be undone.')}>Delete dead</button></span>`)}</div>
    <${Loaded} of=${jobs}>${(data) => html`<${JobTable} jobs=${data.jobs} chosen=${chosen} setChosen=${setChosen} onOpen=${setOpen} />
      ${(before || data.next != null) && html`<div class="more row">${before && html`<button type="button" class="button" onClick=${() => replaceQuery({ before: '' })}>Newest</button>`}
        ${data.next != null && html`<button type="button" class="button" onClick=${() => replaceQuery({ before: data.next })}>Older</button>`}</div>`}`}<//>
  <//>${open && html`<${JobDialog} id=${open} onClose=${() => setOpen(null)} />`}`;
}

const canRetry = (job) => job.state === 'dead' || job.state === 'retry_wait';
const canCancel = (job) => ['ready', 'retry_wait', 'leased'].includes(job.state);

/** Makes one change for each job; the result is a toast. */
async function changeJobs(jobs, action) {
  const results = await Promise.allSettled(jobs.map((job) => change(`/api/queue/jobs/${action}/${encodeURIComponent(job.id)}`)));
  const failed = results.filter((result) => result.status === 'rejected');
  const done = jobs.length - failed.length;
  if (done) toast(`${format.plural(done, 'job')} ${action === 'retry' ? 'will run again' : 'cancelled'}`);
  if (failed.length) toast(`${format.plural(failed.length, 'job')} not changed: ${failed[0].reason.message}`, 'bad');
  refresh();
}

function JobTable({ jobs, chosen, setChosen, onOpen }) {
  const selected = jobs.filter((job) => chosen.has(job.id));
  const toggle = (id) => {
    const copy = new Set(chosen);
    if (!copy.delete(id)) copy.add(id);
    setChosen(copy);
  };
  const all = jobs.length > 0 && selected.length === jobs.length;
  const act = async (action, test) => {
    await changeJobs(selected.filter(test), action);
    setChosen(new Set());
  };
  const columns = [
    { label: 'Select', hidden: true, cell: (row) => html`<input type="checkbox" class="check" aria-label=${`Select job ${row.id}`} checked=${chosen.has(row.id)} onChange=${() => toggle(row.id)} />` },
    { label: 'Job', lead: true, cell: (row) => html`<button type="button" class="link-button" onClick=${() => onOpen(row.id)}>${row.method} <${Name} longest=${60}>${row.path}<//></button><span class="sub mono">${row.id}</span>` },
    { label: 'State', cell: (row) => jobBadge(row) },
    { label: 'Class', cell: (row) => html`<${Name}>${row.class ?? format.NONE}<//><span class="sub">route <${Name}>${row.route}<//></span>` },
    { label: 'Attempts', num: true, help: 'Failed runs; runs that started', cell: (row) => html`${format.plural(row.attempts, 'failed', 'failed')}<span class="sub">${format.plural(row.deliveries, 'run')}</span>` },
    { label: 'Accepted', cell: (row) => html`<${Ago} at=${row.accepted} />` },
    { label: 'Next run', blank: (row) => !row.due, cell: (row) => (row.due ? html`<${Due} at=${row.due} />` : format.NONE) },
    { label: 'Last error', full: true, blank: (row) => !row.error, cell: (row) => (row.error ? html`<span class="small"><${Name} longest=${140}>${row.error}<//></span>` : html`<span class="muted">${format.NONE}</span>`) },
  ];
  return html`<div class="bulk"><label class="row"><input type="checkbox" class="check" checked=${all} disabled=${!jobs.length} onChange=${() => setChosen(new Set(all ? [] : jobs.map((job) => job.id)))} /> All on this page</label>
      <span class="muted">${selected.length} selected</span>
      <button type="button" class="button" disabled=${!selected.some(canRetry)} onClick=${() => act('retry', canRetry)}>Retry</button>
      <button type="button" class="button danger" disabled=${!selected.some(canCancel)} onClick=${() => act('cancel', canCancel)}>Cancel jobs</button></div>
    <${Table} label="Jobs" columns=${columns} rows=${jobs} rowKey=${(row) => row.id} isSelected=${(row) => chosen.has(row.id)} empty="No such job" />`;
}

function jobBadge({ state }) {
  const [tone, icon, word] = STATES[state] ?? ['info', 'info', state];
  return html`<${Badge} tone=${tone} icon=${icon}>${word}<//>`;
}

function Due({ at }) {
  const ms = Date.parse(at) - Date.now();
  return html`<span class="nowrap">${ms > 0 ? `in ${format.coarse(ms)}` : 'now'}</span><span class="sub">${format.clockTime(at)}</span>`;
}

function JobDialog({ id, onClose }) {
  const job = usePoll(`/api/queue/jobs/${encodeURIComponent(id)}`);
  const [error, setError] = useState(null);
  const act = (action) => async () => {
    setError(null);
    try {
      await change(`/api/queue/jobs/${action}/${encodeURIComponent(id)}`);
      toast(action === 'retry' ? 'The job will run again' : 'The job is cancelled');
    } catch (failure) {
      setError(failure);
    }
  };
  const data = job.data;
  return html`<${Dialog} title=${`Job ${format.visible(id, 40)}`} wide onClose=${onClose} foot=${html`
      <button type="button" class="button danger" disabled=${!data || !canCancel(data)} onClick=${act('cancel')}>Cancel job</button>
      <button type="button" class="button" disabled=${!data || !canRetry(data)} onClick=${act('retry')}>Retry</button>
      <button type="button" class="button primary" onClick=${onClose}>Close</button>`}>
    <${Loaded} of=${job}>${(one) => html`<div class="row">${jobBadge(one)}<span>${one.method} <${Name}>${one.path}<//></span></div>
      <${Facts} of=${[
        ['Queue', html`<${Name}>${one.queue}<//>`], ['Route', html`<${Name}>${one.route}<//>`], ['Class', one.class && html`<${Name}>${one.class}<//>`], ['Size', format.bytes(one.bytes)],
        ['Runs', `${one.deliveries} started, ${one.attempts} failed`], ['Accepted', html`<${Time} at=${one.accepted} />`], ['Next run', one.due && html`<${Time} at=${one.due} />`],
        ['Expires', one.expires && html`<${Time} at=${one.expires} />`], ['Finished', one.finished && html`<${Time} at=${one.finished} />`],
        ['Last error', one.error && html`<${Name} longest=${1000}>${one.error}<//>`],
        ['Callback', one.callback && `${format.visible(one.callback.url, 200)}: ${format.visible(one.callback.state, 40)}, ${one.callback.attempts} attempts`],
      ]} />`}<//><${Failure} error=${error} /><//>`;
}
