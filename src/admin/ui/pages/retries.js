// Retries and budget: what retries and hedges saved, what they cost, and how much of each budget is left.
import { html } from '../dom.js';
import { usePoll } from '../api.js';
import { Badge, Bar, Card, Facts, Figures, Loaded, Name, Page, Settings, Source, State, Tally, Verdict } from '../parts.js';
import { History } from '../charts.js';
import { link } from '../router.js';
import { Recommendations } from './overview.js';
import * as format from '../format.js';

const sum = (rows, of = (row) => row.count) => rows.reduce((total, row) => total + (of(row) ?? 0), 0);

export function Retries() {
  const retry = usePoll('/api/retry', 2000);
  return html`<${Page} title="Retries and budget" intro="Attempts after the first, in the last hour: what they saved and what they cost.">
    <${Loaded} of=${retry} absent="This sidecar does not report its retries.">${({ routes }) => (routes.length ? html`<${Total} routes=${routes} />
      <${Recommendations} codes=${['retry_never_succeeds', 'timeout_below_p99', 'fallback_unusable_for_posts']} />
      ${[...routes].sort((a, b) => left(a) - left(b)).map((route) => html`<${Route} key=${route.name} route=${route} />`)}` : html`<${State} title="The policy has no route" />`)}<//>
    <${History} title="Retries that the budget allows" query="metric=retry_budget&by=route" lines=${(data) => data.series.map(({ labels, values }) => ({ label: labels.route, values }))} />
    <${History} title="Retries per second" query="metric=retries&by=reason" lines=${(data) => data.series.filter(({ values }) => values.some((value) => value > 0)).map(({ labels, values }) => ({ label: format.words(labels.reason), values }))} /><//>`;
}

/** Retries that the budget allows: fewer than one means that it is spent. The most depends on the traffic of the hour. */
const left = ({ budget }) => budget?.available ?? Infinity;

function Total({ routes }) {
  const hours = routes.map((route) => route.last_hour);
  const requests = sum(hours, (hour) => hour.requests);
  const retries = sum(hours, (hour) => sum(hour.retries));
  const saved = sum(hours, (hour) => hour.saved);
  const extra = sum(hours, (hour) => hour.extra_attempts);
  const spent = routes.filter((route) => left(route) < 1);
  const denied = sum(hours, (hour) => sum(hour.denied.filter(({ reason }) => /budget/.test(reason))));
  const costs = {};
  for (const { extra_cost: cost } of hours) for (const [currency, amount] of Object.entries(cost ?? {})) costs[currency] = (costs[currency] ?? 0) + amount;
  const text = spent.length ? `The retry budget of ${spent.length === 1 ? `route ${format.visible(spent[0].name, 60)}` : `${spent.length} routes`} is spent: failed attempts are not repeated.`
    : !retries && !saved ? 'No attempt was repeated in the last hour.'
      : `Retries and hedges saved ${format.plural(saved, 'request')} of ${format.number(requests)}${denied ? `; the budget denied ${format.plural(denied, 'retry', 'retries')}` : ''}.`;
  return html`<${Verdict} tone=${spent.length ? 'bad' : denied ? 'warn' : 'good'}>${text}<//>
    <${Figures} of=${[
      { label: 'Saved', value: format.number(saved), note: requests ? `${format.percent(saved / requests)} of requests` : '' },
      { label: 'Retries', value: format.number(retries), note: `${format.number(sum(hours, (hour) => sum(hour.retries, (row) => row.succeeded)))} succeeded` },
      { label: 'Denied by the budget', value: format.number(denied), tone: denied ? 'bad' : '' },
      { label: 'Extra attempts', value: format.number(extra), note: requests ? `${format.percent(extra / requests)} of requests` : '' },
      { label: 'Extra cost', value: format.cost(costs), note: 'of attempts after the first' },
    ]} />`;
}

function Route({ route }) {
  const { name, source, policy, budget, last_hour: hour } = route;
  const share = budget?.max > 0 ? budget.available / budget.max : 1;
  const tone = left(route) < 1 ? 'bad' : share < 0.25 && left(route) < 5 ? 'warn' : '';
  const filter = /\s/.test(name) ? 'retried' : `route:${name} retried`;
  return html`<${Card} title=${html`<${Name}>${name}<//>`} note=${html`<${Source}>${source}<//>`} actions=${html`<a class="button" href=${link('requests', { filter })}>Requests<span class="visually-hidden"> of ${format.visible(name, 60)} with retries</span></a>`}>
    <div class="columns">
      <div><h3>Budget</h3>${budget ? html`<p class="share"><${Bar} share=${share} tone=${`wide ${tone || 'mine'}`} /> <span class=${tone && `tone-${tone}`}>${format.compact(budget.available)} of ${format.compact(budget.max)}</span></p>
        <p class="muted small">Retries that are allowed now${budget.cost_available != null ? `; cost left ${format.compact(budget.cost_available)}` : ''}</p>
        ${tone && html`<p><${Badge} tone=${tone}>${tone === 'bad' ? 'Spent' : 'Running low'}<//></p>`}` : html`<p class="muted">No budget</p>`}</div>
      <div><h3>Retries by reason</h3><${Tally} empty="No retry in the last hour" of=${hour.retries.map(({ reason, count, succeeded }) => ({ label: format.words(reason), count, note: `${format.number(succeeded)} succeeded`, tone: count >= 5 && !succeeded ? 'bad' : '' }))} /></div>
      <div><h3>Not repeated</h3><${Tally} empty="Nothing was denied" of=${hour.denied.map(({ reason, count }) => ({ label: format.words(reason), count, tone: /budget/.test(reason) ? 'bad' : 'warn' }))} /></div>
      <div><h3>Hedges</h3><${Tally} empty="No hedge was sent" of=${(hour.hedges ?? []).map(({ result, count }) => ({ label: format.words(result), count }))} /></div>
      <div><h3>Gain and price</h3><${Facts} of=${[
        ['Time', hour.seconds < 3600 ? format.coarse(hour.seconds * 1000) : null], ['Requests', format.number(hour.requests)], ['Saved', format.number(hour.saved)], ['Extra attempts', format.number(hour.extra_attempts)],
        ['Extra cost', Object.keys(hour.extra_cost ?? {}).length ? format.cost(hour.extra_cost) : null],
        ['Added time', hour.added_ms_p50 == null ? null : `${format.duration(hour.added_ms_p50)} (median of saved requests)`],
      ]} /></div>
    </div><${Settings} of=${policy} /><//>`;
}
