"use strict";
// Shows the trajectories. Whatever a model or a task wrote reaches the page through textContent only.
(() => {
  const source = document.getElementById("data");
  const list = document.getElementById("list");
  if (!list) return;
  const { prompts, trajectories } = JSON.parse(source.textContent);
  const detail = document.getElementById("detail");
  const count = document.getElementById("count");
  const filters = ["source", "model", "outcome"];
  const selects = Object.fromEntries(filters.map((name) => [name, document.getElementById(`filter-${name}`)]));
  let shown = [];
  let current = -1;

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined && text !== null) element.textContent = text;
    return element;
  }

  function plural(number, word) {
    return `${number} ${word}${number === 1 ? "" : "s"}`;
  }

  function fillFilters() {
    for (const name of filters) {
      const values = [...new Set(trajectories.map((one) => one[name]))];
      if (name !== "model") values.sort();
      selects[name].append(new Option("all", ""));
      for (const value of values) selects[name].append(new Option(value, value));
      selects[name].addEventListener("change", applyFilters);
    }
    document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  }

  function applyFilters() {
    const before = shown[current];
    shown = trajectories.filter((one) => filters.every((name) => !selects[name].value || one[name] === selects[name].value));
    count.textContent = `${shown.length} of ${trajectories.length}`;
    list.replaceChildren(...shown.map(listItem));
    if (!shown.length) {
      current = -1;
      list.removeAttribute("aria-activedescendant");
      const empty = make("div", "empty", "None fits these filters.");
      list.append(empty);
      detail.replaceChildren();
      return;
    }
    select(Math.max(0, shown.indexOf(before)), false);
  }

  function listItem(one, index) {
    const item = make("div");
    item.id = `trajectory-${index}`;
    item.setAttribute("role", "option");
    item.append(make("span", "title", one.task));
    const meta = make("span", "meta");
    meta.append(make("span", `outcome ${one.outcome}`, one.outcome), make("span", `${one.model} name`, one.model));
    meta.append(make("span", "", one.source), make("span", "", plural(one.turns.length, "turn")));
    item.append(meta);
    item.addEventListener("click", () => select(index, true));
    return item;
  }

  function select(index, scroll) {
    if (index < 0 || index >= shown.length) return;
    current = index;
    [...list.children].forEach((item, at) => item.setAttribute("aria-selected", String(at === index)));
    const item = list.children[index];
    list.setAttribute("aria-activedescendant", item.id);
    // Only the list scrolls, not the page: scrollIntoView would move both.
    const bottom = item.offsetTop + item.offsetHeight;
    if (item.offsetTop < list.scrollTop) list.scrollTop = item.offsetTop;
    else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    detail.replaceChildren(...detailParts(shown[index]));
    if (scroll && detail.getBoundingClientRect().top < 0) detail.scrollIntoView({ block: "start" });
  }

  function detailParts(one) {
    const top = make("div", "bar-top");
    top.append(make("h3", "", one.task));
    const moves = make("div", "moves");
    for (const [text, by] of [["Previous", -1], ["Next", 1]]) {
      const button = make("button", by < 0 ? "previous" : "next", text);
      button.type = "button";
      button.disabled = current + by < 0 || current + by >= shown.length;
      button.addEventListener("click", () => {
        select(current + by, true);
        detail.querySelector(by < 0 ? ".previous" : ".next").focus();
      });
      moves.append(button);
    }
    top.append(moves);
    const parts = [top, facts(one)];
    if (one.error_message) parts.push(make("p", "error", one.error_message));
    parts.push(make("div", "instruction", one.instruction || "(no instruction recorded)"));
    if (prompts[one.prompt]) parts.push(fold("The agent's prompt before the task", prompts[one.prompt]));
    if (one.screen) parts.push(make("pre", "screen", one.screen));
    one.turns.forEach((turn, index) => parts.push(turnPart(turn, index, one.turns.length)));
    return parts;
  }

  function facts(one) {
    const items = make("ul", "facts");
    items.append(make("li", one.outcome, one.outcome));
    items.append(make("li", "", `reward ${one.reward === null ? "none" : one.reward}`));
    if (one.error_class) items.append(make("li", "", `error class ${one.error_class}`));
    items.append(make("li", "", `model ${one.model}`));
    if (one.model_detail) items.append(make("li", "", one.model_detail));
    items.append(make("li", "", `source ${one.source}`), make("li", "", `attempt ${one.attempt + 1}`));
    items.append(make("li", "", plural(one.turns.length, "turn")), make("li", "", `from ${one.step}`));
    return items;
  }

  function fold(title, text) {
    const details = make("details");
    details.append(make("summary", "", title), make("pre", "", text));
    return details;
  }

  function labelled(label, text) {
    const paragraph = make("p");
    paragraph.append(make("b", "", label), text);
    return paragraph;
  }

  function turnPart(turn, index, total) {
    const part = make("div", "turn");
    part.append(make("h4", "", `Turn ${index + 1} of ${total}`));
    if (turn.raw !== undefined) {
      part.append(make("p", "quiet", "Not in the agent's format, shown as written:"));
      part.append(make("pre", "raw", turn.raw || "(empty)"));
    } else {
      if (turn.outside) part.append(fold("Text around the answer", turn.outside));
      if (turn.analysis) part.append(labelled("Analysis", turn.analysis));
      if (turn.plan) part.append(labelled("Plan", turn.plan));
      if (turn.commands.length) part.append(keystrokes(turn.commands));
      if (turn.complete) part.append(make("p", "done", "Declares the task complete."));
    }
    if (turn.terminal) part.append(make("pre", "screen", turn.terminal));
    return part;
  }

  function keystrokes(commands) {
    const keys = make("pre", "keys");
    keys.setAttribute("aria-label", "Keystrokes");
    commands.forEach((text, index) => {
      if (index) keys.append("\n");
      const entered = text.endsWith("\n");
      keys.append(entered ? text.slice(0, -1) : text || "(wait)");
      if (entered) keys.append(make("span", "newline", " \u21b5"));
    });
    return keys;
  }

  list.addEventListener("keydown", (event) => {
    const targets = { ArrowDown: current + 1, ArrowUp: current - 1, Home: 0, End: shown.length - 1 };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in targets)) return;
    event.preventDefault();
    select(targets[event.key], false);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, textarea")) return;
    if (event.key === "j") select(current + 1, true);
    if (event.key === "k") select(current - 1, true);
  });

  fillFilters();
  applyFilters();
})();
