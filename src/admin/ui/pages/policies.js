// Policies.
import { html } from '../dom.js';
import { Page, State } from '../parts.js';

export function Policies() {
  return html`<${Page} title="Policies"><section class="card"><${State} title="This page is being written" /></section><//>`;
}
