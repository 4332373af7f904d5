// What the model looked at: a map over the picture, which a slider makes stronger or weaker.

import { element } from "./card.js";
import { explain, Refusal } from "./server.js";

const MOST_PIXELS = 640; // of the longer side of what is drawn
const OF_LABELS = new Set(["relevance", "grad-cam", "legrad"]);
const BY_LAYER = "attention";
const UNSEEN = "rgb(0 0 0 / 50%)"; // over what the model did not see

/** The color of a level of 0 to 1, as red, green and blue. */
function color(level, stops) {
  const place = level * (stops.length - 1);
  const below = Math.min(Math.floor(place), stops.length - 2);
  return stops[below].map((value, channel) => value + (stops[below + 1][channel] - value) * (place - below));
}

/** A map in colors, a pixel a cell, the less to be seen through the higher it is. */
function cells(map, stops) {
  const [rows, columns] = [map.length, map[0].length];
  const values = map.flat();
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const canvas = element("canvas");
  [canvas.width, canvas.height] = [columns, rows];
  const pixels = new ImageData(columns, rows);
  values.forEach((value, position) => {
    const level = most > least ? (value - least) / (most - least) : 0;
    pixels.data.set([...color(level, stops), 255 * level], 4 * position);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function draw(canvas, told, stops) {
  const { width, height } = told.size;
  const scale = Math.min(1, MOST_PIXELS / Math.max(width, height));
  [canvas.width, canvas.height] = [Math.max(1, width * scale), Math.max(1, height * scale)];
  const [left, top, right, bottom] = told.seen.map((edge) => edge * scale);
  const context = canvas.getContext("2d");
  context.fillStyle = UNSEEN;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(left, top, right - left, bottom - top);
  context.imageSmoothingQuality = "high";
  context.drawImage(cells(told.maps[0].map, stops), left, top, right - left, bottom - top);
}

function words(told) {
  const [map] = told.maps;
  const parts = [];
  if (map.is_empty) parts.push(`Nothing in the picture speaks for “${map.label}”.`);
  else if (map.label) parts.push(`Bright: what speaks for “${map.label}”.`);
  else parts.push("Bright: where it looked, whatever it said.");
  const [left, top, right, bottom] = told.seen;
  if (left > 0 || top > 0 || right < told.size.width || bottom < told.size.height) {
    parts.push("Dark at the edge: what it did not see.");
  }
  if (told.note) parts.push(`${told.note[0].toUpperCase()}${told.note.slice(1)}.`);
  return parts.join(" ");
}

/** Makes the part of a picture's article that shows what the model looked at. */
export function setUpLook(picture, stops) {
  const { article } = picture;
  const [look, frame, canvas] = [".look", ".frame", ".heat"].map((name) => article.querySelector(name));
  const [method, label, layer, strength] = [".method", ".of", ".layer", ".strength"].map((name) => look.querySelector(name));
  const said = look.querySelector(".looked");
  const image = frame.querySelector("img");
  const known = new Map(); // what was asked before
  let wanted = "";

  image.addEventListener("load", () => {
    frame.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
    frame.style.setProperty("--width", `${image.naturalWidth}px`);
  });

  async function ask() {
    const isOfLabels = OF_LABELS.has(method.value);
    label.parentElement.hidden = !isOfLabels;
    layer.parentElement.hidden = method.value !== BY_LAYER;
    const query = new URLSearchParams({ method: method.value });
    if (isOfLabels) query.set("label", label.value);
    if (method.value === BY_LAYER && layer.max) query.set("layer", layer.value);
    const text = query.toString();
    wanted = text;
    if (!known.has(text)) {
      said.textContent = known.size ? "Asking." : "Asking. The first time takes a while: the server loads what explains.";
      try {
        known.set(text, await explain(picture.file, text));
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        if (wanted !== text) return;
        canvas.hidden = true;
        said.textContent = `No answer: ${error.message}.`;
        return;
      }
    }
    if (wanted !== text || !look.open) return; // something else was asked since
    const told = known.get(text);
    if (layer.max !== String(told.layers)) {
      layer.max = told.layers;
      layer.value = told.layers;
    }
    showLayer();
    draw(canvas, told, stops);
    canvas.hidden = false;
    said.textContent = words(told);
  }

  const showLayer = () => { look.querySelector("output").textContent = layer.value; };
  const showStrength = () => { canvas.style.opacity = strength.value / 100; };
  look.addEventListener("toggle", () => {
    if (look.open) ask();
    else canvas.hidden = true;
  });
  for (const one of [method, label, layer]) one.addEventListener("change", ask);
  layer.addEventListener("input", showLayer);
  strength.addEventListener("input", showStrength);
  showStrength();
}

/** Offers the labels of an answer. */
export function offerLabels(picture) {
  const look = picture.article.querySelector(".look");
  const labels = (picture.answer.predictions ?? picture.answer.values).map((one) => element("option", one.label));
  look.querySelector(".of").replaceChildren(...labels);
  look.hidden = false;
}
