"use strict";
// The threshold explorer: moves through figures that the page already holds; nothing is computed from rows or fetched.
for (const explorer of document.querySelectorAll(".explorer")) {
  const data = JSON.parse(explorer.querySelector("script[type='application/json']").textContent);
  const slider = explorer.querySelector("input");
  const percent = (value) => (value === null ? "undefined" : `${(100 * value).toFixed(2)} %`);
  const gap = (attribute, rate, index) => {
    const values = data.series.filter((each) => each.attribute === attribute).map((each) => each[rate][index]);
    if (values.length < 2 || values.includes(null)) return "undefined";
    return `${(100 * (Math.max(...values) - Math.min(...values))).toFixed(2)} points`;
  };
  const show = () => {
    const index = Number(slider.value);
    const threshold = data.thresholds[index].toFixed(data.digits);
    slider.setAttribute("aria-valuetext", `threshold ${threshold}`);
    explorer.querySelector("output").textContent = threshold;
    for (const cell of explorer.querySelectorAll("[data-series]")) {
      cell.textContent = percent(data.series[Number(cell.dataset.series)][cell.dataset.rate][index]);
    }
    for (const cell of explorer.querySelectorAll("[data-gap]")) {
      cell.textContent = gap(cell.dataset.gap, cell.dataset.rate, index);
    }
    explorer.querySelector(".now").hidden = index !== data.current;
  };
  slider.addEventListener("input", show);
  explorer.querySelector("button").addEventListener("click", () => {
    slider.value = String(data.current);
    show();
  });
  explorer.querySelector(".controls").hidden = false;
  slider.value = String(data.current);
  show();
}
// A tree that is wider than the screen begins at its root, which is in the middle.
for (const tree of document.querySelectorAll("figure.scroll")) {
  tree.scrollLeft = (tree.scrollWidth - tree.clientWidth) / 2;
}
