// The page of the server: what it shows comes from below /page/, what it orders goes to the REST door.
// What people wrote is only ever set as text. The key lives in one variable, and goes with each request as a header.

const PAGE = 100; // operations of one page of the list
const AHEAD = 4; // rows that are made above and below what is seen
const THUMBNAILS = 400; // small pictures that are kept in memory
const AT_ONCE = 4; // small pictures that are fetched at a time: a browser has six connections for all tabs
const SILENCE = 25_000; // ms after which a stream is held for lost; the server says something every 10 s
const LONGEST_PAUSE = 15_000; // ms from one attempt to the next
const AWAY = 60_000; // ms after which a page that nobody sees hangs up
const ATTEMPTS = 8; // how often an order is sent whose answer is lost
const RANK = { accepted: 0, running: 1, done: 2, failed: 2 };
const WORDS = { accepted: "waiting", running: "drawing", done: "done", failed: "failed" };

const $ = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const pause = (attempt) => Math.min(LONGEST_PAUSE, 500 * 2 ** attempt) * (0.75 + Math.random() / 2);

let key = "";
let session = null; // who looks, as the server says it; null until it has said so
let scope = null; // names the store, which remembers the keys of orders
let ahead = 0; // seconds that the clock of the server is ahead of ours

const now = () => Date.now() / 1000 + ahead;

// ---------------------------------------------------------------- asking

/** An answer that says no: its words, and its status. */
class Refused extends Error {
  constructor(status, words, retryAfter) {
    super(words);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Ask the server; throws `Refused` where it says no, and TypeError or AbortError where no answer came. */
async function ask(path, { headers = {}, ...options } = {}) {
  const known = key ? { authorization: `Api-Key ${key}` } : {};
  const answer = await fetch(path, { ...options, headers: { ...headers, ...known } });
  scope = answer.headers.get("idempotency-scope") ?? scope;
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const refused = new Refused(answer.status, told.message ?? `The server answered ${answer.status}.`, Number(answer.headers.get("retry-after")));
  if (refused.status === 401) signIn(key ? refused.message : "");
  throw refused;
}

const asked = async (path, options) => (await ask(path, options)).json();

/** Read a stream of events until it ends; `heard` is given the kind and the content of each. */
async function follow(path, heard, signal) {
  const silent = new AbortController();
  const answer = await ask(path, { signal: AbortSignal.any([signal, silent.signal]) });
  let watch = setTimeout(() => silent.abort(), SILENCE);
  let rest = "";
  try {
    for await (const piece of read(answer.body.pipeThrough(new TextDecoderStream()))) {
      clearTimeout(watch);
      watch = setTimeout(() => silent.abort(), SILENCE);
      const events = (rest + piece).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const kind = /^event: (.*)$/m.exec(event);
        const data = /^data: (.*)$/m.exec(event);
        if (kind && data) heard(kind[1], JSON.parse(data[1]));
      }
    }
  } finally {
    clearTimeout(watch);
    silent.abort();
  }
}

/** The pieces of a stream; not every browser iterates one by itself. */
async function* read(stream) {
  const reader = stream.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) yield piece.value;
}

// ---------------------------------------------------------------- saying

function announce(words) {
  $("announcer").textContent = words;
}

const number = (value, digits = 0) => value.toLocaleString(undefined, { maximumFractionDigits: digits });

function span(seconds) {
  if (seconds < 1) return `${number(seconds * 1000)} ms`;
  if (seconds < 100) return `${number(seconds, 1)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${number(minutes / 60, 1)} h`;
}

function clock(time) {
  const date = new Date(time * 1000);
  const hour = date.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
  if (date.toDateString() === new Date().toDateString()) return hour;
  return `${date.toLocaleDateString(undefined, { day: "numeric", month: "short" })}, ${hour}`;
}

/** How long a picture took, or takes until now. */
const seconds = (one) => Math.max(0, (one.ended ?? now()) - (one.started ?? one.created));

function stateOf(one) {
  if (one.kind === "done") return "";
  if (one.kind === "failed") return one.error.code === "CANCELLED" ? "cancelled" : "failed";
  return `${WORDS[one.kind]} · ${span(seconds(one))}`;
}

const short = (text, size = 80) => (text.length > size ? `${text.slice(0, size)}…` : text);

