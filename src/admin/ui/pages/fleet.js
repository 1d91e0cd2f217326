// Fleet: hosts and their policies, and the breakers, holds, limits and overrides that they share.
import { html } from '../dom.js';
import { usePoll } from '../api.js';
import { Ago, Badge, Bar, Card, Command, Facts, Loaded, Name, Page, Table, Time, Verdict } from '../parts.js';
import * as format from '../format.js';

export function Fleet() {
  const fleet = usePoll('/api/fleet');
  const isAlone = fleet.error?.status === 404 && fleet.data === undefined;
  return html`<${Page} title="Fleet" intro="Hosts that share breakers, holds, limits and jobs through Redis.">
    ${isAlone ? html`<${Alone} />` : html`<${Loaded} of=${fleet}>${(data) => html`<${Answer} fleet=${data} /><${Host} fleet=${data} /><${Hosts} fleet=${data} />
      <${Breakers} fleet=${data} /><${Shared} fleet=${data} /><${Transitions} rows=${data.transitions} />`}<//>`}<//>`;
}

function Alone() {
  return html`<section class="card"><div class="state"><strong>This host is in no fleet</strong>
    <p>Its breakers, holds and limits are its own. Hosts that are started with the same Redis and the same name share them, and each still decides by itself while Redis is away.</p>
    <${Command}>outrigger run --redis redis://10.0.0.5:6379 --fleet production<//></div></section>`;
}

function Answer({ fleet }) {
  const open = fleet.breakers.filter((breaker) => breaker.state === 'open').length;
  if (!fleet.attached) return html`<${Verdict} tone="bad">Redis does not respond: this host decides alone, with its share of each limit.<//>`;
  if (fleet.policies_differ) return html`<${Verdict} tone="warn">${format.plural(fleet.hosts.length, 'host')} share their state, but their policies differ.<//>`;
  return html`<${Verdict} tone=${open ? 'warn' : 'good'}>${format.plural(fleet.hosts.length, 'host')} share their state and have the same policy${open ? `; ${format.plural(open, 'shared breaker is', 'shared breakers are')} open` : ''}.<//>`;
}

function Host({ fleet }) {
  return html`<${Card} title="This host"><${Facts} of=${[
    ['Fleet', html`<${Name}>${fleet.fleet}<//>`], ['Host', html`<${Name} mono>${fleet.host}<//>`],
    ['Redis', html`<${Badge} tone=${fleet.attached ? 'good' : 'bad'}>${fleet.attached ? 'Responds' : 'Does not respond'}<//> <${Name} mono>${fleet.redis}<//>`],
    [fleet.attached ? 'Attached' : 'Detached', html`<${Ago} at=${fleet.since} />`],
  ]} /><//>`;
}

