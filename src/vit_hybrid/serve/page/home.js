// The page: pictures come in, answers stand side by side, and what was asked in this visit stays at hand.

import { answerElements, verdict } from "./answer.js";
import { setUpCamera } from "./camera.js";
import { cardElements, element } from "./card.js";
import { offerLabels, setUpLook } from "./look.js";
import { classify, command, hasKey, modelFacts, Refusal, useKey } from "./server.js";

const MOST_SHOWN = 12;
const AT_ONCE = 4; // requests
const MOST_LABELS = 10;

const part = (id) => document.getElementById(id);
const pictures = []; // of this visit, the oldest first
const waiting = [];
let asking = 0;
let model = null;
let needsKey = false;
let colors = null; // of maps, where the server explains

const labelCount = () => Number(part("count").value);
const say = (text) => { part("status").textContent = text; };

// --- Pictures in ---------------------------------------------------------------------------------------------------

function take(files) {
  const wrong = [];
  const good = [];
  for (const file of files) {
    if (file.type && !file.type.startsWith("image/")) wrong.push(`${file.name} is no picture.`);
    else if (model && file.size > model.limits.body_bytes) {
      wrong.push(`${file.name} is too large: this server takes ${(model.limits.body_bytes / 2 ** 20).toFixed(1)} MB.`);
    } else good.push(file);
  }
  const added = good.map(newPicture);
  part("shown").prepend(...added.map((picture) => picture.article)); // beside each other, in their order
  for (const one of pictures.filter((one) => one.article.isConnected).slice(0, -MOST_SHOWN)) show(one, false);
  arrange();
  waiting.push(...added);
  askNext();
  if (wrong.length) say(wrong.join(" "));
}

function newPicture(file) {
  const picture = { file, name: file.name || `picture ${pictures.length + 1}`, address: URL.createObjectURL(file) };
  picture.article = newArticle(picture);
  picture.item = newItem(picture);
  pictures.push(picture);
  part("past").append(picture.item);
  return picture;
}

/** Has the server asked about the pictures that wait, a few at a time. */
function askNext() {
  while (asking < AT_ONCE && waiting.length) askAbout(waiting.shift());
}

async function askAbout(picture) {
  asking += 1;
  try {
    picture.answer = await classify(picture.file, MOST_LABELS);
    picture.problem = null;
    if (colors) offerLabels(picture);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    picture.problem = error;
    if (error.status === 401) wantKey(error.message);
  } finally {
    asking -= 1;
    render(picture);
    say(`${picture.name}: ${picture.problem ? picture.problem.message : verdict(picture.answer)}`);
    askNext();
  }
}

// --- One picture ---------------------------------------------------------------------------------------------------

function newArticle(picture) {
  const article = part("answer").content.cloneNode(true).querySelector("article");
  article.setAttribute("aria-label", picture.name);
  article.querySelector("h3").textContent = picture.name;
  const image = article.querySelector("img");
  image.alt = picture.name;
  image.src = picture.address;
  image.addEventListener("error", () => image.replaceWith(element("p", "This browser cannot show the picture.")));
  const away = article.querySelector(".away");
  away.setAttribute("aria-label", `Put away ${picture.name}`);
  away.addEventListener("click", () => {
    show(picture, false);
    picture.item.querySelector("button").focus();
  });
  if (colors) setUpLook({ ...picture, article }, colors);
  article.querySelector(".copy").addEventListener("click", (event) => copy(article.querySelector("pre"), event.target));
  return article;
}

function newItem(picture) {
  const image = element("img");
  image.alt = "";
  image.src = picture.address;
  image.addEventListener("error", () => image.remove());
  const said = element("span", "…");
  said.className = "short";
  const button = element("button", "", image, element("span", picture.name), said);
  button.type = "button";
  button.setAttribute("aria-pressed", "true");
  button.addEventListener("click", () => show(picture, !picture.article.isConnected));
  return element("li", "", button);
}

function show(picture, isShown) {
  if (isShown) part("shown").prepend(picture.article);
  else picture.article.remove();
  picture.item.querySelector("button").setAttribute("aria-pressed", String(isShown));
  arrange();
}

function arrange() {
  part("answers").hidden = !part("shown").childElementCount;
  part("history").hidden = !pictures.length;
}

