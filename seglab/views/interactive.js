"use strict";
{
  const graphs = [...document.querySelectorAll(".plotly-graph-div")];
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const original = new Map();  // the colors that the lines of a figure were drawn in, before the page's replaced them
  const applyTheme = (graph) => {
    const [ink, faint, grid, paper] = ["--ink", "--faint", "--grid", "--paper"].map(color);
    const layout = { "font.color": ink, "hoverlabel.bgcolor": paper, "hoverlabel.font.color": ink, "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": faint, "modebar.activecolor": ink };
    for (const key of Object.keys(graph.layout)) {
      if (/^[xy]axis\d*$/.test(key)) {
        Object.assign(layout, { [`${key}.gridcolor`]: grid, [`${key}.zerolinecolor`]: grid, [`${key}.linecolor`]: faint });
      } else if (/^scene\d*$/.test(key)) {
        for (const axis of ["xaxis", "yaxis", "zaxis"]) {
          const at = `${key}.${axis}`;
          Object.assign(layout, { [`${at}.gridcolor`]: grid, [`${at}.zerolinecolor`]: grid, [`${at}.color`]: ink, [`${at}.backgroundcolor`]: "rgba(0,0,0,0)" });
        }
      }
    }
    (graph.layout.updatemenus || []).forEach((_, k) => {
      Object.assign(layout, { [`updatemenus[${k}].bgcolor`]: paper, [`updatemenus[${k}].bordercolor`]: faint, [`updatemenus[${k}].font.color`]: ink });
    });
    const drawn = original.get(graph) || graph.data.map((trace) => trace.line && trace.line.color);
    original.set(graph, drawn);
    const lines = drawn.map((c) => (COLORS.includes(c) ? color(`--c${COLORS.indexOf(c)}`) : c));
    const traces = [...lines.keys()].filter((k) => lines[k]);
    Plotly.update(graph, traces.length ? { "line.color": traces.map((k) => lines[k]) } : {}, layout, traces.length ? traces : undefined);
  };
  window.addEventListener("load", () => graphs.forEach((graph) => { Plotly.Plots.resize(graph); applyTheme(graph); }));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => graphs.forEach(applyTheme));
  for (const box of document.querySelectorAll(".sliders")) {
    const inputs = [...box.querySelectorAll("input")], graph = box.parentElement.querySelector(".plotly-graph-div");
    const stops = inputs.map((input) => JSON.parse(input.dataset.stops));
    box.addEventListener("input", () => {
      const chosen = inputs.map((input, k) => stops[k][input.value]);
      inputs.forEach((input, k) => { input.nextElementSibling.textContent = chosen[k]; });
      Plotly.animate(graph, [chosen.join("|")], { mode: "immediate", transition: { duration: 0 }, frame: { duration: 0, redraw: true } });
    });
  }
}
