// Sets the chosen theme before the first paint. `auto` follows the system.
(() => {
  let chosen = 'auto';
  try { chosen = localStorage.getItem('outrigger.theme') || 'auto'; } catch { /* storage is blocked */ }
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
})();
