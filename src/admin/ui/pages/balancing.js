// Load balancing: the share that each endpoint should have and has, what the difference costs, and advice.
import { html } from '../dom.js';
import { usePoll } from '../api.js';
import { Badge, Bar, Card, Facts, Loaded, Name, Page, Settings, Source, State, Table, Verdict } from '../parts.js';
import { History } from '../charts.js';
import { Recommendations } from './overview.js';
import * as format from '../format.js';

/** A distance from the wanted shares that is worth a word. */
const FAR = 0.1;

export function Balancing() {
  const balancing = usePoll('/api/load-balancing', 2000);
  return html`<${Page} title="Load balancing" intro="Shares of attempts in the last hour, as the algorithm wants them and as they were.">
    <${Loaded} of=${balancing} absent="This sidecar does not report its load balancing.">${({ routes }) => (routes.length ? html`<${Answer} routes=${routes} />
      <${Recommendations} />${routes.map((route) => html`<${Route} key=${route.name} route=${route} />`)}` : html`<${State} title="The policy has no route" />`)}<//><//>`;
}

function Answer({ routes }) {
  const blocked = routes.flatMap((route) => route.endpoints.filter((one) => one.obstacle).map((one) => one.endpoint));
  const far = routes.filter((route) => route.last_hour?.distance >= FAR);
  const worst = far.sort((a, b) => b.last_hour.distance - a.last_hour.distance)[0];
  const count = new Set(blocked).size;
  const parts = [];
  if (count) parts.push(`${format.plural(count, 'endpoint takes', 'endpoints take')} no requests now.`);
  if (worst) parts.push(`Route ${format.visible(worst.name, 60)} is ${format.percent(worst.last_hour.distance)} away from its wanted shares.`);
  return html`<${Verdict} tone=${count ? 'bad' : worst ? 'warn' : 'good'}>${parts.join(' ') || 'All endpoints take requests, and each route is close to its wanted shares.'}<//>`;
}

function Route({ route }) {
  const { name, source, algorithm, policy, endpoints, last_hour: hour } = route;
  const columns = [
    { label: 'Endpoint', lead: true, cell: (row) => html`<strong><${Name}>${row.endpoint}<//></strong>${row.obstacle ? html`<div><${Badge} tone="bad">${format.visible(row.obstacle, 120)}<//></div>` : ''}${row.shared_with?.length > 0 && html`<span class="sub">shared with ${row.shared_with.map((one) => format.visible(one, 60)).join(', ')}</span>`}` },
    { label: 'Share', help: 'The bar is the share seen, the mark the share wanted', full: true, cell: (row) => share(row) },
    endpoints.some((row) => row.weight != null) && { label: 'Weight', num: true, cell: (row) => format.number(row.weight) },
    { label: 'Attempts', num: true, cell: (row) => format.number(row.attempts) },
    { label: 'First byte', num: true, help: 'Median and p95', cell: (row) => html`${format.duration(row.p50_ms)}<span class="sub">p95 ${format.duration(row.p95_ms)}</span>` },
    { label: 'Capacity', help: 'Used share of the concurrency limit', cell: (row) => html`${format.percent(row.capacity_used)}<span class="sub bar-line"><${Bar} share=${row.capacity_used} tone=${row.capacity_used >= 0.95 ? 'bad' : row.capacity_used >= 0.8 ? 'warn' : ''} /></span>` },
  ].filter(Boolean);
  const cost = hour?.latency_cost_ms;
  const lines = (data) => sharesOf(data, endpoints.map((one) => one.endpoint));
  return html`<${Card} title=${html`<${Name}>${name}<//>`} note=${html`<${Badge}>${format.words(algorithm)}<//> <${Source}>${source}<//>`} flush>
    <div class="card-body"><${Facts} of=${[
      ['Attempts', format.number(hour?.attempts)],
      ['Distance from the wanted shares', html`<span class=${hour?.distance >= FAR ? 'tone-warn' : ''}>${format.percent(hour?.distance)}</span>`],
      ['Effect on the time to the first byte', cost == null ? null : Math.abs(cost) < 0.5 ? 'none' : html`<span class=${cost > 0 ? 'tone-warn' : 'tone-good'}>${format.duration(Math.abs(cost))} ${cost > 0 ? 'slower' : 'faster'} on average</span>`],
    ]} /><${Settings} of=${policy} /></div>
    <${Table} label=${`Endpoints of route ${format.visible(name, 60)}`} columns=${columns} rows=${endpoints} rowKey=${(row) => row.endpoint} empty="No endpoint" /><//>
    ${endpoints.length > 1 && html`<${History} title=${`Shares of ${format.visible(name, 60)} over time`} note="Of the attempts of all routes at these endpoints" query="metric=attempts&by=provider,endpoint" lines=${lines} show=${format.percent} height=${160} />`}`;
}

function share(row) {
  const off = row.share_seen != null && row.share_wanted != null && Math.abs(row.share_seen - row.share_wanted) >= FAR;
  return html`<span class="share"><${Bar} share=${row.share_seen} mark=${row.share_wanted} tone=${`wide ${off ? 'warn' : 'mine'}`} /> <span>${format.percent(row.share_seen)}</span></span>
    <span class="sub nowrap">wanted ${format.percent(row.share_wanted)}</span>`;
}

/** The share of each endpoint in the attempts at all of these, at each moment. */
function sharesOf(data, endpoints) {
  const rows = endpoints.map((endpoint) => data.series.find(({ labels }) => `${labels.provider}/${labels.endpoint}` === endpoint || labels.endpoint === endpoint)?.values);
  const totals = data.at.map((_, index) => rows.reduce((total, values) => total + (values?.[index] ?? 0), 0));
  return endpoints.map((label, row) => ({ label, values: data.at.map((_, index) => (totals[index] > 0 ? (rows[row]?.[index] ?? 0) / totals[index] : null)) }));
}