const times = (size) => size.replace("x", " × ");

// ---------------------------------------------------------------- small pictures

const small = new Map(); // by id, the one used last at the end: {url, size}
const wanted = new Set(); // ids of cards that wait for theirs
const without = new Set(); // ids of pictures that cannot be made small
let fetching = 0;

function thumbnailOf(id) {
  const kept = small.get(id);
  if (kept) {
    small.delete(id);
    small.set(id, kept);
  }
  return kept;
}

async function fetchThumbnails() {
  while (fetching < AT_ONCE && wanted.size) {
    const [id] = wanted;
    wanted.delete(id);
    if (small.has(id) || without.has(id) || !cards.has(id)) continue;
    fetching += 1;
    fetchThumbnail(id).finally(() => {
      fetching -= 1;
      fetchThumbnails();
    });
  }
}

async function fetchThumbnail(id) {
  try {
    const answer = await ask(`/page/operations/${encodeURIComponent(id)}/thumbnail`);
    small.set(id, { url: URL.createObjectURL(await answer.blob()), size: answer.headers.get("x-image-size") });
    for (const old of small.keys()) {
      if (small.size <= THUMBNAILS) break;
      if (cards.has(old)) continue;
      URL.revokeObjectURL(small.get(old).url);
      small.delete(old);
    }
    if (cards.has(id)) fill(cards.get(id), operations.get(id));
  } catch (error) {
    if (error instanceof Refused && error.status === 404) without.add(id);
    else if (error instanceof Refused && error.status === 429) {
      wanted.add(id);
      await sleep(Math.max(1, error.retryAfter) * 1000);
    }
  }
}

// ---------------------------------------------------------------- the list

const operations = new Map(); // everything that was heard of and is listed, by id
let items = []; // their ids, newest first
let held = []; // ids that came while somebody was looking further down
let cards = new Map(); // what is in the document, by id: so much as can be seen
let complete = false; // whether nothing comes behind the last one
let loading = null; // the AbortController of the page that is being fetched
let opened = null; // the id of the one that is shown large

const filter = () => ({ kind: document.querySelector("[name=kind]:checked").value, search: $("search").value.trim() });

function matches(one) {
  const { kind, search } = filter();
  const folded = (text) => text.normalize("NFKC").toLowerCase();
  const said = one.messages.map((message) => message.text).join("\n");
  return (!kind || one.kind === kind) && (!search || folded(said).includes(folded(search)) || one.id === search);
}

/** Fetch the next page of the list, or the first one again. */
async function load(again = false) {
  if (loading && !again) return;
  loading?.abort();
  const mine = (loading = new AbortController());
  const { kind, search } = filter();
  const last = again ? null : operations.get(items.at(-1));
  const body = JSON.stringify({ limit: PAGE, kind: kind || null, search, before: last ? [last.created, last.id] : null });
  try {
    const headers = { "content-type": "application/json" };
    const found = await asked("/page/list", { method: "POST", headers, body, signal: mine.signal });
    ahead = found.now - Date.now() / 1000;
    since ??= found.now;
    if (again) {
      items = [];
      held = [];
      operations.clear();
    }
    for (const one of found.operations) {
      if (!operations.has(one.id)) items.push(one.id);
      operations.set(one.id, one);
    }
    complete = found.operations.length < PAGE;
    loading = null;
    if (again && (kind || search)) announce(complete ? `${items.length} found` : `more than ${items.length - 1} found`);
    draw();
  } catch (error) {
    if (loading === mine) loading = null;
    if (error.name === "AbortError") return;
    if (error.status === 429) await sleep(Math.max(1, error.retryAfter) * 1000).then(() => load(again));
    else if (error instanceof Refused && error.status !== 401) announce(error.message);
  }
}

/** Take in what happened to an operation. States only move forward, in whatever order news comes. */
function hear(one) {
  const known = operations.get(one.id);
  if (known && RANK[known.kind] > RANK[one.kind]) return;
  if (known) {
    operations.set(one.id, one);
    if (!matches(one) && opened !== one.id) items = items.filter((id) => id !== one.id);
    else if (cards.has(one.id)) fill(cards.get(one.id), one);
  } else if (matches(one) && isNew(one)) {
    operations.set(one.id, one);
    held.push(one.id);
  }
}

