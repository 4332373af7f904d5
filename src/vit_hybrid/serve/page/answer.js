// What the server said of a picture, in words and bars.

import { element } from "./card.js";

// Labels of a set that are named at once.
const NAMED = 6;

/** A share as people write it: 40 %, 0.3 %. */
export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  if (value > 99.9 && value < 100) return "> 99.9 %";
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(1)} %`;
}

const small = (number) => Number(number.toPrecision(2)).toString();

/** The answer in a few words: for the list of this visit, and for those who hear it. */
export function verdict(answer) {
  if (answer.values) {
    const [first] = answer.values;
    return `${first.label} ${first.value.toPrecision(4)}`;
  }
  if (answer.none_of_these) return "none of these";
  const [best] = answer.predictions;
  return `${best.label}, ${percent(best.probability)}`;
}

function listed(labels) {
  const words = labels.map((label) => `“${label}”`);
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} or ${words.at(-1)}`;
}

/** How sure that is, of a model that was calibrated. */
function confidence(answer) {
  const parts = [];
  if (answer.none_of_these) {
    const strange = element("p", "Most likely none of the things that this model knows. ");
    strange.className = "alarm";
    const share = percent(answer.familiarity);
    strange.append(`Only ${share} of the pictures it was checked with looked so unfamiliar (p = ${small(answer.familiarity)}). `);
    strange.append("What it would say all the same:");
    parts.push(strange);
  }
  if (answer.set) {
    const sure = `With ${percent(answer.coverage)} confidence`;
    const known = answer.none_of_these ? ", if it is one of them at all," : "";
    const { set } = answer;
    if (set.length <= NAMED) {
      parts.push(element("p", `${sure}${known} it is ${set.length > 1 ? "one of these: " : ""}${listed(set)}.`));
    } else {
      parts.push(element("p", `${sure}${known} it is one of ${set.length} labels: the picture leaves much open.`));
      const all = element("details", "", element("summary", `These ${set.length}`), element("p", set.join(", ")));
      parts.push(all);
    }
  }
  if (answer.familiarity !== undefined && !answer.none_of_these) {
    const words = `Of the pictures it was checked with, ${percent(answer.familiarity)} were no more familiar than this one.`;
    const familiar = element("p", words);
    familiar.className = "quiet";
    parts.push(familiar);
  }
  return parts;
}

/** A list without numbers, which Safari takes for none where it is not said to be one. */
function newList() {
  const list = element("ol");
  list.className = "ranking";
  list.setAttribute("role", "list");
  return list;
}

function ranking(answer, count) {
  const members = new Set(answer.set ?? []);
  const list = newList();
  for (const { label, probability } of answer.predictions.slice(0, count)) {
    const bar = element("span");
    bar.className = "bar";
    bar.style.setProperty("--share", probability);
    const name = element("span", label);
    name.className = "label";
    const marks = [];
    if (members.has(label)) {
      const mark = element("span", "✓");
      mark.className = "mark";
      mark.setAttribute("aria-hidden", "true");
      const words = element("span", "in the set");
      words.className = "unseen";
      marks.push(mark, words);
    }
    const number = element("span", percent(probability));
    number.className = "number";
    list.append(element("li", "", bar, name, ...marks, number));
  }
  return list;
}

function values(answer) {
  const list = newList();
  for (const { label, value } of answer.values) {
    const number = element("span", value.toPrecision(4));
    number.className = "number";
    list.append(element("li", "", element("span", label), number));
  }
  return list;
}

/** The elements that say what is in a picture. */
export function answerElements(answer, count, problemType) {
  const parts = [];
  const first = element("p", verdict(answer));
  first.className = "verdict";
  parts.push(first);
  if (answer.values) parts.push(values(answer));
  else {
    parts.push(...confidence(answer), ranking(answer, count));
    if (problemType === "multi_label_classification") {
      parts.push(element("p", "Each label has a percentage of its own: several may be true, or none."));
    }
  }
  const { model_ms: model, queue_ms: queue, decode_ms: decode } = answer.timing;
  const time = element("p", `Answered in ${(model + queue + decode).toFixed(0)} ms, of which the model took ${model.toFixed(0)}.`);
  time.className = "quiet";
  parts.push(time);
  return parts;
}
