// Leaves every kind of trace that a page can without being asked by anybody.
(async () => {
  const canary = 'canary-of-the-former-holder';
  document.cookie = `written=${canary}; max-age=86400`;
  await fetch('/cookies');
  await cookieStore.set({ name: 'stored', value: canary, expires: Date.now() + 86400000 });
  localStorage.setItem('canary', canary);
  sessionStorage.setItem('canary', canary);
  window.name = canary;
  history.pushState({ canary }, '', `/#${canary}`);
  const database = await new Promise((done, failed) => {
    const opening = indexedDB.open(canary, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore('traces');
    opening.onsuccess = () => done(opening.result);
    opening.onerror = failed;
  });
  await new Promise((done, failed) => {
    const writing = database.transaction('traces', 'readwrite');
    writing.objectStore('traces').put(canary, 'canary');
    writing.oncomplete = done;
    writing.onerror = failed;
  });
  database.close();
  const cache = await caches.open(canary);
  await cache.put('/canary', new Response(canary));
  await navigator.serviceWorker.register('/worker.js');
  await new Promise((done) => {
    navigator.serviceWorker.oncontrollerchange = done;
    if (navigator.serviceWorker.controller) done();
  });
  const root = await navigator.storage.getDirectory();
  const file = await (await root.getFileHandle(canary, { create: true })).createWritable();
  await file.write(canary.repeat(1000));
  await file.close();
  if (navigator.storageBuckets) await navigator.storageBuckets.open('canary-bucket');
  await fetch('/cached');
  await fetch('/moved');
  await fetch('/validated');
  await new Promise((done) => {
    const request = new XMLHttpRequest();
    request.open('GET', '/login', true, 'user', 'password');
    request.onloadend = done;
    request.send();
  });
  window.shared = new SharedWorker('/shared.js');
  await new Promise((done) => { window.shared.port.onmessage = done; });
  const popup = document.createElement('a');
  Object.assign(popup, { href: '/download', download: 'canary.bin' });
  popup.click();
  try { await navigator.clipboard.writeText(canary); } catch { /* Not without a focus. */ }
  document.querySelector('#name').value = canary;
  return 'left';
})()
