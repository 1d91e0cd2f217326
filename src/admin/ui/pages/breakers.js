// Breakers: their state, cause and history, holds, and manual changes.
import { html, useMemo, useState } from '../dom.js';
import { change, useNow, usePoll } from '../api.js';
import { Ago, Badge, Card, ChangeDialog, Choice, Loaded, Name, Options, Page, Table } from '../parts.js';
import { replaceQuery, useRoute } from '../router.js';
import { causeOf, stateOf } from '../events.js';
import * as format from '../format.js';

const RANGES = [['1h', '1 h', 3600], ['6h', '6 h', 6 * 3600], ['24h', '24 h', 24 * 3600]];

const keyOf = ({ provider, endpoint, model }) => [provider, endpoint, model].filter(Boolean).join('/');
const pathOf = (key) => key.split('/').map(encodeURIComponent).join('/');

export function Breakers() {
  const breakers = usePoll('/api/circuit-breakers');
  const status = usePoll('/api/status');
  const isFleet = breakers.data?.breakers.some((breaker) => breaker.fleet);
  const fleet = usePoll(isFleet ? '/api/fleet' : null);
  const events = usePoll('/api/events?kind=breaker&limit=1000', 10_000);
  const [dialog, setDialog] = useState(null);
  const range = useRoute().query.get('range') ?? '24h';
  return html`<${Page} title="Breakers" intro="A breaker stops attempts at an endpoint that fails, and probes it until it works again."
    actions=${html`<${Choice} label="Range of the timelines" value=${range} onChange=${(value) => replaceQuery({ range: value })} options=${RANGES.map(([value, label]) => [value, label])} />`}>
    <${Loaded} of=${breakers}>${(data) => html`
      <${BreakerTable} breakers=${data.breakers} events=${events.data?.events ?? data.events} range=${range} fleet=${fleet.data} uptime=${status.data?.uptime_seconds} onChange=${(breaker) => setDialog({ kind: 'breaker', breaker })} />
      ${data.overrides.length > 0 && html`<${Overrides} overrides=${data.overrides} onReset=${(key) => setDialog({ kind: 'reset', key, what: 'override' })} />`}
      <${Holds} held=${data.held} onReset=${(key) => setDialog({ kind: 'reset', key, what: 'hold' })} />
      <${Drains} providers=${status.data?.providers ?? []} onDrain=${(provider) => setDialog({ kind: 'drain', provider })} />`}<//>
    <${Dialogs} dialog=${dialog} onClose=${() => setDialog(null)} /><//>`;
}

const STATES = { closed: ['good', 'good', 'Closed'], open: ['bad', 'bad', 'Open'], half_open: ['warn', 'half', 'Half-open'] };

