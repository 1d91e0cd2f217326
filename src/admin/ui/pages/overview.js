// Overview: the state in one sentence, what is wrong now, and a row for each provider.
import { html, useMemo, useState } from '../dom.js';
import { useNow, usePoll } from '../api.js';
import { Ago, Badge, Bar, Card, Command, Figures, Icon, Loaded, Name, Page, Source, State, Table } from '../parts.js';
import { Sparkline } from '../charts.js';
import { link } from '../router.js';
import { marks } from '../events.js';
import * as format from '../format.js';

const SERIES = '/api/series?metric=attempts&by=provider,class&from=30m&step=10s';

export function Overview() {
  const status = usePoll('/api/status');
  const breakers = usePoll('/api/circuit-breakers');
  const series = usePoll(SERIES, 5000);
  const events = usePoll('/api/events?kind=policy,breaker,degradation&limit=500', 10_000);
  return html`<${Page} title="Overview"><${Loaded} of=${status}>${(data) => html`<${Now} status=${data} />
    <${Traffic} status=${data} />
    <${Providers} status=${data} breakers=${breakers.data?.breakers ?? []} series=${series.data} events=${events.data?.events ?? []} />
    <${Routes} routes=${data.routes} /><${Recommendations} />`}<//><//>`;
}

/** Problems that are shown at first. */
const SHOWN = 8;

function Now({ status }) {
  const [all, setAll] = useState(false);
  const { problems, summary } = status;
  const worst = problems.some((problem) => problem.severity === 'critical') ? 'bad' : problems.length ? 'warn' : 'good';
  const sentence = format.sentence(summary, problems[0]?.subject);
  return html`<p class="summary" id="summary" role="status"><span class=${`tone-${worst}`}><${Icon} name=${worst} size=${22} /></span><span>${format.visible(sentence, 600)}</span></p>
    ${problems.length > 0 && html`<${Card} title="Problems now" note=${format.plural(problems.length, 'problem')} flush>
      <ul class="problems">${problems.slice(0, all ? problems.length : SHOWN).map((problem) => html`<${Problem} key=${`${problem.code} ${problem.subject}`} problem=${problem} />`)}</ul>
      ${!all && problems.length > SHOWN && html`<div class="more"><button type="button" class="button" onClick=${() => setAll(true)}>Show ${problems.length - SHOWN} more</button></div>`}<//>`}`;
}

const PAGE_OF = {
  breaker_open: 'breakers', held: 'breakers', credential_rejected: 'breakers', credential_expiring: 'policies', provider_drained: 'breakers',
  queue_paused: 'queue', queue_filling: 'queue', dead_jobs: 'queue', retry_budget_spent: 'retries', route_failing: 'requests', degraded: 'degradation',
  regression: 'benchmarks', host_regression: 'benchmarks', fleet_detached: 'fleet', policies_differ: 'fleet', policy_rejected: 'policies',
};

function Problem({ problem }) {
  const isCritical = problem.severity === 'critical';
  const page = PAGE_OF[problem.code];
  return html`<li class="problem"><div><${Badge} tone=${isCritical ? 'bad' : 'warn'} icon=${isCritical ? 'bad' : 'warn'}>${isCritical ? 'Critical' : 'Warning'}<//></div>
    <div><h3>${format.visible(format.sentence(problem.what, problem.subject), 500)}</h3>
      <p>${problem.why && html`<span>Why: ${format.visible(format.sentence(problem.why), 500)} </span>`}${problem.since && html`<span>Since <${Ago} at=${problem.since} />. </span>`}${page && html`<a href=${link(page)}>Show</a>`}</p>
      <${Command}>${problem.command}<//></div></li>`;
}

function Traffic({ status }) {
  const { rates } = status;
  const inFlight = status.providers.reduce((sum, provider) => sum + provider.in_flight, 0);
  const waiting = status.providers.reduce((sum, provider) => sum + provider.waiting, 0);
  const now = [
    { label: 'In flight', value: format.number(inFlight), note: `${format.plural(status.connections, 'connection')}` },
    { label: 'Waiting', value: format.number(waiting), note: `${format.bytes(status.buffered_bytes)} buffered` },
  ];
  if (!rates) return html`<${Figures} of=${[...now, { label: 'Rates', value: format.NONE, note: 'not measured yet' }]} />`;
  return html`<${Figures} of=${[
    { label: 'Requests/s', value: format.compact(rates.requests_per_second), note: `last ${rates.window_seconds ?? 60} s` },
    { label: 'Failed for clients', value: format.percent(rates.failed_share), tone: rates.failed_share >= 0.01 ? 'bad' : '', note: '5xx and local errors' },
    { label: 'Median response', value: format.duration(rates.p50_ms), note: `p95 ${format.duration(rates.p95_ms)}, p99 ${format.duration(rates.p99_ms)}` },
    { label: 'Retries/s', value: format.compact(rates.retries_per_second) },
    { label: 'Cost per hour', value: format.cost(rates.cost_per_hour) },
    ...now,
  ]} />`;
}

