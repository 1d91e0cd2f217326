// The shell: navigation, connection, theme, keys, and the page of the current address.
import { html, render, useChange, useEffect, useObservable, useState } from './dom.js';
import { connection, openStream, refresh, tokenPrompt, useNow, usePoll } from './api.js';
import { Choice, Dialog, Field, Icon, LiveState, Toasts } from './parts.js';
import { link, useRoute } from './router.js';
import { setTheme, theme } from './theme_choice.js';
import * as format from './format.js';
import { noteEvent } from './events.js';
import { Overview } from './pages/overview.js';
import { Requests } from './pages/requests.js';
import { Breakers } from './pages/breakers.js';
import { Queue } from './pages/queue.js';
import { Retries } from './pages/retries.js';
import { Balancing } from './pages/balancing.js';
import { Degradation } from './pages/degradation.js';
import { Benchmarks } from './pages/benchmarks.js';
import { Caches } from './pages/caches.js';
import { Fleet } from './pages/fleet.js';
import { Policies } from './pages/policies.js';
import { Events } from './pages/events.js';

/** `codes` are problems that are counted beside the page's name. */
const PAGES = [
  { group: 'Now', key: 'o', name: 'overview', title: 'Overview', page: Overview, codes: null },
  { group: 'Now', key: 'r', name: 'requests', title: 'Requests', page: Requests, codes: ['route_failing'] },
  { group: 'Now', key: 'b', name: 'breakers', title: 'Breakers', page: Breakers, codes: ['breaker_open', 'held', 'credential_rejected', 'provider_drained'] },
  { group: 'Now', key: 'q', name: 'queue', title: 'Queue and jobs', page: Queue, codes: ['queue_paused', 'queue_filling', 'dead_jobs', 'store_unusable'] },
  { group: 'Decisions', key: 't', name: 'retries', title: 'Retries and budget', page: Retries, codes: ['retry_budget_spent'] },
  { group: 'Decisions', key: 'l', name: 'balancing', title: 'Load balancing', page: Balancing, codes: [] },
  { group: 'Decisions', key: 'd', name: 'degradation', title: 'Degradation', page: Degradation, codes: ['degraded'] },
  { group: 'Decisions', key: 'n', name: 'benchmarks', title: 'Benchmarks and baselines', page: Benchmarks, codes: ['regression', 'host_regression'] },
  { group: 'System', key: 'c', name: 'caches', title: 'Caches', page: Caches, codes: [] },
  { group: 'System', key: 'f', name: 'fleet', title: 'Fleet', page: Fleet, codes: ['fleet_detached', 'policies_differ'] },
  { group: 'System', key: 'p', name: 'policies', title: 'Policies', page: Policies, codes: ['policy_rejected', 'credential_expiring'] },
  { group: 'System', key: 'e', name: 'events', title: 'Events', page: Events, codes: [] },
];
const GROUPS = ['Now', 'Decisions', 'System'];

function App() {
  const { page: name } = useRoute();
  const status = usePoll('/api/status');
  const { state } = useObservable(connection);
  const [menu, setMenu] = useState(false);
  const [help, setHelp] = useState(false);
  const current = PAGES.find((page) => page.name === name);
  const CurrentPage = current?.page ?? Missing;

  useEffect(() => openStream('/api/events/stream', { onEvent: (event) => { noteEvent(event.data); refreshSoon(); } }), []);
  useEffect(() => listenForKeys(() => setHelp(true)), []);
  useChange(() => {
    setMenu(false);
    scrollTo(0, 0);
    document.getElementById('page-title')?.focus({ preventScroll: true });
  }, [name]);

  const skip = (event) => {
    event.preventDefault();
    document.getElementById('page-title')?.focus();
  };
  return html`<a class="skip-link" href="#content" onClick=${skip}>Skip to content</a>
    <div class=${`frame ${state === 'disconnected' ? 'is-away' : ''}`}>
      <header class="topbar"><${Brand} /><div class="row"><${LiveState} />
        <button type="button" class="button" aria-expanded=${String(menu)} aria-controls="side" onClick=${() => setMenu(!menu)}><${Icon} name="menu" /> Menu</button></div></header>
      <${Side} open=${menu} status=${status.data} current=${name} onHelp=${() => setHelp(true)} />
      <div>
        <${Disconnected} />
        <main class="main" id="content"><${CurrentPage} key=${name} /></main>
      </div>
    </div>
    <${TokenDialog} />${help && html`<${Keys} onClose=${() => setHelp(false)} />`}<${Toasts} />`;
}

let refreshing = 0;

/** Reads everything again at once, and in a burst of events a few times in a second. */
function refreshSoon() {
  if (refreshing) return;
  refresh();
  refreshing = setTimeout(() => {
    refreshing = 0;
    refresh();
  }, 300);
}