function BreakerTable({ breakers, events, range, fleet, uptime, onChange }) {
  const now = useNow();
  const seconds = RANGES.find(([value]) => value === range)?.[2] ?? 86_400;
  const byKey = useMemo(() => {
    const found = new Map();
    for (const event of events) {
      if (event.kind !== 'breaker') continue;
      if (!found.has(event.key)) found.set(event.key, []);
      found.get(event.key).push(event);
    }
    return found;
  }, [events]);
  const ofFleet = (key) => fleet?.breakers?.find((breaker) => breaker.key === key);
  const order = { open: 0, half_open: 1, closed: 2 };
  const rows = [...breakers].sort((a, b) => order[a.state] - order[b.state] || keyOf(a).localeCompare(keyOf(b)));
  const columns = [
    { label: 'Breaker', lead: true, cell: (row) => html`<strong><${Name} longest=${60}>${row.provider}<//></strong><span class="sub"><${Name} longest=${80}>${row.endpoint}<//>${row.model && html`, model <${Name} longest=${60}>${row.model}<//>`}</span>` },
    { label: 'State', cell: (row) => html`<${BreakerState} breaker=${row} />` },
    { label: 'Cause', cell: (row) => cause(byKey.get(keyOf(row))?.[0]) },
    { label: 'Next probe', num: true, blank: (row) => row.state === 'closed', cell: (row) => row.retry_in_ms == null ? format.NONE : html`in ${format.coarse(row.retry_in_ms)}<span class="sub">at ${format.clockTime(new Date(now + row.retry_in_ms))}</span>` },
    { label: 'Trips', num: true, help: 'Consecutive trips without a recovery', cell: (row) => html`${format.number(row.trips)}${row.traffic_share < 1 && html`<span class="sub">${format.percent(row.traffic_share)} of traffic</span>`}` },
    fleet && { label: 'Votes and probes', blank: (row) => !ofFleet(keyOf(row)), cell: (row) => votes(ofFleet(keyOf(row))) },
    { label: `Last ${seconds / 3600} h`, full: true, cell: (row) => html`<${Timeline} breaker=${row} events=${byKey.get(keyOf(row)) ?? []} seconds=${seconds} uptime=${uptime} now=${now} />` },
    { label: 'Change', hidden: true, cell: (row) => html`<button type="button" class="button" onClick=${() => onChange(row)}>Change<span class="visually-hidden"> breaker ${format.visible(keyOf(row), 80)}</span></button>` },
  ].filter(Boolean);
  return html`<${Card} title="Circuit breakers" note=${format.plural(breakers.length, 'breaker')} flush>
    <div class="toolbar"><span class="key-of"><span><i class="closed"></i>closed</span><span><i class="open"></i>open</span><span><i class="half_open"></i>half-open</span><span>blank: not known</span></span></div>
    <${Table} label="Circuit breakers" columns=${columns} rows=${rows} rowKey=${keyOf} empty="No breaker has been used yet" /><//>`;
}

function BreakerState({ breaker }) {
  const [tone, icon, word] = STATES[breaker.state] ?? ['info', 'info', breaker.state];
  const { override } = breaker;
  return html`<${Badge} tone=${breaker.mode === 'shadow' ? 'info' : tone} icon=${icon}>${word}<//>${breaker.mode === 'shadow' && html`<span class="sub">shadow: rejects nothing</span>`}
    ${override && html`<span class="sub">${manual(override)}</span>`}`;
}

/** `by hand (open) for 9 min more, ann: key rotation`. */
function manual({ state, remaining_ms, by, reason, fleet }) {
  const lasts = remaining_ms == null ? 'until undone' : `for ${format.coarse(remaining_ms)} more`;
  const note = [by, reason].filter(Boolean).map((text) => format.visible(text, 120)).join(': ');
  return `manually ${state}${fleet ? ' on the fleet' : ''}, ${lasts}${note ? `, ${note}` : ''}`;
}

function cause(event) {
  if (!event) return html`<span class="muted">${format.NONE}</span>`;
  return html`${format.visible((causeOf(event) ?? event.detail).replaceAll('_', ' '), 160)}<span class="sub"><${Ago} at=${event.at} /></span>`;
}

function votes(shared) {
  if (!shared) return format.NONE;
  return html`${format.plural(shared.votes.length, 'vote')}<span class="sub">${format.visible(shared.votes.join(', '), 120)}</span>${shared.needed > 0 && html`<span class="sub">${shared.ok} of ${shared.needed} probes, ${shared.leases.length} running</span>`}`;
}

/** The times at which a breaker had each state, oldest first. */
function intervals(breaker, events, from, to, began) {
  const found = [];
  let end = to;
  let state = breaker.state;
  for (const event of events) {
    const at = Date.parse(event.at);
    const became = stateOf(event);
    if (became && STATES[became]) state = became;
    if (at < end) found.push({ state, start: Math.max(at, from), end });
    end = Math.min(end, at);
    state = /^(\w+) ->/.exec(event.detail ?? '')?.[1] ?? null;
    if (end <= from) break;
  }
  // Before the first event that is known, the state is known as long as the process runs.
  const start = Math.max(from, began);
  if (end > start && state) found.push({ state, start, end });
  return found.filter((one) => STATES[one.state] && one.end > one.start).reverse();
}

function Timeline({ breaker, events, seconds, uptime, now }) {
  const from = now - seconds * 1000;
  const parts = intervals(breaker, events, from, now, now - (uptime ?? 0) * 1000);
  const opened = events.filter((event) => stateOf(event) === 'open' && Date.parse(event.at) >= from).length;
  const openFor = parts.filter((part) => part.state === 'open').reduce((sum, part) => sum + part.end - part.start, 0);
  const words = opened ? `opened ${opened === 1 ? 'once' : `${opened} times`}, open for ${format.coarse(openFor)}` : 'never opened';
  return html`<div class="timeline" role="img" aria-label=${`Last ${seconds / 3600} hours: ${words}`} title=${words}>${parts.map((part) => html`<i key=${`${part.start} ${part.state}`} class=${part.state}
    title=${`${STATES[part.state][2]} ${format.clockTime(new Date(part.start))} to ${format.clockTime(new Date(part.end))}`}
    style=${{ left: `${((part.start - from) / (seconds * 1000)) * 100}%`, width: `${((part.end - part.start) / (seconds * 1000)) * 100}%` }}></i>`)}</div>
    <div class="axis" aria-hidden="true"><span>${words}</span><span>now</span></div>`;
}

function Overrides({ overrides, onReset }) {
  const columns = [
    { label: 'Key', lead: true, cell: (row) => html`<strong><${Name}>${row.key}<//></strong>` },
    { label: 'Forced to', cell: (row) => html`<${Badge} tone="warn" icon="pause">${row.state}<//>${row.fleet && html`<span class="sub">on every host</span>`}` },
    { label: 'Remaining', num: true, cell: (row) => (row.remaining_ms == null ? 'until undone' : format.coarse(row.remaining_ms)) },
    { label: 'By', cell: (row) => html`<${Name}>${row.by ?? format.NONE}<//>` },
    { label: 'Reason', cell: (row) => html`<${Name}>${row.reason ?? format.NONE}<//>` },
    { label: 'Change', hidden: true, cell: (row) => html`<button type="button" class="button" onClick=${() => onReset(row.key)}>Remove<span class="visually-hidden"> the override of ${format.visible(row.key, 80)}</span></button>` },
  ];
  return html`<${Card} title="Manual overrides" flush><${Table} label="Manual overrides" columns=${columns} rows=${overrides} rowKey=${(row) => row.key} /><//>`;
}

const HOLD_REASONS = { retry_after: 'the provider named the time', backoff: 'throttled without a time', credential: 'the credential was rejected', slow_start: 'slow start after a hold', fleet: 'begun by another host' };

function Holds({ held, onReset }) {
  const now = useNow();
  const columns = [
    { label: 'Credential or model', lead: true, cell: (row) => html`<strong><${Name}>${row.key}<//></strong>` },
    { label: 'Until', cell: (row) => html`<span class="nowrap">${format.clockTime(new Date(now + row.remaining_ms))}</span><span class="sub">${format.coarse(row.remaining_ms)} more</span>` },
    { label: 'Why', cell: (row) => html`${HOLD_REASONS[row.reason] ?? format.visible(row.reason, 60)}<span class="sub">${format.visible([row.status, row.code].filter(Boolean).join(' '), 80)}</span>` },
    { label: 'Since', cell: (row) => html`<${Ago} at=${row.since} />` },
    { label: 'Change', hidden: true, cell: (row) => html`<button type="button" class="button" onClick=${() => onReset(row.key)}>End hold<span class="visually-hidden"> of ${format.visible(row.key, 80)}</span></button>` },
  ];
  return html`<${Card} title="Holds" note="Credentials that rest after a 429 or a rejection" flush><${Table} label="Holds" columns=${columns} rows=${held} rowKey=${(row) => row.key} empty="No hold now" /><//>`;
}

function Drains({ providers, onDrain }) {
  const columns = [
    { label: 'Provider', lead: true, cell: (row) => html`<strong><${Name}>${row.name}<//></strong>` },
    { label: 'State', cell: (row) => (row.override ? html`<${Badge} tone="warn" icon="pause">Drained<//><span class="sub">${manual(row.override)}</span>` : html`<${Badge} tone="good">In use<//>`) },
    { label: 'In flight', num: true, cell: (row) => format.number(row.in_flight) },
    { label: 'Change', hidden: true, cell: (row) => html`<div class="actions"><button type="button" class="button" onClick=${() => onDrain(row)}>${row.override ? 'Use again' : 'Drain'}<span class="visually-hidden"> ${format.visible(row.name, 80)}</span></button></div>` },
  ];
  return html`<${Card} title="Drain a provider" note="No new attempts; those in flight finish" flush><${Table} label="Providers" columns=${columns} rows=${providers} rowKey=${(row) => row.name} /><//>`;
}

function Dialogs({ dialog, onClose }) {
  if (!dialog) return null;
  if (dialog.kind === 'breaker') return html`<${BreakerDialog} breaker=${dialog.breaker} onClose=${onClose} />`;
  if (dialog.kind === 'drain') {
    const { name, override } = dialog.provider;
    const action = override ? 'undrain' : 'drain';
    return html`<${ChangeDialog} title=${`${override ? 'Use' : 'Drain'} ${format.visible(name, 60)}${override ? ' again' : ''}`} verb=${override ? 'Use again' : 'Drain'} danger=${!override} withDuration=${!override}
      text=${override ? 'New attempts are sent to it again.' : 'No new attempts are sent to it; attempts in flight finish.'} onClose=${onClose} done=${override ? 'In use again' : 'Drained'}
      run=${(body) => change(`/api/providers/${action}/${encodeURIComponent(name)}`, body)} />`;
  }
  const isHold = dialog.what === 'hold';
  return html`<${ChangeDialog} title=${isHold ? 'End this hold' : 'Remove this override'} verb=${isHold ? 'End hold' : 'Remove'} withDuration=${false} onClose=${onClose} done=${isHold ? 'The hold has ended' : 'The override is removed'}
    text=${`${format.visible(dialog.key, 200)}: breakers under this key close with an empty history, and holds under it end.`} run=${(body) => change(`/api/circuit-breakers/reset/${pathOf(dialog.key)}`, body)} />`;
}

const ACTIONS = [
  ['open', 'Open', 'Rejects all attempts. With a duration, a probe follows after it.'],
  ['close', 'Close', 'Admits all attempts, failures or not.'],
  ['shadow', 'Shadow', 'Counts failures and rejects nothing.'],
  ['reset', 'Reset', 'Removes the override, closes the breaker with an empty history and ends holds.'],
];

function BreakerDialog({ breaker, onClose }) {
  const [action, setAction] = useState(breaker.override || breaker.state !== 'closed' ? 'reset' : 'open');
  const [scope, setScope] = useState(keyOf(breaker));
  const [fleet, setFleet] = useState(false);
  const scopes = [
    breaker.model && [keyOf(breaker), `Model ${format.visible(breaker.model, 60)}`],
    [`${breaker.provider}/${breaker.endpoint}`, `Endpoint ${format.visible(breaker.endpoint, 60)}`],
    [breaker.provider, `All of ${format.visible(breaker.provider, 60)}`],
  ].filter(Boolean);
  const [, verb] = ACTIONS.find(([name]) => name === action);
  return html`<${ChangeDialog} title=${`Change the breaker of ${format.visible(keyOf(breaker), 80)}`} verb=${verb} danger=${action === 'open'} withDuration=${action !== 'reset'} onClose=${onClose}
    done=${`${verb}: done`} run=${(body) => change(`/api/circuit-breakers/${action}/${pathOf(scope)}`, fleet ? { ...body, fleet } : body)}>
    <${Options} label="Action" options=${ACTIONS} value=${action} onChange=${setAction} />
    <${Options} label="For" options=${scopes} value=${scope} onChange=${setScope} />
    ${breaker.fleet && html`<label class="row"><input type="checkbox" class="check" checked=${fleet} onChange=${(event) => setFleet(event.target.checked)} /> On every host of the fleet</label>`}
  <//>`;
}
