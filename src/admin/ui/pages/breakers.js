// Breakers.
import { html } from '../dom.js';
import { Page, State } from '../parts.js';

export function Breakers() {
  return html`<${Page} title="Breakers"><section class="card"><${State} title="This page is being written" /></section><//>`;
}
