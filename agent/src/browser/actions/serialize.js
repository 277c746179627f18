// Writes the object that it is called on as JSON, in the page's own world, and
// says what kind of value it is. What JSON lacks gets a form of its own:
//
//   NaN, Infinity, -0  {"$number": "NaN"}       BigInt        {"$bigint": "12"}
//   Date               {"$date": "2026-…Z"}     RegExp        {"$regexp": "/a/g"}
//   Map                {"$map": [[k, v], …]}    Set           {"$set": [v, …]}
//   Error              {"$error": {name, message, stack}}
//   typed array        {"$typedarray": {type, values}}
//   ArrayBuffer        {"$arraybuffer": {bytes}}
//   DOM node           {"$node": {type, tag, id, class, text}}
//   window             {"$window": url}         Promise       {"$promise": true}
//   function, symbol   {"$function": name}      {"$symbol": description}
//   a value above itself {"$ref": "$.path"}     below the depth limit {"$deep": kind}
//   a getter that threw  {"$throws": message}
function (bytes_max, depth_max) {
  'use strict';
  class TooLarge extends Error {}
  const tag_of = (value) => Object.prototype.toString.call(value).slice(8, -1);
  const parts = [];
  let size = 0;
  const put = (text) => {
    size += text.length;
    if (size > bytes_max) throw new TooLarge();
    parts.push(text);
  };
  const quote = (value) => {
    const text = String(value);
    if (text.length > bytes_max) throw new TooLarge();
    // Half of a surrogate pair has no UTF-8.
    return JSON.stringify(text.toWellFormed());
  };
  const is_window = (value) => { try { return value.window === value && 'location' in value; } catch { return false; } };

  function kind_of(value) {
    if (value === null) return 'null';
    if (typeof value !== 'object') return typeof value;
    if (Array.isArray(value)) return 'array';
    if (is_window(value)) return 'window';
    if (typeof value.nodeType === 'number' && typeof value.nodeName === 'string') return 'node';
    if (ArrayBuffer.isView(value)) return value instanceof DataView ? 'dataview' : 'typedarray';
    if (value instanceof Error) return 'error';
    const tag = tag_of(value).toLowerCase();
    return ['date', 'map', 'set', 'regexp', 'error', 'promise', 'arraybuffer', 'weakmap', 'weakset'].includes(tag) ? tag : 'object';
  }

  const above = new Map();

  function form(name, write) {
    put(`{"$${name}":`);
    write();
    put('}');
  }

  function list(values, path, depth) {
    put('[');
    let index = 0;
    for (const value of values) {
      if (index) put(',');
      write(value, `${path}[${index++}]`, depth);
    }
    put(']');
  }

  function fields(entries, path, depth) {
    put('{');
    let first = true;
    for (const [key, read] of entries) {
      let value;
      let failure;
      try { value = read(); } catch (error) { failure = error; }
      if (value === undefined && failure === undefined) continue;
      put(`${first ? '' : ','}${quote(key)}:`);
      first = false;
      if (failure === undefined) write(value, `${path}.${key}`, depth);
      else form('throws', () => put(quote(failure?.message ?? failure)));
    }
    put('}');
  }

  function write(value, path, depth) {
    switch (typeof value) {
      case 'undefined': return put('null');
      case 'string': return put(quote(value));
      case 'boolean': return put(value ? 'true' : 'false');
      case 'bigint': return form('bigint', () => put(quote(value)));
      case 'symbol': return form('symbol', () => put(quote(value.description ?? '')));
      case 'function': return form('function', () => put(quote(value.name)));
      case 'number':
        if (Number.isFinite(value) && !Object.is(value, -0)) return put(String(value));
        return form('number', () => put(quote(Object.is(value, -0) ? '-0' : value)));
    }
    if (value === null) return put('null');
    if (above.has(value)) return form('ref', () => put(quote(above.get(value))));
    const kind = kind_of(value);
    if (depth >= depth_max) return form('deep', () => put(quote(kind)));
    above.set(value, path);
    compound(value, kind, path, depth + 1);
    above.delete(value);
  }

  const object = (value, keys) => keys.map((key) => [key, () => value[key]]);

  function compound(value, kind, path, depth) {
    switch (kind) {
      case 'array': return list(value, path, depth);
      case 'date': return form('date', () => put(Number.isNaN(+value) ? 'null' : quote(value.toISOString())));
      case 'regexp': return form('regexp', () => put(quote(value)));
      case 'promise': return form('promise', () => put('true'));
      case 'map': return form('map', () => list(Map.prototype.entries.call(value), path, depth));
      case 'set': return form('set', () => list(Set.prototype.values.call(value), path, depth));
      case 'window': return form('window', () => { let url = ''; try { url = value.location.href; } catch { /* another origin's */ } put(quote(url)); });
      case 'error': return form('error', () => fields(object(value, ['name', 'message', 'stack']), path, depth));
      case 'arraybuffer': return form('arraybuffer', () => put(`{"bytes":${value.byteLength}}`));
      case 'dataview': return form('dataview', () => put(`{"bytes":${value.byteLength}}`));
      case 'typedarray': return form('typedarray', () => fields([['type', () => tag_of(value)], ['values', () => Array.from(value)]], path, depth));
      case 'node': return form('node', () => fields([
        ['type', () => value.nodeType],
        ['tag', () => value.nodeName.toLowerCase()],
        ['id', () => value.id || undefined],
        ['class', () => value.getAttribute?.('class') || undefined],
        ['text', () => value.textContent?.slice(0, 200) || undefined],
      ], path, depth));
    }
    if (typeof value.toJSON === 'function') return write(value.toJSON(), path, depth);
    fields(object(value, Object.keys(value)), path, depth);
  }

  let kind = 'object';
  try {
    kind = kind_of(this);
    write(this, '$', 0);
    return { kind, json: parts.join('') };
  } catch (error) {
    if (error instanceof TooLarge) return { kind };
    return { kind, json: `{"$throws":${JSON.stringify(String(error?.message))}}` };
  }
}
