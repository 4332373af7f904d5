// Requests to the server that this page came from.

const STORED = "vit-hybrid-key";
const TRIES = 4;
const LONGEST_WAIT = 10; // seconds, where the server says that it has too much to do

let key = "";
try {
  key = sessionStorage.getItem(STORED) ?? "";
} catch { /* a browser that keeps nothing */ }

export class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function hasKey() {
  return key !== "";
}

export function useKey(text) {
  key = text;
  try {
    sessionStorage.setItem(STORED, text);
  } catch { /* it lasts as long as the page then */ }
}

const waited = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** What the server answers; where it is busy, it is asked again after the time that it names. */
export async function ask(path, options = {}) {
  if (key && !/^[\x21-\x7e]+$/.test(key)) throw new Refusal(401, "no key has such characters");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  for (let tries = 1; ; tries += 1) {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch {
      throw new Refusal(0, "the server does not answer");
    }
    if (answer.ok) return answer;
    const seconds = Number(answer.headers.get("Retry-After"));
    if (answer.status === 503 && seconds && tries < TRIES) {
      await waited(Math.min(seconds, LONGEST_WAIT));
      continue;
    }
    const told = await answer.json().catch(() => ({}));
    const again = answer.status === 429 && seconds ? `; again in ${seconds} seconds` : "";
    throw new Refusal(answer.status, `${told.detail ?? `the server answered ${answer.status}`}${again}`);
  }
}

export async function modelFacts() {
  return (await ask("v1/model")).json();
}

/** What is in a picture: the file as it is, which is the server's fastest way. */
export async function classify(file, labels) {
  const headers = { "Content-Type": typeOf(file) };
  const told = await (await ask(`v1/classify?top_k=${labels}`, { method: "POST", headers, body: file })).json();
  return { ...told.pictures[0], timing: told.timing };
}

/** What the model looked at in a picture. */
export async function explain(file, query) {
  return (await ask(`v1/explain?${query}`, { method: "POST", headers: { "Content-Type": typeOf(file) }, body: file })).json();
}

const typeOf = (file) => (file.type.startsWith("image/") ? file.type : "application/octet-stream");
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The command that asks the same of a file of that name. */
export function command(file, labels, needsKey) {
  const address = new URL(`v1/classify?top_k=${labels}`, document.baseURI).href;
  const given = needsKey ? ' -H "Authorization: Bearer $VIT_HYBRID_API_KEY"' : "";
  return `curl -H ${quoted(`Content-Type: ${typeOf(file)}`)}${given} --data-binary ${quoted(`@${file.name}`)} ${quoted(address)}`;
}
