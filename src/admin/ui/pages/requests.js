// Requests.
import { html } from '../dom.js';
import { Page, State } from '../parts.js';

export function Requests() {
  return html`<${Page} title="Requests"><section class="card"><${State} title="This page is being written" /></section><//>`;
}