/** Whether it belongs above the last one of the list; the others come when somebody scrolls so far. */
function isNew(one) {
  const last = operations.get(items.at(-1));
  return complete || !last || one.created > last.created || (one.created === last.created && one.id > last.id);
}

/** Show what is new at once, or say that there is something, to whoever looks further down. */
function settle() {
  const isAway = $("list").getBoundingClientRect().top < -40 || $("detail").open || $("list").contains(document.activeElement);
  if (held.length && !isAway) release();
  $("fresh").hidden = !held.length;
  $("fresh").textContent = held.length === 1 ? "1 new picture" : `${held.length} new pictures`;
  draw();
}

function release() {
  items.push(...held);
  held = [];
  const order = (one) => operations.get(one);
  items.sort((a, b) => order(b).created - order(a).created || (order(b).id > order(a).id ? 1 : -1));
}

/** Bring the cards that can be seen into the document, and take the others out of it. */
function draw() {
  const list = $("list");
  const style = getComputedStyle(list);
  const columns = style.gridTemplateColumns.split(" ").length;
  const row = parseFloat(style.gridAutoRows) + parseFloat(style.rowGap);
  const rows = Math.ceil(items.length / columns);
  list.style.height = rows ? `${rows * row}px` : "";
  const top = Math.floor(-list.getBoundingClientRect().top / row) - AHEAD;
  const first = Math.max(0, top) * columns;
  const end = Math.min(items.length, (Math.max(0, top + 2 * AHEAD) + Math.ceil(innerHeight / row)) * columns);
  const places = new Map();
  for (let at = first; at < end; at += 1) places.set(items[at], at);
  const focused = document.activeElement?.closest("#list li")?.dataset.id;
  if (focused && !places.has(focused) && items.includes(focused)) places.set(focused, items.indexOf(focused));
  for (const [id, card] of cards) {
    if (places.has(id)) continue;
    card.remove();
    cards.delete(id);
    wanted.delete(id);
  }
  let before = null;
  for (const [id, at] of [...places].sort((a, b) => a[1] - b[1])) {
    const card = cards.get(id) ?? made(id);
    card.style.gridArea = `${Math.floor(at / columns) + 1} / ${(at % columns) + 1}`;
    card.setAttribute("aria-posinset", at + 1);
    card.setAttribute("aria-setsize", complete ? items.length : -1);
    const next = before ? before.nextSibling : list.firstChild;
    if (next !== card) list.insertBefore(card, next);
    before = card;
  }
  fetchThumbnails();
  const { kind, search } = filter();
  $("nothing").hidden = items.length > 0 || !session;
  $("nothing").textContent = kind || search ? "Nothing fits." : "Nothing was ordered here yet.";
  if (!complete && !loading && session && items.length && end > items.length - 2 * AHEAD * columns) load();
}

function made(id) {
  const card = $("card").content.firstElementChild.cloneNode(true);
  card.dataset.id = id;
  card.querySelector(".picture").addEventListener("click", () => open(id));
  cards.set(id, card);
  fill(card, operations.get(id));
  return card;
}

function fill(card, one) {
  card.dataset.kind = one.kind;
  const kept = one.kind === "done" ? thumbnailOf(one.id) : null;
  const image = card.querySelector("img");
  if (kept && image.src !== kept.url) image.src = kept.url;
  image.hidden = !kept;
  if (one.kind === "done" && !kept && !without.has(one.id)) {
    wanted.add(one.id);
    fetchThumbnails();
  }
  card.querySelector(".state").textContent = stateOf(one);
  card.querySelector(".why").textContent = one.error?.message ?? "";
  card.querySelector(".prompt").textContent = one.prompt;
  card.querySelector(".picture").setAttribute("aria-label", `Open ${short(one.prompt)}, ${WORDS[one.kind]}`);
  const [first, more] = card.querySelectorAll(".facts");
  const took = one.kind === "done" && span(seconds(one));
  first.textContent = [took, kept?.size ? times(kept.size) : one.ratio, one.seed && `seed ${one.seed}`].filter(Boolean).join(" · ");
  more.textContent = [clock(one.created), one.model, one.caller].filter(Boolean).join(" · ");
}

// ---------------------------------------------------------------- news

