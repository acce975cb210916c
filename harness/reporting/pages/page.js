// What answers to the pointer: brushing, sorting, hovering, the card of a run. The charts are drawn by Apache ECharts.
"use strict";
(() => {
  const MOST_LINES = 60; // learning curves at once
  const FIRST = 5; // of them that are told apart by colour
  const REST = 120; // milliseconds
  const OPEN = 15; // rows of the table that are open at first
  const SERIES = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"];
  const find = (id) => document.getElementById(id);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const isNarrow = () => window.innerWidth < 620;

  let data, chosen, parallel, curves, brushes, unfolded, order;

  function start() {
    document.documentElement.classList.add("js");
    data = JSON.parse(find("data").textContent);
    chosen = new Set(data.runs.keys());
    brushes = brushes || new Map();
    if (find("parallel")) {
      parallel = echarts.init(find("parallel"));
      parallel.on("axisareaselected", onBrush);
      parallel.on("click", (event) => event.data && openCard(event.data.run));
      drawParallel();
    }
    if (find("curves-left")) {
      curves = ["left", "right"].map((side) => {
        const chart = echarts.init(find(`curves-${side}`));
        chart.on("click", (event) => event.data && openCard(firstOf(event.data.way)));
        find(`metric-${side}`).onchange = drawCurves;
        return chart;
      });
      drawCurves();
    }
    if (find("runs")) prepareTable();
    if (find("reset")) find("reset").onclick = reset;
    filterTable();
  }

  const firstOfRow = (row) => data.runs.findIndex((run) => run.row === row);
  const firstOf = (way) => data.runs.findIndex((run) => run.way === way);
  function waysShown() { // one for each distinct result
    const found = new Map();
    for (const { row, way } of [...chosen].sort((a, b) => a - b).map((number) => data.runs[number]))
      if (!found.has(row)) found.set(row, way);
    return [...found.values()];
  }

  function tooltip() {
    return {
      backgroundColor: style("--panel"), borderColor: style("--grid"), confine: true, transitionDuration: 0,
      textStyle: { color: style("--ink"), fontSize: 12 },
    };
  }

  function rows(title, pairs) { // text only: names and values come from the store
    const box = document.createElement("div");
    box.append(Object.assign(document.createElement("b"), { textContent: title }));
    for (const [name, value] of pairs)
      box.append(Object.assign(document.createElement("div"), { textContent: `${name}  ${value}` }));
    return box;
  }

  function drawParallel() {
    const narrow = isNarrow(), ink = style("--ink"), muted = style("--muted");
    const placed = [...data.runs.keys()].filter((number) => data.runs[number].at).reverse();
    find("parallel").style.height = narrow ? `${90 + 78 * data.axes.length}px` : "400px";
    parallel.resize();
    parallel.setOption({
      animation: false,
      tooltip: tooltip(),
      parallel: {
        layout: narrow ? "vertical" : "horizontal", left: narrow ? 34 : 48, right: narrow ? 34 : 72,
        top: narrow ? 40 : 46, bottom: narrow ? 50 : 24, axisExpandable: false,
        parallelAxisDefault: {
          type: "value", min: 0, max: 1, nameGap: 14, nameLocation: narrow ? "start" : "end",
          nameTextStyle: { color: ink, fontWeight: "bold", fontSize: 13, ...(narrow && { align: "left", verticalAlign: "bottom", padding: [0, 0, 12, 14] }) },
          axisLine: { lineStyle: { color: muted } },
          areaSelectStyle: { width: 26, color: style("--accent"), borderColor: style("--accent"), opacity: 0.25 },
          realtime: true,
        },
      },
      parallelAxis: data.axes.map((axis, dim) => {
        const labels = new Map(axis.ticks.map(([place, text]) => [place.toFixed(4), text]));
        const places = axis.ticks.map(([place]) => place);
        return {
          z: 5, dim, name: axis.name,
          axisTick: { customValues: places, lineStyle: { color: muted } },
          axisLabel: {
            customValues: places, color: muted, fontSize: 11, hideOverlap: true,
            backgroundColor: `${style("--paper")}cc`, padding: [1, 2],
            formatter: (place) => labels.get(place.toFixed(4)) ?? "",
          },
        };
      }),
      series: [{
        type: "parallel", smooth: 0.12, inactiveOpacity: placed.length > 300 ? 0 : 0.04, activeOpacity: 0.9, progressive: 0,
        emphasis: { lineStyle: { width: 4, opacity: 1 } },
        lineStyle: { width: 1.4, opacity: placed.length > 300 ? 0.35 : 0.65 },
        tooltip: {
          formatter: (item) => {
            const run = data.runs[item.data.run];
            return rows(run.name, run.facts);
          },
        },
        data: placed.map((number) => ({
          value: jittered(data.runs[number].at, number), run: number,
          lineStyle: { color: data.runs[number].colour, ...(number === 0 && { width: 3.5, opacity: 1 }) },
        })),
      }],
    }, true);
    for (const [index, intervals] of brushes)
      parallel.dispatchAction({ type: "axisAreaSelect", parallelAxisId: axisId(index), intervals });
  }

  const axisId = (index) => parallel.getModel().getComponent("parallelAxis", index).id;

  function jittered(at, number) { // lines through the same values stay apart
    if (number === 0) return at;
    const shift = (((number * 7919) % 1000) / 1000 - 0.5) * 0.022;
    return at.map((place, axis) => (axis === at.length - 1 ? place : Math.min(1, Math.max(0, place + shift))));
  }

  function onBrush() {
    const model = parallel.getModel();
    const placed = model.getSeries()[0].getData();
    brushes = new Map(data.axes.flatMap((_, index) => {
      const intervals = model.getComponent("parallelAxis", index).activeIntervals;
      return intervals && intervals.length ? [[index, intervals]] : [];
    }));
    const active = model.getSeries()[0].getRawIndicesByActiveState("active");
    chosen = brushes.size
      ? new Set(active.map((index) => placed.getRawDataItem(index).run))
      : new Set(data.runs.keys());
    later(filterTable);
    clearTimeout(resting);
    resting = setTimeout(drawCurves, REST); // the curves of a thousand runs follow when the pointer rests
  }

  let waiting = 0, resting = 0;
  function later(draw) { // once a frame, however fast the pointer moves
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(draw);
  }

  function reset() {
    brushes = new Map();
    chosen = new Set(data.runs.keys());
    parallel.clear();
    drawParallel();
    filterTable();
    drawCurves();
  }

  function drawCurves() {
    const ways = waysShown().filter((way) => Object.keys(data.ways[way]).length).slice(0, MOST_LINES);
    ["left", "right"].forEach((side, place) => drawCurve(curves[place], find(`metric-${side}`).value, ways));
    const legend = find("legend");
    legend.replaceChildren(...ways.slice(0, FIRST).map((way, place) => {
      const item = document.createElement("button");
      item.type = "button";
      const run = data.runs[firstOf(way)];
      const values = data.axes.slice(0, -1).map((axis) => `${axis.name} ${new Map(run.facts).get(axis.name) ?? ""}`);
      const dash = Object.assign(document.createElement("i"), { style: `background:${SERIES[place]}` });
      item.append(dash, `${run.name}  ${run.value ?? ""}`);
      item.append(Object.assign(document.createElement("span"), { textContent: values.join(", ") }));
      item.onclick = () => openCard(firstOf(way));
      return item;
    }));
  }

  function drawCurve(chart, metric, ways) {
    const muted = style("--muted"), grid = style("--grid");
    const drawn = ways.filter((way) => data.ways[way][metric]);
    const most = Math.max(1, ...drawn.map((way) => data.ways[way][metric].length));
    const values = drawn.flatMap((way) => data.ways[way][metric]).filter((value) => value !== null);
    const first = drawn.slice(0, FIRST).flatMap((way) => data.ways[way][metric]).filter((value) => value !== null);
    const highest = Math.max(...values), highestFirst = Math.max(...first); // one that diverges hides no other
    const isLog = metric === "lr" && values.every((value) => value > 0);
    chart.setOption({
      animation: false,
      grid: { left: 8, right: 14, top: 14, bottom: 30, containLabel: true },
      tooltip: {
        ...tooltip(), trigger: "axis",
        formatter: (items) => rows(`epoch ${items[0].data.value[0]}`, items.slice(0, 8).map(
          (item) => [item.data.label, item.data.value[1]])),
      },
      xAxis: {
        type: "value", min: 1, max: most, minInterval: 1, name: "epoch", nameLocation: "middle", nameGap: 24,
        nameTextStyle: { color: muted }, axisLabel: { color: muted, showMaxLabel: most < 12 }, splitLine: { show: false },
        axisLine: { lineStyle: { color: muted } },
      },
      yAxis: {
        type: isLog ? "log" : "value", scale: true, ...(highest > 3 * highestFirst && !isLog && { max: 1.3 * highestFirst }), axisLabel: { color: muted, hideOverlap: true, showMaxLabel: highest <= 3 * highestFirst },
        splitLine: { lineStyle: { color: grid } },
      },
      series: drawn.map((way, place) => {
        const own = data.ways[way], rates = own.lr ?? [], run = data.runs[firstOf(way)];
        const steps = rates.filter((rate, epoch) => epoch && rate !== rates[epoch - 1]).length;
        const colour = place < FIRST ? SERIES[place] : run.colour ?? muted;
        return {
          type: "line", triggerLineEvent: true, step: metric === "lr" ? "middle" : false, showSymbol: true,
          z: place < FIRST ? 10 - place : 1, emphasis: { focus: "series", lineStyle: { width: 3.5 } },
          lineStyle: { color: colour, width: place < FIRST ? 2 : 1, opacity: place < FIRST ? 1 : 0.45 },
          itemStyle: { color: colour },
          data: own[metric].map((value, epoch) => ({
            value: [epoch + 1, value], way, label: run.name,
            symbol: epoch && steps <= rates.length / 2 && rates[epoch] !== rates[epoch - 1] ? "triangle" : "none",
            symbolRotate: 180, symbolSize: 8,
          })),
        };
      }),
    }, true);
  }

  function prepareTable() {
    const table = find("runs");
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.firstElementChild.onclick = () => sortBy(column);
    });
    table.tBodies[0].onclick = (event) => {
      const row = event.target.closest("tr");
      if (row && !String(window.getSelection())) openCard(firstOfRow(Number(row.dataset.row)));
    };
    table.tBodies[0].onmouseover = (event) => {
      const row = event.target.closest("tr");
      if (row) highlight(firstOfRow(Number(row.dataset.row)));
    };
    table.tBodies[0].onmouseleave = () => highlight(null);
    if (order) applyOrder();
    if (find("more")) find("more").onclick = () => { unfolded = !unfolded; filterTable(); };
  }

  function highlight(number) {
    if (!parallel) return;
    parallel.dispatchAction({ type: "downplay", seriesIndex: 0 });
    if (number === null || !data.runs[number]?.at) return;
    const placed = data.runs.filter((run) => run.at).length;
    const index = placed - 1 - data.runs.slice(0, number).filter((run) => run.at).length;
    parallel.dispatchAction({ type: "highlight", seriesIndex: 0, dataIndex: index });
  }

  function sortBy(column) {
    order = { column, falls: order?.column === column && !order.falls };
    applyOrder();
    filterTable();
  }

  function applyOrder() {
    const { column, falls } = order;
    const table = find("runs"), head = table.tHead.rows[0].cells[column], body = table.tBodies[0];
    if (!head) return;
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.key;
    const sorted = [...body.rows].sort((one, two) => {
      const a = key(one), b = key(two);
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
      return falls ? -order : order;
    });
    body.append(...sorted);
  }

  function filterTable() {
    const rows = new Set([...chosen].map((number) => data.runs[number].row));
    const table = find("runs");
    if (!table) return;
    let open = 0;
    for (const row of table.tBodies[0].rows) {
      const isIn = rows.has(Number(row.dataset.row));
      row.hidden = !isIn || (!unfolded && ++open > OPEN);
    }
    table.classList.remove("folded");
    const more = find("more");
    if (more) {
      more.hidden = rows.size <= OPEN;
      more.textContent = unfolded ? `show the first ${OPEN}` : `show all ${rows.size}`;
    }
    const values = [...chosen].map((number) => data.runs[number].value).filter((value) => value !== null);
    const end = (isBetter) => values.reduce((one, two) => (isBetter(+one, +two) ? one : two));
    const range = values.length ? `, ${data.objective} ${end((a, b) => a < b)} to ${end((a, b) => a > b)}` : "";
    if (find("count")) find("count").textContent = brushes.size ? `${chosen.size} of ${data.runs.length} runs chosen${range}` : `${data.runs.length} runs${range}`;
    if (find("reset")) find("reset").hidden = !brushes.size;
  }

  function openCard(number) {
    const run = data.runs[number];
    if (!run) return;
    const card = find("card"), list = document.createElement("dl");
    const same = data.runs.filter((other) => other.row === run.row && other !== run);
    const twins = same.filter((other) => other.way === run.way).map((other) => other.name);
    const equal = same.filter((other) => other.way !== run.way).map((other) => other.name);
    const facts = [...run.facts, ["run", run.id]];
    if (twins.length) facts.push(["the same epochs", twins.join(", ")]);
    if (equal.length) facts.push(["the same up to the best epoch", equal.join(", ")]);
    facts.push(["reload it", `python -m harness reload ${run.id.slice(0, 12)}`]);
    for (const [name, text] of facts) {
      list.append(Object.assign(document.createElement("dt"), { textContent: name }));
      list.append(Object.assign(document.createElement("dd"), { textContent: text }));
    }
    find("card-title").textContent = run.name;
    find("card-facts").replaceChildren(list);
    card.showModal();
  }

  function redraw() {
    if (parallel) drawParallel();
    if (curves) {
      curves.forEach((chart) => chart.resize());
      drawCurves();
    }
  }

  async function refresh() { // of a page that `report --live` serves
    try {
      const answer = await fetch(location.href, { cache: "no-cache", headers: { "X-Seen": document.body.dataset.seen } });
      if (answer.status !== 200) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      document.body.dataset.seen = page.body.dataset.seen;
      const scroll = window.scrollY, metrics = ["left", "right"].map((side) => find(`metric-${side}`)?.value);
      parallel?.dispose();
      curves?.forEach((chart) => chart.dispose());
      parallel = curves = undefined;
      for (const part of ["data", "summary", "links", "main"]) find(part).replaceWith(page.getElementById(part));
      start();
      ["left", "right"].forEach((side, place) => {
        const picker = find(`metric-${side}`);
        if (picker && metrics[place] && picker.querySelector(`[value="${CSS.escape(metrics[place])}"]`)) picker.value = metrics[place];
      });
      if (curves) drawCurves();
      window.scrollTo(0, scroll);
      find("live").textContent = `live, ${new Date().toLocaleTimeString()}`;
    } catch {
      find("live").textContent = "live: no answer; is `report --live` still running?";
    }
  }

  start();
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (width !== window.innerWidth) later(redraw);
    width = window.innerWidth;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  if (document.body.dataset.seen) setInterval(refresh, Number(document.body.dataset.every));
})();
