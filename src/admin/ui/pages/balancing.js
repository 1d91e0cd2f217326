// Load balancing.
import { html } from '../dom.js';
import { Page, State } from '../parts.js';

export function Balancing() {
  return html`<${Page} title="Load balancing"><section class="card"><${State} title="This page is being written" /></section><//>`;
}