let since = null; // up to when the server told what happened, by its clock
let hangUp = null; // ends the stream of news
let hidden = null; // the timer that does, when nobody sees the page

function say(state, words) {
  $("connection").dataset.state = state;
  if ($("connection").textContent !== words) $("connection").textContent = words;
}

/** Hear what happens to operations, for ever: a connection that is lost is made again. */
async function listen() {
  for (let attempt = 0; ; attempt += 1) {
    hangUp = new AbortController();
    let words = "Connection lost";
    try {
      await (session ?? enter());
      await follow(`/page/news${since === null ? "" : `?since=${since}`}`, (kind, told) => {
        attempt = 0;
        say("live", "Live");
        if (kind !== "news") return;
        since = told.now;
        ahead = told.now - Date.now() / 1000;
        told.operations.forEach(hear);
        if (told.more) load(true);
        if (told.operations.length) {
          settle();
          redraw();
          plotSoon();
        }
      }, hangUp.signal);
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        say("lost", "Not signed in");
        await signedIn;
        continue;
      }
      if (error instanceof Refused) words = error.message;
      else if (error.name !== "AbortError" && error.name !== "TypeError") throw error;
    }
    if (!session) continue; // somebody else looks now
    if (document.hidden) {
      say("paused", "Paused");
      await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
      attempt = 0;
      continue;
    }
    const wait = pause(attempt);
    say("lost", attempt < 2 ? `${words}. Trying again…` : `${words}. Trying again every ${Math.ceil(wait / 1000)} s`);
    await Promise.race([sleep(wait), new Promise((back) => addEventListener("online", back, { once: true }))]);
  }
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hidden);
  if (document.hidden) hidden = setTimeout(() => hangUp?.abort(), AWAY);
});

// ---------------------------------------------------------------- who looks

let letIn = null;
let signedIn = new Promise((done) => (letIn = done));

/** Ask who we are, and show what is ours. */
async function enter() {
  session = await asked("/page/session");
  $("who").textContent = key ? `${session.caller || "Signed in"} · sign out` : "Sign in";
  if (session.folder) $("folder").value = session.folder;
  $("folder").readOnly = Boolean(session.folder);
  if (!session.charges && !$("folder").value) $("folder").value = "demo";
  $("models").replaceChildren(...session.models.map((name) => Object.assign(document.createElement("option"), { value: name })));
  await load(true);
  if (!$("folder").value && items.length) $("folder").value = operations.get(items[0]).folder;
  plot();
}

function signIn(trouble = "") {
  $("key-trouble").textContent = trouble;
  if ($("sign-in").open) return;
  $("key").value = "";
  $("sign-in").showModal();
  $("key").focus();
}

/** Forget who looked and all that he saw, and begin again with another key, or with none. */
function become(given) {
  key = given;
  session = since = null;
  items = [];
  held = [];
  operations.clear();
  for (const { url } of small.values()) URL.revokeObjectURL(url);
  small.clear();
  without.clear();
  samples.clear();
  leaveEasel();
  $("folder").value = "";
  $("detail").close();
  draw();
  letIn();
  signedIn = new Promise((done) => (letIn = done));
  hangUp?.abort();
}

$("who").addEventListener("click", () => (key ? become("") : signIn()));
$("key-cancel").addEventListener("click", () => $("sign-in").close());
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  $("key").value = "";
  if (!/^[!-~]+$/.test(given)) {
    $("key-trouble").textContent = "A key is printable ASCII without spaces.";
    return;
  }
  $("sign-in").close();
  become(given);
});

// ---------------------------------------------------------------- ordering

let pending = null; // an order of which nobody knows whether it arrived: {id, body, scope, sent}
let givenUp = false;

function orderOf() {
  const options = { mimeType: "image/jpeg" };
  if ($("seed").value) options.seed = $("seed").value;
  const [widthRatio, heightRatio] = $("ratio").value.split(":");
  if (heightRatio) options.aspectRatio = { widthRatio, heightRatio };
  const modelUri = `art://${$("folder").value.trim()}/${$("model").value.trim()}`;
  return JSON.stringify({ modelUri, messages: [{ text: $("prompt").value, weight: "1" }], generationOptions: options });
}