function Brand() {
  return html`<a class="brand" href="#/overview"><svg width="20" height="20" viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="2.2" stroke-linecap="round" aria-hidden="true"><path d="M1.5 4.5h13M4 4.5v4.2M12 4.5v4.2M3 11.5h10" /></svg>Outrigger</a>`;
}

function Side({ open, status, current, onHelp }) {
  const chosen = useObservable(theme);
  const count = (codes) => (status?.problems ?? []).filter((problem) => !codes || codes.includes(problem.code));
  return html`<aside class=${`side ${open ? 'open' : ''}`} id="side" aria-label="Navigation and state"><${Brand} />
    <nav aria-label="Pages">${GROUPS.map((group) => html`<div class="nav-group" key=${group} role="group" aria-label=${group}><h2 aria-hidden="true">${group}</h2>
      ${PAGES.filter((page) => page.group === group).map(({ name, title, codes }) => {
        const problems = codes?.length === 0 ? [] : count(codes);
        const tone = problems.some((problem) => problem.severity === 'critical') ? 'bad' : 'warn';
        return html`<a key=${name} class="nav-link" href=${link(name)} aria-current=${current === name ? 'page' : undefined}><span>${title}</span>
          ${problems.length > 0 && html`<span class=${`nav-count ${tone}`} title=${format.plural(problems.length, 'problem')}>${problems.length}<span class="visually-hidden"> ${problems.length === 1 ? 'problem' : 'problems'}</span></span>`}</a>`;
      })}</div>`)}</nav>
    <div class="side-foot">
      <${LiveState} />
      ${status && html`<span>Policy <code>${format.visible(status.policy, 16)}</code><br />Version ${format.visible(status.version, 30)}<br />Up for ${format.coarse(status.uptime_seconds * 1000)}</span>`}
      <${Choice} label="Theme" value=${chosen} onChange=${setTheme} options=${[['auto', 'Auto'], ['light', 'Light'], ['dark', 'Dark']]} />
      <div><button type="button" class="button quiet" onClick=${onHelp}>Keys <kbd>?</kbd></button></div>
    </div></aside>`;
}

function Disconnected() {
  const { state, since } = useObservable(connection);
  const now = useNow();
  const isAway = state === 'disconnected';
  return html`<div role="alert">${isAway && html`<div class="banner"><${Icon} name="bad" size=${16} /> Disconnected
    <span>The sidecar has not responded for ${format.coarse(now - since)}. The figures below are the last ones; the page tries again by itself.</span></div>`}</div>`;
}

function TokenDialog() {
  const prompt = useObservable(tokenPrompt);
  const [text, setText] = useState('');
  if (!prompt) return null;
  const close = (token) => {
    setText('');
    prompt.close(token);
  };
  return html`<${Dialog} title="Admin token" onClose=${() => close('')} onSubmit=${() => close(text.trim())}
    foot=${html`<button type="button" class="button" onClick=${() => close('')}>Cancel</button><button type="submit" class="button primary" disabled=${!text.trim()}>Continue</button>`}>
    <p class="muted">This sidecar wants the token that was given by <code>--admin-token</code>. It is kept in this tab until you close it.</p>
    ${prompt.reason && html`<p class="notice">${format.visible(prompt.reason, 200)}</p>`}
    <${Field} label="Token" type="password" value=${text} onInput=${setText} autofocus />
  <//>`;
}

function Keys({ onClose }) {
  return html`<${Dialog} title="Keys" onClose=${onClose}>
    <dl class="keys">
      <dt><kbd>/</kbd></dt><dd>Go to the filter of the page</dd>
      <dt><kbd>?</kbd></dt><dd>Show this list</dd>
      <dt><kbd>Esc</kbd></dt><dd>Close a dialog</dd>
      ${PAGES.map(({ key, title, name }) => html`<dt key=${name}><kbd>g</kbd> <kbd>${key}</kbd></dt><dd>${title}</dd>`)}
    </dl><//>`;
}

function Missing() {
  useEffect(() => { document.title = 'Outrigger'; }, []);
  return html`<div class="state"><h1 id="page-title" tabindex="-1">There is no such page</h1><p><a href="#/overview">Go to the overview</a></p></div>`;
}

/** `g` and a letter go to a page, `/` goes to its filter, `?` shows all keys. */
function listenForKeys(showHelp) {
  let pressed = 0;
  const onKey = (event) => {
    const isTyping = event.target.closest?.('input,textarea,select');
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
    if (event.key === '/') {
      const filter = document.querySelector('[data-filter]');
      if (!filter) return;
      event.preventDefault();
      filter.focus();
      filter.select();
    } else if (event.key === '?') showHelp();
    else if (event.key === 'g') pressed = Date.now();
    else if (Date.now() - pressed < 1500) {
      const page = PAGES.find(({ key }) => key === event.key);
      pressed = 0;
      if (page) location.hash = link(page.name);
    }
  };
  addEventListener('keydown', onKey);
  return () => removeEventListener('keydown', onKey);
}

render(html`<${App} />`, document.getElementById('app'));