function Hosts({ fleet }) {
  const mine = fleet.hosts.find((host) => host.this_host)?.policy;
  const columns = [
    { label: 'Host', lead: true, cell: (row) => html`<strong><${Name}>${row.id}<//></strong>${row.this_host && html` <${Badge}>This host<//>`}` },
    { label: 'Policy', cell: (row) => html`<code>${format.visible(row.policy, 16)}</code>${mine && row.policy !== mine && html`<div><${Badge} tone="warn">Differs<//></div>`}` },
    { label: 'Version', cell: (row) => format.visible(row.version, 40) },
    { label: 'Up since', cell: (row) => html`<${Ago} at=${row.since} />` },
  ];
  return html`<${Card} title="Hosts" note=${fleet.policies_differ ? html`<${Badge} tone="warn">Policies differ<//>` : format.plural(fleet.hosts.length, 'host')} flush>
    <${Table} label="Hosts" columns=${columns} rows=${fleet.hosts} rowKey=${(row) => row.id} empty="No host is known" /><//>`;
}

const STATES = { open: ['bad', 'bad', 'Open'], half_open: ['warn', 'half', 'Half open'], closed: ['good', 'good', 'Closed'] };

function breakerState(state) {
  const [tone, icon, word] = STATES[state] ?? ['info', 'info', format.words(state)];
  return html`<${Badge} tone=${tone} icon=${icon}>${word}<//>`;
}

const hosts = (names) => (names.length ? names.map((name) => format.visible(name, 60)).join(', ') : format.NONE);

function Breakers({ fleet }) {
  const columns = [
    { label: 'Breaker', lead: true, cell: (row) => html`<div class="wide-cell"><strong><${Name}>${row.key}<//></strong></div>` },
    { label: 'State', cell: (row) => html`${breakerState(row.state)}${row.remaining_ms != null && html`<span class="sub nowrap">${format.coarse(row.remaining_ms)} more</span>`}${row.state === 'half_open' && html`<span class="sub nowrap">${row.ok} of ${row.needed} probes</span>`}` },
    { label: 'Here', help: 'State of this host\'s own breaker', cell: (row) => (row.local_state === row.state ? html`<span class="muted">the same</span>` : breakerState(row.local_state)) },
    { label: 'Votes to open', cell: (row) => hosts(row.votes) },
    { label: 'Probes', help: 'Leases of probes in progress', cell: (row) => (row.leases.length ? html`<ul>${row.leases.map((lease) => html`<li>${format.visible(lease.host, 60)} <span class="muted">${format.duration(lease.remaining_ms)}</span></li>`)}</ul>` : format.NONE) },
    { label: 'Trips', num: true, help: 'Consecutive trips without a recovery', cell: (row) => format.number(row.trips) },
    { label: 'Written by', blank: (row) => !row.writer, cell: (row) => (row.writer ? html`<${Name} longest=${60}>${row.writer}<//>` : format.NONE) },
  ];
  return html`<${Card} title="Shared breakers" flush><${Table} label="Shared breakers" columns=${columns} rows=${fleet.breakers} rowKey=${(row) => row.key} empty="No breaker is shared" /><//>`;
}

function Shared({ fleet }) {
  const holds = [
    { label: 'Held', lead: true, cell: (row) => html`<${Name}>${row.key}<//>` },
    { label: 'Ends in', num: true, cell: (row) => format.duration(row.remaining_ms) },
  ];
  const limits = [
    { label: 'Provider', lead: true, cell: (row) => html`<strong><${Name}>${row.provider}<//></strong>` },
    { label: 'Limit of the fleet', num: true, cell: (row) => `${format.compact(row.rate)} ${row.kind}/s` },
    { label: 'Share of this host', num: true, help: 'While it is detached', cell: (row) => html`${format.compact(row.share)}/s <span class="sub bar-line"><${Bar} share=${row.rate ? row.share / row.rate : 0} /></span>` },
    { label: 'Granted and unused', num: true, cell: (row) => format.compact(row.available) },
  ];
  const overrides = [
    { label: 'Key', lead: true, cell: (row) => html`<strong><${Name}>${row.key}<//></strong>` },
    { label: 'Forced', cell: (row) => format.words(row.state) },
    { label: 'Ends in', num: true, cell: (row) => (row.remaining_ms == null ? 'when undone' : format.coarse(row.remaining_ms)) },
    { label: 'By', cell: (row) => format.visible(row.by ?? format.NONE, 60) },
    { label: 'Reason', full: true, cell: (row) => format.visible(row.reason ?? format.NONE, 300) },
  ];
  return html`${fleet.overrides.length > 0 && html`<${Card} title="Overrides on every host" flush><${Table} label="Overrides" columns=${overrides} rows=${fleet.overrides} rowKey=${(row) => row.key} /><//>`}
    <${Card} title="Shared limits" flush><${Table} label="Shared limits" columns=${limits} rows=${fleet.limits} rowKey=${(row) => `${row.provider} ${row.kind}`} empty="No provider has a rate limit" /><//>
    <${Card} title="Shared holds" flush><${Table} label="Shared holds" columns=${holds} rows=${fleet.holds} rowKey=${(row) => row.key} empty="No credential is on hold" /><//>`;
}

function Transitions({ rows }) {
  const columns = [
    { label: 'Time', cell: (row) => html`<${Time} at=${row.at} />` },
    { label: 'Breaker', lead: true, cell: (row) => html`<div class="wide-cell"><${Name}>${row.key}<//></div>` },
    { label: 'State', cell: (row) => breakerState(row.state) },
    { label: 'By', cell: (row) => html`<${Name} longest=${60}>${row.by}<//>` },
    { label: 'Reason', cell: (row) => format.words(row.reason ?? format.NONE) },
  ];
  return html`<${Card} title="Transitions" note="Newest first" flush><${Table} label="Transitions" columns=${columns} rows=${[...rows].reverse()} rowKey=${(row) => `${row.epoch} ${row.key} ${row.at}`} empty="No transition yet" /><//>`;
}
