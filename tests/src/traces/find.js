// Names the kinds of traces that are here.
(async () => {
  const canary = 'canary-of-the-former-holder';
  const soon = (it) => Promise.race([it, new Promise((_, late) => setTimeout(late, 1000))]);
  const stored = (path) => fetch(path, { cache: 'only-if-cached', mode: 'same-origin' });
  const echo = await (await fetch('/echo')).text();
  const kinds = {
    'cookie by script': () => document.cookie.includes('written='),
    'cookie by header': () => document.cookie.includes('kept='),
    'cookie of the session': () => document.cookie.includes('brief='),
    'cookie that scripts do not see': () => echo.includes('hidden='),
    'cookie store': async () => (await cookieStore.getAll()).some((it) => it.name === 'stored'),
    'local storage': () => localStorage.getItem('canary') === canary,
    'session storage': () => sessionStorage.getItem('canary') === canary,
    'window name': () => window.name === canary,
    'history': () => history.length > 2,
    'indexed database': async () => (await indexedDB.databases()).some((it) => it.name === canary),
    'cache of scripts': async () => (await caches.keys()).includes(canary),
    'service worker': async () => (await navigator.serviceWorker.getRegistrations()).length > 0,
    'answer of a service worker': async () => (await fetch('/by-worker')).ok,
    'private file': async () => {
      const root = await navigator.storage.getDirectory();
      return (await root.getFileHandle(canary)) !== null;
    },
    'storage bucket': async () => (await navigator.storageBuckets.keys()).includes('canary-bucket'),
    'storage in use': async () => (await navigator.storage.estimate()).usage > 10000,
    'cached answer': async () => (await stored('/cached')).ok,
    'cached redirect': async () => (await stored('/moved')).redirected,
    'validator of an answer': async () => (await fetch('/validated')).headers.get('x-seen') === 'true',
    // Without them a browser may ask somebody, and wait.
    'credentials': async () => (await soon(fetch('/login'))).ok,
    'shared worker': async () => {
      const worker = new SharedWorker('/shared.js');
      return (await soon(new Promise((done) => { worker.port.onmessage = done; }))).data > 1;
    },
    'clipboard': async () => (await soon(navigator.clipboard.readText())) === canary,
    'written field': () => document.querySelector('#name')?.value === canary,
    'user agent': () => navigator.userAgent.includes('Canary'),
    'language': () => navigator.language === 'de-CH',
    'time zone': () => Intl.DateTimeFormat().resolvedOptions().timeZone === 'Asia/Tokyo',
    'viewport': () => innerWidth === 777,
    'pixel ratio': () => devicePixelRatio === 2,
    'granted permission': async () => {
      const names = ['geolocation', 'notifications', 'camera', 'microphone', 'clipboard-read', 'midi'];
      const asked = names.map((name) => navigator.permissions.query({ name }));
      return (await Promise.all(asked)).some((it) => it.state === 'granted');
    },
    'lasting storage': () => navigator.storage.persisted(),
  };
  const found = [];
  for (const [kind, is] of Object.entries(kinds)) {
    try {
      if (await is()) found.push(kind);
    } catch { /* Nothing is there. */ }
  }
  return found;
})()
