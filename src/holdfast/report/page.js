"use strict";
(() => {
  const { figures, copies } = JSON.parse(document.getElementById("data").textContent);
  const all = (selector) => [...document.querySelectorAll(selector)];

  // Copying. Where the clipboard is refused, the text is shown and selected instead.

  async function copy(section, form) {
    const text = copies[section][form];
    const status = document.querySelector(`[data-status="${section}"]`);
    const fallback = document.querySelector(`[data-fallback="${section}"]`);
    try {
      await navigator.clipboard.writeText(text);
      fallback.hidden = true;
      status.textContent = "Copied.";
    } catch {
      status.textContent = "";
      fallback.hidden = false;
      const area = fallback.querySelector("textarea");
      area.value = text;
      area.focus();
      area.select();
    }
  }
  for (const button of all("[data-copy]")) {
    button.addEventListener("click", () => copy(button.dataset.section, button.dataset.copy));
  }

  // Figures: colours by name become those of the present scheme, then Plotly draws.

  const variant = {}; // group -> the one shown
  const hidden = {}; // section -> places of arms that are not shown
  const drawn = new Set();
  const fine = matchMedia("(pointer: fine)").matches;

  function coloured(value, style, key = "") {
    if (Array.isArray(value)) return value.map((item) => coloured(item, style, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, style, k)]));
    }
    const name = /color$/.test(key) && /^var\((--\w+)\)$/.exec(value);
    return name ? style.getPropertyValue(name[1]).trim() : value;
  }

  function scheme(style, layout, box) {
    const get = (name) => style.getPropertyValue(name).trim();
    const axis = {
      color: get("--soft"), gridcolor: get("--rule"), zerolinecolor: get("--rule"),
      automargin: true, fixedrange: !fine, title: { standoff: 8 },
    };
    const merged = (own = {}) => ({
      ...axis, ...own, title: { ...axis.title, ...own.title, font: { size: 12 } },
    });
    const square = layout.meta && layout.meta.square;
    return {
      ...layout,
      width: box.clientWidth,
      height: box.clientHeight,
      xaxis: merged(layout.xaxis),
      yaxis: merged(layout.yaxis),
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: get("--ink") },
      margin: square ? { l: 36, r: 6, t: 6, b: 36 } : { l: 40, r: 12, t: 10, b: 40 },
      hoverlabel: {
        bgcolor: get("--panel"), bordercolor: get("--rule"), namelength: 30,
        font: { color: get("--ink") },
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: get("--soft"), activecolor: get("--accent") },
      showlegend: false,
      dragmode: fine && !square ? "zoom" : false,
    };
  }

  // Plotly's own choice of text colour is faint on middling cells, so values are written here.
  function heatmap(trace, style) {
    const get = (name) => style.getPropertyValue(name).trim();
    const colorscale = ["--h0", "--h1", "--h2", "--h3", "--h4"].map((name, i) => [i / 4, get(name)]);
    const { text, ...cells } = trace;
    if (!text) return [{ ...cells, colorscale }];
    const places = trace.z.flatMap((row, i) => row.map((value, j) => [trace.x[j], trace.y[i], value]));
    const values = {
      type: "scatter", mode: "text", hoverinfo: "skip", cliponaxis: false, text: text.flat(),
      x: places.map(([x]) => x), y: places.map(([, y]) => y),
      textfont: {
        size: trace.x.length > 8 ? 10 : 12,
        color: places.map(([, , value]) => get(value < Number(get("--cut")) ? "--on-low" : "--on-high")),
      },
    };
    return [{ ...cells, colorscale }, values];
  }

  function draw(box) {
    const style = getComputedStyle(document.documentElement);
    const variants = figures[box.id];
    const { data, layout } = variants[Math.min(variant[box.dataset.group] || 0, variants.length - 1)];
    const off = hidden[box.dataset.section] || new Set();
    const traces = coloured(data, style).flatMap((trace) => {
      if (trace.type === "heatmap") return heatmap(trace, style);
      return { ...trace, visible: !(trace.meta && off.has(trace.meta.arm)) };
    });
    drawn.add(box);
    return Plotly.react(box, traces, scheme(style, coloured(layout, style), box), {
      displaylogo: false,
      modeBarButtons: [["toImage"]],
      displayModeBar: fine ? "hover" : false,
      toImageButtonOptions: { format: "svg", filename: box.id },
    }).then(() => { box.dataset.drawn = "yes"; });
  }
  const redraw = (belongs) => [...drawn].filter(belongs).forEach(draw);

  for (const button of all(".choice button")) {
    button.addEventListener("click", () => {
      const group = button.dataset.group;
      variant[group] = Number(button.dataset.variant);
      for (const other of all(`.choice button[data-group="${group}"]`)) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      redraw((box) => box.dataset.group === group);
    });
  }

  for (const button of all(".chip")) {
    button.addEventListener("click", () => {
      const { section, arm } = button.dataset;
      const off = (hidden[section] ||= new Set());
      const place = Number(arm);
      if (!off.delete(place)) off.add(place);
      for (const twin of all(`.chip[data-section="${section}"][data-arm="${arm}"]`)) {
        twin.setAttribute("aria-pressed", String(!off.has(place)));
      }
      redraw((box) => box.dataset.section === section);
    });
  }

  async function unpack() {
    const packed = atob(document.getElementById("plotly").textContent);
    const bytes = Uint8Array.from(packed, (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  // Each figure is drawn when it comes near the screen, and again when its width or the scheme changes.
  async function start() {
    if (typeof DecompressionStream === "undefined") {
      document.getElementById("old").hidden = false;
      return;
    }
    await unpack();
    const near = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        draw(target);
      }
    }, { rootMargin: "600px" });
    const widths = new Map();
    const sized = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const before = widths.get(target);
        widths.set(target, target.clientWidth);
        if (before && before !== target.clientWidth && drawn.has(target)) draw(target);
      }
    });
    for (const box of all(".plot")) {
      near.observe(box);
      sized.observe(box);
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(() => true));
    addEventListener("beforeprint", () => all(".plot").forEach(draw));
  }
  start();
})();