/** A name that no other order has. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Send the order until there is an answer; under its one name it is one picture, however often it is sent. */
async function send() {
  for (let attempt = 0; ; attempt += 1) {
    try {
      // Another store would not know the name: there, the same order would be a second picture.
      if (pending.sent) await ask("/page/session");
      if (pending.scope && scope !== pending.scope) {
        pending = null;
        throw new Refused(0, "The server came back with another store. Whether your picture was ordered is not known; it was not ordered again.");
      }
      pending.scope = scope;
      pending.sent = true;
      const headers = { "content-type": "application/json", "idempotency-key": pending.id };
      const body = pending.body;
      return await asked("/foundationModels/v1/imageGenerationAsync", { method: "POST", headers, body });
    } catch (error) {
      const isLost = !(error instanceof Refused) || error.status >= 500;
      if (!isLost) {
        pending = null; // it said no, so nothing was ordered
        throw error;
      }
      if (givenUp || attempt + 1 >= ATTEMPTS) throw new Refused(0, "No answer came. If the order arrived, its picture appears below; “Draw” asks for the same one.");
      $("trouble").textContent = "The answer was lost. Asking again, for the same picture…";
      $("give-up").hidden = false;
      await sleep(pause(attempt));
    }
  }
}

$("order").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = orderOf();
  if (pending?.body !== body) pending = { id: newKey(), body, scope };
  $("trouble").textContent = "";
  $("draw").disabled = true;
  givenUp = false;
  const prompt = $("prompt").value;
  try {
    const accepted = await send();
    pending = null;
    $("trouble").textContent = "";
    watch(accepted.id, prompt);
  } catch (error) {
    $("trouble").textContent = error.message;
  } finally {
    $("draw").disabled = false;
    $("give-up").hidden = true;
  }
});

$("give-up").addEventListener("click", () => (givenUp = true));
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("order").requestSubmit();
});
$("prompt").addEventListener("input", () => {
  const left = 500 - [...$("prompt").value].length;
  $("left").textContent = left < 100 ? `${left} characters left` : "";
});

// ---------------------------------------------------------------- the easel

let easel = null; // what is being watched: {id, prompt, stop}

function leaveEasel() {
  easel?.stop.abort();
  easel = null;
  delete $("easel").dataset.drawing;
  delete $("easel").dataset.used;
  $("easel-image").hidden = true;
  $("easel-open").disabled = true;
  $("easel-progress").hidden = true;
  $("easel-state").textContent = "Your picture appears here as it is drawn.";
}

function show(blob) {
  const image = $("easel-image");
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.hidden = false;
}

/** Show a picture as it is drawn. */
async function watch(id, prompt) {
  leaveEasel();
  const mine = (easel = { id, prompt, stop: new AbortController() });
  $("easel").dataset.drawing = $("easel").dataset.used = "";
  $("easel-open").disabled = false;
  $("easel-progress").hidden = false;
  $("easel-state").textContent = "Waiting for its turn…";
  announce("Ordered");
  let last = null;
  for (let attempt = 0; easel === mine && !last; attempt += 1) {
    try {
      await follow(`/page/operations/${encodeURIComponent(id)}/sketches`, (kind, told) => {
        if (easel !== mine) return;
        if (kind === "sketch") {
          show(new Blob([Uint8Array.from(atob(told.image), (letter) => letter.charCodeAt(0))], { type: "image/jpeg" }));
          $("easel-state").textContent = "Drawing…";
        }
        if (kind === "operation" && RANK[told.kind] === 2) last = told;
      }, mine.stop.signal);
    } catch (error) {
      if (error instanceof Refused && error.status === 404) break;
    }
    if (!last) await sleep(pause(attempt));
  }
  if (easel !== mine) return;
  if (!last) {
    leaveEasel();
    return;
  }
  delete $("easel").dataset.drawing;
  $("easel-progress").hidden = true;
  hear(last);
  settle();
  if (last.kind === "failed") {
    $("easel-state").textContent = last.error.message;
    announce(`There is no picture: ${last.error.message}`);
    return;
  }
  const answer = await ask(`/page/operations/${encodeURIComponent(id)}/image`).catch(() => null);
  if (answer) show(await answer.blob());
  $("easel-image").alt = prompt;
  $("easel-state").textContent = `Ready after ${span(last.ended - last.created)}`;
  announce(`Your picture is ready: ${short(prompt)}`);
}

