// Policies: the policy in force, the last load with its problems, changes, and routes without requests.
import { html } from '../dom.js';
import { usePoll } from '../api.js';
import { Ago, Badge, Card, Command, Facts, Loaded, Name, Page, Snippet, Table, Time, Verdict } from '../parts.js';
import { Recommendations } from './overview.js';
import { link } from '../router.js';
import * as format from '../format.js';

export function Policies() {
  const policies = usePoll('/api/policies');
  return html`<${Page} title="Policies" intro="The policy that decides now, and the last attempt to load another.">
    <${Loaded} of=${policies}>${({ in_force: inForce, last_load: load }) => html`<${Answer} inForce=${inForce} load=${load} />
      ${load?.problems.length > 0 && html`<${Card} title="Problems" note=${format.plural(load.problems.length, 'problem')}><div class="stack tight">${(load.details?.length ? load.details : load.problems).map((problem, index) => html`<${Snippet} key=${index} label=${`Problem ${index + 1}`}>${problem}<//>`)}
        <p><${Command}>outrigger check<//></p></div><//>`}
      <${InForce} inForce=${inForce} />
      ${load?.warnings.length > 0 && html`<${Card} title="Warnings" note=${format.plural(load.warnings.length, 'warning')}><div class="stack tight">${load.warnings.map((warning, index) => html`<${Snippet} key=${index} label=${`Warning ${index + 1}`} tone="warn">${warning}<//>`)}</div><//>`}
      ${isGood(load) && html`<${Changes} changes=${load?.changes ?? []} />`}
      <${Recommendations} codes=${['route_never_matched']} />
      <${Loads} />`}<//><//>`;
}

const isGood = (load) => !load || load.problems.length === 0;

function Answer({ inForce, load }) {
  if (!inForce) return html`<${Verdict} tone="bad">No policy is in force: the sidecar takes no requests.<//>`;
  if (!isGood(load)) return html`<${Verdict} tone="bad">The last load was ${format.visible(format.words(load.result).toLowerCase(), 60)}; the policy before it stays in force.<//>`;
  return html`<${Verdict} tone=${load?.warnings.length ? 'warn' : 'good'}>Policy ${format.visible(inForce.short, 20)} is in force${load?.warnings.length ? `, with ${format.plural(load.warnings.length, 'warning')}` : ''}.<//>`;
}

function InForce({ inForce }) {
  if (!inForce) return null;
  return html`<${Card} title="In force"><div class="stack tight"><${Facts} of=${[
    ['Hash', html`<code>${format.visible(inForce.hash, 80)}</code>`], ['Since', html`<${Time} at=${inForce.since} /> (<${Ago} at=${inForce.since} />)`],
    [inForce.files.length === 1 ? 'File' : 'Files', html`<ul>${inForce.files.map((file) => html`<li><${Name} mono longest=${200}>${file}<//></li>`)}</ul>`],
  ]} /></div><//>`;
}

function Changes({ changes }) {
  return html`<${Card} title="Changes to the policy before it">${changes.length ? html`<div class="stack tight">${changes.map((change, index) => html`<${Snippet} key=${index} label=${`Change ${index + 1}`} tone="info">${change}<//>`)}</div>`
    : html`<p class="muted">The policy in force is the first since the start, or equal to the one before.</p>`}<//>`;
}

function Loads() {
  const events = usePoll('/api/events?kind=policy&limit=50', 3000);
  const columns = [
    { label: 'Time', cell: (row) => html`<${Time} at=${row.at} />` },
    { label: 'Result', cell: (row) => (/reject|fail|invalid/.test(`${row.state ?? ''} ${row.detail}`) ? html`<${Badge} tone="bad">Rejected<//>` : html`<${Badge} tone="good">Applied<//>`) },
    { label: 'Detail', full: true, lead: true, cell: (row) => format.visible(format.sentence(row.detail), 600) },
  ];
  return html`<${Card} title="Loads" actions=${html`<a class="button" href=${link('events', { kind: 'policy' })}>All events of policies</a>`} flush><${Loaded} of=${events}>${(data) => html`<${Table} label="Loads of policies" columns=${columns} rows=${data.events} rowKey=${(row) => row.id} empty="No load since the start" />`}<//><//>`;
}