/** The state of a provider in a word, its tone, and why. */
export function providerState(provider, breakers) {
  if (provider.override) {
    const { by, reason } = provider.override;
    return { tone: 'warn', icon: 'pause', word: 'Drained', why: [reason, by && `by ${by}`].filter(Boolean).join(', ') };
  }
  const blocked = provider.endpoints.filter((endpoint) => endpoint.obstacle);
  const mine = breakers.filter((breaker) => breaker.provider === provider.name && breaker.mode !== 'shadow');
  const open = mine.filter((breaker) => breaker.state === 'open').length;
  const half = mine.filter((breaker) => breaker.state === 'half_open').length;
  const why = blocked.map((endpoint) => endpoint.obstacle).join('; ');
  const isBlocked = blocked.length > 0 && blocked.length === provider.endpoints.length;
  if (open) return { tone: 'bad', icon: 'bad', word: open === mine.length ? 'Breaker open' : `${open} of ${mine.length} breakers open`, why };
  if (half) return { tone: 'warn', icon: 'half', word: 'Probing', why };
  if (isBlocked) return { tone: 'warn', icon: 'wait', word: /hold/.test(why) ? 'On hold' : /rate limit/.test(why) ? 'At its rate limit' : /in flight/.test(why) ? 'At its limit' : 'Not used', why };
  if (blocked.length) return { tone: 'warn', icon: 'warn', word: /hold/.test(why) ? 'Partly on hold' : 'Partly blocked', why };
  return { tone: 'good', icon: 'good', word: 'In use', why: '' };
}

function heldOf(status, name) {
  const mine = status.held.filter((hold) => hold.key.startsWith(`${name}/`) && hold.reason !== 'slow_start');
  return mine.length ? { count: mine.length, until: Math.max(...mine.map((hold) => hold.remaining_ms)) } : null;
}

function Providers({ status, breakers, series, events }) {
  const now = useNow();
  const history = useMemo(() => historyOf(series), [series]);
  const share = (rates) => rates?.share_seen != null || rates?.share_wanted != null;
  const holds = new Map(status.providers.map((row) => [row.name, heldOf(status, row.name)]));
  const columns = [
    { label: 'Provider', lead: true, cell: (row) => html`<strong><${Name}>${row.name}<//></strong><div>${stateBadge(row, breakers)}</div>` },
    { label: 'Share', help: 'Seen in the last minute; wanted by the policy', blank: (row) => !share(row.rates), cell: (row) => share(row.rates) ? html`${format.percent(row.rates.share_seen)}<span class="sub bar-line"><${Bar} share=${row.rates.share_seen} mark=${row.rates.share_wanted} /></span><span class="sub nowrap">wanted ${format.percent(row.rates.share_wanted)}</span>` : format.NONE },
    { label: 'Attempts/s', num: true, cell: (row) => html`${format.compact(row.rates?.attempts_per_second)}<span class="sub">${row.in_flight} in flight</span>${row.waiting > 0 && html`<span class="sub tone-warn">${row.waiting} waiting</span>`}` },
    { label: 'Success', num: true, help: 'Of the requests sent to it, as applications saw them in the end; and of its attempts', cell: (row) => html`<span class=${row.rates?.client_success_share < 0.99 ? 'tone-bad' : ''}>${format.percent(row.rates?.client_success_share)}</span><span class=${`sub nowrap ${row.rates?.success_share < 0.95 ? 'tone-bad' : ''}`}>attempts ${format.percent(row.rates?.success_share)}</span>` },
    { label: 'First byte', num: true, help: 'Median, p95 and p99', cell: (row) => html`${format.duration(row.rates?.p50_ms)}<span class="sub">p95 ${format.duration(row.rates?.p95_ms)}</span><span class="sub">p99 ${format.duration(row.rates?.p99_ms)}</span>` },
    { label: 'First token', num: true, help: 'Median time to the first content of a stream', blank: (row) => row.rates?.first_content_ms == null, cell: (row) => format.duration(row.rates?.first_content_ms) },
    { label: 'Capacity', help: 'Used share of the concurrency limit', cell: (row) => capacity(row) },
    [...holds.values()].some(Boolean) && { label: 'Held until', blank: (row) => !holds.get(row.name), cell: (row) => held(holds.get(row.name), now) },
    status.providers.some((row) => isPaid(row)) && { label: 'Cost/h', num: true, blank: (row) => !isPaid(row), cell: (row) => format.cost(row.rates?.cost_per_hour) },
    { label: 'Last 30 minutes', full: true, cell: (row) => spark(row, history, events) },
  ].filter(Boolean);
  return html`<${Card} title="Providers" flush note=${html`<span class="row"><span class="row"><${Icon} name="reload" size=${10} /> reload</span><span class="row tone-bad"><${Icon} name="trip" size=${10} /> breaker opened</span><span class="row tone-warn"><${Icon} name="mode" size=${10} /> degradation</span></span>`}>
    ${status.providers.length ? html`<${Table} label="Providers" columns=${columns} rows=${status.providers} rowKey=${(row) => row.name} />` : html`<${State} title="The policy has no provider" />`}<//>`;
}

