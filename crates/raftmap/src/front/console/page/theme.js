// Light or dark, as the system says or as somebody chose. No module: it runs before the first line is drawn.

(() => {
  const STORED = 'raftmap-theme';
  const THEMES = ['system', 'light', 'dark'];
  const NAMES = { system: 'as the system', light: 'light', dark: 'dark' };
  let theme = localStorage.getItem(STORED);
  if (!THEMES.includes(theme)) theme = 'system';

  function show() {
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById('theme');
    if (!button) return;
    const label = `Colours: ${NAMES[theme]}`;
    button.setAttribute('aria-label', label);
    button.title = `${label} (t)`;
  }

  show();
  document.addEventListener('DOMContentLoaded', () => {
    show();
    document.getElementById('theme').addEventListener('click', () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      localStorage.setItem(STORED, theme);
      show();
      document.getElementById('announcer').textContent = `Colours: ${NAMES[theme]}`;
    });
  });
})();
