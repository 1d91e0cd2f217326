// Caches.
import { html } from '../dom.js';
import { Page, State } from '../parts.js';

export function Caches() {
  return html`<${Page} title="Caches"><section class="card"><${State} title="This page is being written" /></section><//>`;
}