function render(picture) {
  const { article, item, answer, problem } = picture;
  const said = article.querySelector(".said");
  article.setAttribute("aria-busy", "false");
  article.querySelector("pre").textContent = command(picture.file, labelCount(), needsKey);
  if (problem) {
    const words = element("p", `No answer: ${problem.message}.`);
    words.className = "alarm";
    const again = element("button", "Ask again");
    again.type = "button";
    again.addEventListener("click", () => {
      waiting.push(picture);
      askNext();
    });
    said.replaceChildren(words, again);
  } else {
    said.replaceChildren(...answerElements(answer, labelCount(), model?.problem_type));
  }
  item.querySelector(".short").textContent = problem ? "no answer" : verdict(answer);
}

async function copy(shown, button) {
  try {
    await navigator.clipboard.writeText(shown.textContent);
  } catch { // it may not, over plain HTTP from another machine
    getSelection().selectAllChildren(shown);
    if (!document.execCommand("copy")) {
      say("The command is selected: copy it with the keyboard.");
      return;
    }
  }
  button.textContent = "Copied";
  say("The command is copied.");
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

// --- The model -----------------------------------------------------------------------------------------------------

function describe() {
  const { height, width } = model.image_size;
  const isCalibrated = model.calibrated;
  part("model-line").textContent = `${model.name} answers, which has ${model.labels.length} labels.`;
  const facts = [
    ["name", model.name],
    ["labels", String(model.labels.length)],
    ["sees", `${width} × ${height} pixels of each picture`],
    ["runs in", `${model.engine}, ${model.precision}`],
    ["package", `vit-hybrid ${model.package_version}`],
  ];
  part("facts").replaceChildren(...facts.flatMap(([term, text]) => [element("dt", term), element("dd", text)]));
  part("calibration").textContent = isCalibrated
    ? "It was calibrated: its percentages were fitted on pictures that it had not seen."
    : model.problem_type === "regression" ? ""
      : "It was not calibrated: how often its percentages come true has not been measured, and a picture of something "
        + "that it does not know gets one of its labels all the same.";
  part("labels").querySelector("summary").textContent = `All ${model.labels.length} labels`;
  part("labels").querySelector("p").textContent = model.labels.join(", ");
  part("card").replaceChildren(
    ...(model.card
      ? cardElements(model.card)
      : [element("p", "It came without a card: nothing is written down of what it is good at, and where it is weak.")]),
  );
  part("model").hidden = false;
}

async function getModel() {
  try {
    model = await modelFacts();
    part("key-form").hidden = true;
    describe();
    return true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 401) wantKey(hasKey() ? "This is none of the server's keys." : "");
    else part("model-line").textContent = `The server does not say which model it has: ${error.message}.`;
    return false;
  }
}

function wantKey(words) {
  needsKey = true;
  part("key-form").hidden = false;
  part("model-line").textContent = "The server says which model it has once it has a key.";
  part("key").toggleAttribute("aria-invalid", Boolean(words));
  if (words) part("key-said").textContent = words;
  part("key").focus();
}

// --- What people do ------------------------------------------------------------------------------------------------

part("pick").addEventListener("click", () => part("files").click());
part("files").addEventListener("change", () => {
  take([...part("files").files]);
  part("files").value = ""; // so that the same file may be picked again
});
setUpCamera(take, say);

let depth = 0; // of elements that something is dragged over
const isOfFiles = (event) => [...event.dataTransfer.types].includes("Files");
document.addEventListener("dragenter", (event) => {
  depth += 1;
  document.body.classList.toggle("dragging", isOfFiles(event));
});
document.addEventListener("dragleave", () => {
  depth -= 1;
  if (depth <= 0) document.body.classList.remove("dragging");
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault(); // else the browser would leave the page for the file
  depth = 0;
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  else say("Only files can be dropped here: save the picture first, or copy and paste it.");
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    take(files);
  } else if (event.target !== part("key")) say("There is no picture to paste.");
});

part("count").addEventListener("change", () => {
  for (const picture of pictures) if (picture.answer || picture.problem) render(picture);
});
part("forget").addEventListener("click", () => {
  for (const picture of pictures) {
    URL.revokeObjectURL(picture.address);
    picture.article.remove();
    picture.item.remove();
  }
  pictures.length = waiting.length = 0;
  arrange();
  say("All pictures of this visit are forgotten.");
  part("pick").focus();
});
part("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey(part("key").value.trim());
  if (!(await getModel())) return;
  part("key").value = "";
  part("pick").focus();
  for (const picture of pictures) if (picture.problem?.status === 401) waiting.push(picture);
  askNext();
});

async function start() {
  const settings = await fetch("page/settings.json").then((answer) => answer.json()).catch(() => ({}));
  needsKey = Boolean(settings.needs_key);
  colors = settings.heat_colors ?? null;
  if (needsKey && !hasKey()) wantKey("");
  else await getModel();
}

start();
