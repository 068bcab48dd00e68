"use strict";
// Everything that is shown comes from the page itself, and becomes text, never HTML.

function element(kind, text, className) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function embedded(id) {
  const found = document.getElementById(id);
  return found ? JSON.parse(found.textContent) : [];
}

// Tables: a click on a head sorts by its column, a second one the other way round.

function sortKey(cell) {
  const text = cell ? cell.textContent.trim() : "";
  const number = parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
}

function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}

function sortTable(head) {
  const row = head.parentNode;
  const body = head.closest("table").tBodies[0];
  const column = Array.prototype.indexOf.call(row.children, head);
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of row.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const rows = Array.from(body.rows).map((r) => [sortKey(r.children[column]), r]);
  rows.sort((a, b) => direction * compareKeys(a[0], b[0]));
  for (const [, r] of rows) body.appendChild(r);
}

function makeSortable(table) {
  if (table.tBodies[0].rows.length < 2) return;
  for (const head of table.tHead.rows[0].children) {
    head.tabIndex = 0;
    head.classList.add("sorts");
    head.addEventListener("click", () => sortTable(head));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        sortTable(head);
      }
    });
  }
}

// A canvas as it was filled, step by step.

function showDenoising() {
  const shown = embedded("animations-data");
  const place = document.getElementById("denoising");
  if (!place || shown.length === 0) return;
  const choice = element("select");
  choice.setAttribute("aria-label", "generation");
  shown.forEach((generation, index) => {
    const option = element("option", generation.title);
    option.value = String(index);
    choice.appendChild(option);
  });
  const play = element("button", "Play");
  const slider = element("input");
  slider.type = "range";
  slider.min = "0";
  slider.setAttribute("aria-label", "step");
  const label = element("span", "", "note");
  const prompt = element("pre");
  const canvas = element("div", undefined, "tokens");
  const bar = element("p", undefined, "controls");
  for (const part of [choice, play, slider, label]) bar.appendChild(part);
  for (const part of [bar, prompt, canvas]) place.appendChild(part);
  let timer = null;

  function draw() {
    const generation = shown[Number(choice.value)];
    const step = Number(slider.value);
    canvas.replaceChildren();
    let known = 0;
    generation.tokens.forEach((token, index) => {
      const at = generation.steps[index];
      const isThere = at >= 0 ? at < step : step >= Number(slider.max);
      known += isThere ? 1 : 0;
      const kind = isThere ? (at === step - 1 ? "t now" : "t") : "t hidden";
      canvas.appendChild(element("span", isThere ? token : "\u2591", kind));
    });
    label.textContent = `step ${step} of ${slider.max}, ${known} of ${generation.tokens.length} tokens`;
  }

  function stop() {
    if (timer !== null) window.clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  function choose() {
    stop();
    const generation = shown[Number(choice.value)];
    slider.max = String(Math.max(0, ...generation.steps) + 1);
    slider.value = slider.max;
    prompt.textContent = generation.prompt;
    draw();
  }

  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (slider.value === slider.max) slider.value = "0";
    play.textContent = "Pause";
    timer = window.setInterval(() => {
      slider.value = String(Number(slider.value) + 1);
      draw();
      if (slider.value === slider.max) stop();
    }, 120);
  });
  slider.addEventListener("input", () => {
    stop();
    draw();
  });
  choice.addEventListener("change", choose);
  choose();
}

// Wrong answers, by evaluation and task.

function showFailures() {
  const found = embedded("failures-data");
  const place = document.getElementById("browse");
  if (!place || found.length === 0) return;
  const bar = element("p", undefined, "controls");
  const list = element("div");
  const count = element("span", "", "note");
  const filters = {};
  for (const key of ["evaluation", "task"]) {
    const choice = element("select");
    choice.setAttribute("aria-label", key);
    const values = Array.from(new Set(found.map((failure) => failure[key])));
    for (const value of ["", ...values]) {
      const option = element("option", value === "" ? `every ${key}` : value);
      option.value = value;
      choice.appendChild(option);
    }
    filters[key] = choice;
    bar.appendChild(choice);
  }
  const verdict = element("select");
  verdict.setAttribute("aria-label", "verdicts");
  const kinds = {
    "wrong by the strict grader": (failure) => !failure.strict,
    "the graders disagree": (failure) => failure.d1 !== null && failure.d1 !== failure.strict,
    "no answer found": (failure) => failure.extracted === null,
    "a grader timed out": (failure) => failure.timed_out,
  };
  for (const name of Object.keys(kinds)) verdict.appendChild(element("option", name));
  bar.appendChild(verdict);
  bar.appendChild(count);
  place.appendChild(bar);
  place.appendChild(list);

  function says(verdictOfOne) {
    return verdictOfOne === null ? "no verdict" : verdictOfOne ? "right" : "wrong";
  }

  function item(failure) {
    const details = element("details");
    const answer = failure.extracted === null ? "no answer found" : `answer ${failure.extracted}`;
    const late = failure.timed_out ? ", timed out" : "";
    const verdicts = `strict: ${says(failure.strict)}${late}, d1: ${says(failure.d1)}`;
    details.appendChild(
      element("summary", `${failure.evaluation}, ${failure.task}, ${failure.item}: ${answer}; ${verdicts}`)
    );
    details.appendChild(element("pre", failure.prompt));
    details.appendChild(element("pre", failure.generation));
    return details;
  }

  function draw() {
    const wanted = found.filter(
      (failure) =>
        kinds[verdict.value](failure) &&
        Object.keys(filters).every((key) => !filters[key].value || failure[key] === filters[key].value)
    );
    list.replaceChildren(...wanted.map(item));
    count.textContent = `${wanted.length} shown`;
  }

  for (const choice of [...Object.values(filters), verdict]) choice.addEventListener("change", draw);
  draw();
}

document.querySelectorAll("table").forEach(makeSortable);
showDenoising();
showFailures();
document.documentElement.dataset.ready = "yes";
