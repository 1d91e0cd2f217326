// Degradation.
import { html } from '../dom.js';
import { Page, State } from '../parts.js';

export function Degradation() {
  return html`<${Page} title="Degradation"><section class="card"><${State} title="This page is being written" /></section><//>`;
}
