// Differences: the values that are more common among some requests than among the others.
import { html, useMemo, useState } from '../dom.js';
import { usePoll } from '../api.js';
import { Card, Choice, Figures, Loaded, Name, Table } from '../parts.js';
import { replaceQuery } from '../router.js';
import * as format from '../format.js';

const BUCKETS = 24;

export function Differences({ filter, against }) {
  const all = usePoll('/api/requests?limit=1000', 5000);
  const records = all.data?.requests;
  const [band, setBand] = useState(filter ? 'filter' : 'slow');
  const slow = useMemo(() => slowest(records ?? []), [records?.length > 0]);
  const own = { slow: slow && `took:>=${slow}`, failed: 'failed', filter: filter || null }[band];
  const selected = band === 'filter' ? own : [filter, own].filter(Boolean).join(' ');
  const query = new URLSearchParams({ filter: selected ?? '' });
  if (against) query.set('against', against);
  const result = usePoll(own ? `/api/requests/differences?${query}` : null, 2000);
  return html`<${Card} title="Which requests" actions=${html`<${Choice} label="Band" value=${band} onChange=${setBand} options=${[['slow', 'The slow ones'], ['failed', 'The failed ones'], ['filter', 'The filter above']]} />`}>
      ${own ? html`<p class="muted">Selected: <code>${format.visible(selected, 300)}</code>. Compared with all others that are kept.</p>` : html`<p class="muted">Type a filter above, or choose a band of the chart.</p>`}
      <${Histogram} records=${records ?? []} choose=${(from, to) => { replaceQuery({ filter: `took:>=${from} took:<${to}` }); setBand('filter'); }} />
    <//>
    ${own && html`<${Loaded} of=${result}>${(data) => html`<${Ranked} data=${data} filter=${filter} />`}<//>`}`;
}

/** The time that the slowest tenth exceeds. */
function slowest(records) {
  const times = records.map((record) => record.duration_ms).filter((ms) => ms > 0).sort((a, b) => a - b);
  return times.length ? `${Math.max(1, Math.round(times[Math.floor(times.length * 0.9)]))}ms` : null;
}

/** Requests by duration, each bar twice as slow as the second before it; a bar selects its band. */
function Histogram({ records, choose }) {
  const times = records.map((record) => record.duration_ms).filter((ms) => ms > 0);
  if (!times.length) return null;
  const edge = (index) => 2 ** (index / 2);
  const counts = Array.from({ length: BUCKETS + 12 }, () => [0, 0]);
  for (const record of records) {
    const index = Math.max(0, Math.min(counts.length - 1, Math.floor(2 * Math.log2(record.duration_ms || 1))));
    counts[index][record.status >= 500 || record.result === 'interrupted' ? 1 : 0]++;
  }
  const first = counts.findIndex(([good, bad]) => good + bad);
  const last = counts.findLastIndex(([good, bad]) => good + bad);
  const most = Math.max(...counts.map(([good, bad]) => good + bad));
  const bars = counts.map(([good, bad], index) => ({ good, bad, from: Math.round(edge(index)), to: Math.round(edge(index + 1)) })).slice(first, last + 1);
  return html`<div class="histogram" role="group" aria-label="Requests by duration">${bars.map(({ good, bad, from, to }) => html`<button key=${from} type="button" disabled=${!(good + bad) || from === to}
    title=${`${format.duration(from)} to ${format.duration(to)}: ${format.plural(good + bad, 'request')}, ${bad} failed`}
    aria-label=${`${format.duration(from)} to ${format.duration(to)}: ${format.plural(good + bad, 'request')}, ${bad} failed`} onClick=${() => choose(`${from}ms`, `${to}ms`)}>
      <i class="failed" style=${{ height: `${(bad / most) * 4}rem` }}></i><i style=${{ height: `${(good / most) * 4}rem` }}></i></button>`)}</div>
    <div class="row between muted small"><span>${format.duration(bars[0].from)}</span><span>Duration; choose a bar to select its requests</span><span>${format.duration(bars.at(-1).to)}</span></div>`;
}

function Ranked({ data, filter }) {
  const add = (term) => replaceQuery({ filter: [filter, term].filter(Boolean).join(' '), view: '' });
  const columns = [
    { label: 'Field', cell: (row) => row.field },
    { label: 'Value', lead: true, cell: (row) => html`<strong><${Name} longest=${100}>${row.value}<//></strong>` },
    { label: 'Of the selected', cell: (row) => html`<${Share} value=${row.share_selected} tone="mine" />` },
    { label: 'Of the others', cell: (row) => html`<${Share} value=${row.share_others} />` },
    { label: 'Show', hidden: true, blank: (row) => !row.filter, cell: (row) => row.filter && html`<button type="button" class="link-button" onClick=${() => add(row.filter)}>Show these<span class="visually-hidden">: ${format.visible(row.filter, 100)}</span></button>` },
  ];
  return html`<${Figures} of=${[{ label: 'Selected', value: format.number(data.selected) }, { label: 'Others', value: format.number(data.others) }]} />
    <${Table} label="Differences" columns=${columns} rows=${data.differences} rowKey=${(row) => `${row.field} ${row.value}`}
    empty=${data.selected ? 'Nothing sets these requests apart' : 'No request is selected'} />`;
}

function Share({ value, tone = '' }) {
  return html`<span class="share"><span class=${`bar wide ${tone}`} aria-hidden="true"><i style=${{ width: `${value * 100}%` }}></i></span> ${format.percent(value)}</span>`;
}
