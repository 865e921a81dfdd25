"use strict";
(() => {
  const runs = JSON.parse(document.getElementById("data").textContent).runs;
  const form = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const button = document.getElementById("theme");
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const badges = new Map();
  for (const row of all("tr[data-run]")) {
    badges.set(runs[row.dataset.run].mark, row.querySelector(".mark"));
  }

  function fits(run, wanted) {
    const day = run.date.slice(0, 10);
    return (!wanted.system || run.system === wanted.system)
      && (!wanted.device || run.device === wanted.device)
      && (!wanted.from || day >= wanted.from)
      && (!wanted.to || day <= wanted.to);
  }

  function fill(line, run) {
    const field = (name) => line.querySelector(`[data-field="${name}"]`);
    for (const name of ["value", "interval", "was", "note", "commit"]) {
      field(name).textContent = run[name];
    }
    field("date").textContent = run.date.slice(0, 10);
    field("path").textContent = ` ${run.path}`;
    field("link").href = run.link;
    field("link").title = run.path;
    field("mark").replaceChildren(badges.get(run.mark).cloneNode(true));
  }

  function apply() {
    const wanted = Object.fromEntries(new FormData(form));
    const right = (run) => !wanted.mark || run.mark === wanted.mark;
    const newest = {};
    let count = 0;
    const within = new Set();
    for (const [number, run] of Object.entries(runs)) {
      if (!fits(run, wanted)) continue;
      newest[run.series] = run;
      if (right(run)) {
        within.add(number);
        count += 1;
      }
    }
    for (const row of all("tr[data-run]")) row.hidden = !within.has(row.dataset.run);
    for (const dot of all("svg [data-run]")) dot.classList.toggle("out", !within.has(dot.dataset.run));
    for (const part of all("[data-system]")) {
      part.toggleAttribute("hidden", Boolean(wanted.system) && part.dataset.system !== wanted.system);
    }
    const series = all("#overview tr[data-series]");
    for (const line of series) {
      const run = newest[line.dataset.series];
      line.hidden = !run || !right(run);
      if (run) fill(line, run);
    }
    for (const detail of all("details[data-series]")) detail.hidden = !newest[detail.dataset.series];
    for (const panel of all(".panel")) panel.hidden = !panel.querySelector("tr[data-run]:not([hidden])");
    for (const bench of all(".bench")) {
      const empty = !bench.querySelector(".panel:not([hidden])");
      bench.querySelector(".nothing").hidden = !empty;
      bench.querySelector(".inner").hidden = !bench.querySelector(".detail:not([hidden])");
    }
    const lines = series.filter((line) => !line.hidden).length;
    const wrong = wanted.from && wanted.to && wanted.from > wanted.to ? "“From” lies after “To”: " : "";
    shown.textContent = `${wrong}${lines} of ${series.length} series, `
      + `${count} of ${Object.keys(runs).length} runs shown`;
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const say = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    say();
  });
  dark.addEventListener("change", say);
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  form.hidden = false;
  button.hidden = false;
  say();
  apply();
})();
