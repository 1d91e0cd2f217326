// Retries and budget.
import { html } from '../dom.js';
import { Page, State } from '../parts.js';

export function Retries() {
  return html`<${Page} title="Retries and budget"><section class="card"><${State} title="This page is being written" /></section><//>`;
}