function stateBadge(provider, breakers) {
  const { tone, icon, word, why } = providerState(provider, breakers);
  return html`<${Badge} tone=${tone} icon=${icon}>${word}<//>${why && html`<span class="sub">${format.visible(why, 200)}</span>`}`;
}

const isPaid = (row) => Object.keys(row.rates?.cost_per_hour ?? {}).length > 0;

function capacity({ in_flight, limit, rates }) {
  const used = rates?.capacity_used ?? (limit ? in_flight / limit : null);
  const tone = used >= 0.95 ? 'bad' : used >= 0.8 ? 'warn' : '';
  return html`${format.percent(used)}<span class="sub bar-line"><${Bar} share=${used} tone=${tone} /></span><span class="sub nowrap">${format.number(in_flight)} of ${format.number(limit)}</span>`;
}

function held(hold, now) {
  if (!hold) return format.NONE;
  return html`<span class="nowrap">${format.clockTime(new Date(now + hold.until))}</span><span class="sub">${format.coarse(hold.until)} more${hold.count > 1 ? `, ${hold.count} holds` : ''}</span>`;
}

/** All attempts and the unsuccessful ones, per provider. */
function historyOf(series) {
  const found = new Map();
  for (const { labels, values } of series?.series ?? []) {
    const one = found.get(labels.provider) ?? { all: values.map(() => null), bad: values.map(() => null) };
    const isBad = labels.class !== 'success' && labels.class !== 'ignored';
    values.forEach((value, index) => {
      if (value == null) return;
      one.all[index] = (one.all[index] ?? 0) + value;
      if (isBad) one.bad[index] = (one.bad[index] ?? 0) + value;
    });
    found.set(labels.provider, one);
  }
  return { at: series?.at ?? [], of: (name) => found.get(name) };
}

function spark(provider, history, events) {
  const mine = history.of(provider.name);
  if (!mine) return html`<span class="muted small">No history yet</span>`;
  const label = `Attempts per second of ${format.visible(provider.name, 60)}`;
  return html`<${Sparkline} label=${label} at=${history.at} values=${mine.all} bad=${mine.bad} marks=${marks(events, provider.name)} show=${(value) => `${format.compact(value)}/s`} />`;
}

function Routes({ routes }) {
  const columns = [
    { label: 'Route', lead: true, cell: (row) => html`<strong><${Name}>${row.name}<//></strong>` },
    { label: 'Balance', cell: (row) => row.balance.replaceAll('_', ' ') },
    { label: 'Requests/s', num: true, cell: (row) => format.compact(row.rates?.requests_per_second) },
    { label: 'Failed', num: true, cell: (row) => html`<span class=${row.rates?.failed_share >= 0.01 ? 'tone-bad' : ''}>${format.percent(row.rates?.failed_share)}</span>` },
    { label: 'p50', num: true, cell: (row) => format.duration(row.rates?.p50_ms) },
    { label: 'p95', num: true, cell: (row) => format.duration(row.rates?.p95_ms) },
    { label: 'p99', num: true, cell: (row) => format.duration(row.rates?.p99_ms) },
    { label: 'Retries in budget', num: true, cell: (row) => format.compact(row.budget) },
    { label: 'Requests', hidden: true, cell: (row) => html`<a href=${link('requests', { filter: /\s/.test(row.name) ? '' : `route:${row.name}` })}>Requests<span class="visually-hidden"> of ${format.visible(row.name, 60)}</span></a>` },
  ];
  return html`<${Card} title="Routes" flush><${Table} label="Routes" columns=${columns} rows=${routes} rowKey=${(row) => row.name} empty="The policy has no route" /><//>`;
}

/** Text with its parts between backticks as code. */
function withCode(text) {
  return text.split('`').map((part, index) => (index % 2 ? html`<code>${part}</code>` : part));
}

/** Advice from the figures of the last hour, of all codes or of some; nothing where there is none. */
export function Recommendations({ codes }) {
  const all = usePoll('/api/recommendations', 10_000).data?.recommendations ?? [];
  const found = codes ? all.filter(({ code }) => codes.includes(code)) : all;
  if (!found.length) return null;
  return html`<${Card} title="Recommendations" note="From the figures of the last hour" flush><ul class="problems">${found.map((one) => html`<li class="problem" key=${`${one.code} ${one.subject}`}>
    <div><${Badge}>Advice<//></div><div><h3>${format.visible(format.sentence(one.text, one.subject), 500)}</h3><p>${withCode(format.visible(format.sentence(one.suggestion), 500))} <${Source}>${one.source}<//></p>
      <p class="small">${(one.figures ?? []).map(({ name, value }) => `${format.visible(name, 80)}: ${format.visible(value, 40)}`).join('; ')}</p></div></li>`)}</ul><//>`;
}