$("easel-open").addEventListener("click", () => easel && open(easel.id));

// ---------------------------------------------------------------- one picture, large

let shown = null; // the operation in the dialog, with the command and the program
let large = null; // the blob: URL of its picture
let asking = 0; // counts what was opened: an answer that comes too late is dropped

async function open(id) {
  opened = id;
  if (!$("detail").open) {
    blank(operations.get(id));
    $("detail").showModal();
  }
  await present(id);
  $("detail-prompt").focus();
}

function blank(one) {
  $("detail-image").hidden = true;
  $("detail-missing").textContent = "";
  $("detail-prompt").textContent = one?.prompt ?? "";
  $("provenance").replaceChildren();
  $("command").textContent = $("program").textContent = "";
  $("save").hidden = $("cancel").hidden = true;
}

async function present(id) {
  const turn = (asking += 1);
  const at = items.indexOf(id);
  $("previous").disabled = at <= 0;
  $("next").disabled = at < 0 || at + 1 >= items.length;
  const path = `/page/operations/${encodeURIComponent(id)}`;
  try {
    const one = await asked(path);
    if (turn !== asking) return;
    shown = one;
    describe(one);
    if (one.kind !== "done") {
      $("detail-image").hidden = true;
      $("detail-missing").textContent = one.error ? one.error.message : `It is ${one.kind === "running" ? "being drawn" : "waiting for its turn"}…`;
      return;
    }
    const blob = await (await ask(`${path}/image`)).blob();
    if (turn !== asking) return;
    if (large) URL.revokeObjectURL(large);
    large = URL.createObjectURL(blob);
    $("detail-missing").textContent = "";
    $("detail-image").src = $("save").href = large;
    $("detail-image").alt = one.prompt;
    $("save").download = `${one.id}.jpeg`;
    $("detail-image").hidden = $("save").hidden = false;
  } catch (error) {
    if (turn !== asking) return;
    blank(operations.get(id));
    $("detail-missing").textContent = error instanceof Refused ? error.message : "The server does not answer.";
  }
}

function describe(one) {
  const messages = one.messages.length > 1 && one.messages.map((message) => `${message.weight}: ${message.text}`).join("\n");
  const facts = {
    State: one.error ? `${stateOf(one)}, ${one.error.code}` : WORDS[one.kind],
    Messages: messages,
    "Asked by": one.caller,
    Asked: new Date(one.created * 1000).toLocaleString(),
    "Waited for its turn": one.started && span(one.started - one.created),
    "Took to draw": one.started && one.ended && span(one.ended - one.started),
    Size: one.width && `${one.width} × ${one.height}, ${number(one.bytes / 1000)} kB`,
    Ratio: one.ratio || "1:1, as none was asked for",
    Seed: one.seed || "none was asked for",
    Model: one.model,
    "Made by": one.modelVersion,
    Folder: one.folder,
    Attempts: one.attempts > 1 && one.attempts,
    Cost: one.attempts > 0 && (one.charged ? "it was bought" : "nothing"),
    Warnings: one.warnings.join("\n"),
    Operation: one.id,
  };
  $("detail-prompt").textContent = one.prompt;
  $("provenance").replaceChildren(
    ...Object.entries(facts)
      .filter(([, value]) => value)
      .flatMap(([name, value]) => [
        Object.assign(document.createElement("dt"), { textContent: name }),
        Object.assign(document.createElement("dd"), { textContent: value, dir: "auto" }),
      ]),
  );
  $("command").textContent = one.command ?? "";
  $("command-part").hidden = !one.command;
  $("program").textContent = one.program;
  $("seedless").hidden = Boolean(one.seed);
  $("cancel").hidden = RANK[one.kind] === 2;
}

/** Show what became of the one that is open. */
function redraw() {
  if (!$("detail").open || !shown) return;
  const known = operations.get(shown.id);
  if (known && known.kind !== shown.kind) present(known.id);
}

function step(by) {
  const at = items.indexOf(opened) + by;
  if (at < 0 || at >= items.length) return;
  opened = items[at];
  present(opened);
}

