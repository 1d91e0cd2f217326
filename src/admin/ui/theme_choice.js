// The theme: light, dark, or that of the system.
import { Observable } from './dom.js';

const KEY = 'outrigger.theme';

/** Changes when colours do. */
export const themeChange = new Observable(0);

const chosen = () => document.documentElement.dataset.theme ?? 'auto';

export const theme = new Observable(chosen());

export function setTheme(name) {
  if (name === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try { localStorage.setItem(KEY, name); } catch { /* it lasts as long as the page */ }
  theme.set(name);
  themeChange.set(themeChange.value + 1);
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => themeChange.set(themeChange.value + 1));
