"use strict";
// Without this script the page shows every trajectory one below the other; with it, one at a time, filtered.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const links = [...document.querySelectorAll("#list a")];
  const articles = [...document.querySelectorAll(".trajectory")];
  const previous = document.getElementById("previous");
  const next = document.getElementById("next");
  let selected = 0;

  const fits = (link) =>
    [...form.elements].every((field) => !field.name || !field.value || link.dataset[field.name] === field.value);
  const visible = () => links.flatMap((link, index) => (fits(link) ? [index] : []));

  function select(index) {
    selected = index;
    articles.forEach((article, other) => article.classList.toggle("selected", other === index));
    links.forEach((link, other) => {
      if (other === index) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
    const shown = visible();
    const place = shown.indexOf(index);
    previous.disabled = place <= 0;
    next.disabled = place < 0 || place === shown.length - 1;
    const words = place < 0 ? `${shown.length} of ${links.length}` : `${place + 1} of ${shown.length}`;
    document.getElementById("shown").textContent = words;
  }

  function filter() {
    const shown = visible();
    links.forEach((link, index) => { link.parentElement.hidden = !shown.includes(index); });
    document.getElementById("none").hidden = shown.length > 0;
    select(shown.includes(selected) ? selected : shown.length ? shown[0] : -1);
  }

  // Keeps the list still unless the entry is out of its view; the page itself never jumps.
  function reveal(link) {
    const list = document.getElementById("list");
    const item = link.parentElement;
    const top = item.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + item.offsetHeight > list.scrollTop + list.clientHeight) {
      list.scrollTop = top + item.offsetHeight - list.clientHeight;
    }
  }

  function step(distance) {
    const shown = visible();
    const index = shown[shown.indexOf(selected) + distance];
    if (index === undefined) return;
    history.replaceState(null, "", links[index].hash);
    select(index);
    reveal(links[index]);
  }

  function follow() {
    const index = links.findIndex((link) => link.hash === location.hash);
    if (index < 0) return;
    if (!fits(links[index])) form.reset();
    selected = index;
    filter();
    reveal(links[index]);
    articles[index].scrollIntoView();
  }

  links.forEach((link, index) => link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.replaceState(null, "", link.hash);
    select(index);
    if (articles[index].getBoundingClientRect().top < 0 || window.innerWidth < 736) articles[index].scrollIntoView();
    articles[index].focus({ preventScroll: true });
  }));
  document.getElementById("list").addEventListener("keydown", (event) => {
    const distance = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!distance) return;
    event.preventDefault();
    const shown = visible();
    const index = shown[shown.indexOf(links.indexOf(document.activeElement)) + distance];
    if (index === undefined) return;
    links[index].focus();
    history.replaceState(null, "", links[index].hash);
    select(index);
  });
  previous.addEventListener("click", () => step(-1));
  next.addEventListener("click", () => step(1));
  form.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", follow);

  form.reset();
  form.hidden = false;
  document.body.classList.add("browsing");
  filter();
  follow();
})();