$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("click", (event) => event.target === $("detail") && $("detail").close());
$("detail").addEventListener("keydown", (event) => {
  if (event.target.closest("pre")) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
$("detail").addEventListener("close", () => {
  const id = opened;
  asking += 1;
  opened = shown = null;
  settle();
  cards.get(id)?.querySelector("button").focus();
});
$("reuse").addEventListener("click", () => {
  if (!shown) return;
  $("prompt").value = shown.prompt;
  $("detail").close();
  $("prompt").focus();
});
$("cancel").addEventListener("click", async () => {
  const id = shown?.id;
  if (!id) return;
  try {
    await ask(`/operations/${encodeURIComponent(id)}:cancel`, { method: "POST" });
    await present(id);
  } catch (error) {
    announce(error.message);
  }
});
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const from = $(button.dataset.of);
    try {
      await navigator.clipboard.writeText(from.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(from); // a browser lets nobody write there on a page without TLS
      button.textContent = "Selected";
    }
    announce(button.textContent);
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}

// ---------------------------------------------------------------- figures

const samples = new Map(); // what was left of the day of a folder, whenever we asked
let plotting = null;

function bars(figure, values, said) {
  const [width, height] = [240, 48];
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", said);
  const most = Math.max(...values, 1e-9);
  const step = width / Math.max(values.length, 30);
  values.forEach((value, at) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const tall = Math.max(1.5, (value / most) * height);
    const place = { x: width - (values.length - at) * step, y: height - tall, width: step * 0.7, height: tall };
    for (const [name, length] of Object.entries(place)) bar.setAttribute(name, length.toFixed(2));
    svg.append(bar);
  });
  figure.querySelector(".plot").replaceChildren(...(values.length ? [svg] : []));
}

function tell(id, value, hint, values, said) {
  const figure = $(id);
  figure.querySelector(".value").textContent = value;
  if (hint) figure.querySelector(".hint").textContent = hint;
  bars(figure, values, said);
}

async function plot() {
  if (!session || document.hidden) return;
  const found = await asked(`/page/figures?${new URLSearchParams({ folder: $("folder").value })}`).catch(() => null);
  if (!found) return;
  const { lags, reads, quotas } = found;
  const median = [...lags].sort((a, b) => a - b)[Math.floor(lags.length / 2)];
  tell("figure-lag", lags.length ? span(median) : "–", "", lags, `Lag of the last ${lags.length} pictures, up to ${span(Math.max(...lags, 0))}`);
  const mean = reads.reduce((sum, count) => sum + count, 0) / reads.length;
  tell("figure-reads", reads.length ? number(mean, 1) : "–", "", reads, `Reads of the last ${reads.length} pictures, up to ${Math.max(...reads, 0)}`);
  const mine = quotas.find((one) => one.folder === $("folder").value) ?? quotas[0];
  if (!mine) return;
  const left = mine.day ?? mine.minute;
  const kept = samples.get(mine.folder) ?? [];
  if (left !== null) samples.set(mine.folder, [...kept, left].slice(-60));
  const until = mine.day === null ? "at once" : `until ${clock(mine.ends)}`;
  tell("figure-quota", left === null ? "no limit" : number(left), `${until}, folder ${mine.folder}`, samples.get(mine.folder) ?? [], `${left} left of the quota of folder ${mine.folder}`);
}

/** Ask for the figures, but not more than once in two seconds. */
function plotSoon() {
  plotting ??= setTimeout(() => {
    plotting = null;
    plot();
  }, 2000);
}

// ---------------------------------------------------------------- beginning

let typing = null;
let framed = false;

$("find").addEventListener("submit", (event) => event.preventDefault());
$("find").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => load(true), event.target.type === "search" ? 250 : 0);
});
$("fresh").addEventListener("click", () => {
  release();
  $("fresh").hidden = true;
  $("list-title").scrollIntoView();
  $("list-title").focus({ preventScroll: true });
  draw();
});
for (const name of ["scroll", "resize"]) {
  addEventListener(name, () => {
    if (framed) return;
    framed = true;
    requestAnimationFrame(() => {
      framed = false;
      settle();
    });
  }, { passive: true });
}
setInterval(() => {
  for (const [id, card] of cards) if (RANK[operations.get(id).kind] < 2) fill(card, operations.get(id));
}, 1000);
setInterval(plot, 30_000);

listen();
