"use strict";
// Everything from data becomes a text node: nothing of it is ever parsed as HTML or run.
(() => {
  const $ = (id) => document.getElementById(id);
  const root = $("browser");
  if (!root || typeof DecompressionStream === "undefined") return;

  const make = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "class") node.className = value;
      else if (name === "on") for (const [event, action] of Object.entries(value)) node.addEventListener(event, action);
      else node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  };
  // Marks that reorder or hide the text around them, and controls, are shown by their numbers.
  const visible = (text) => String(text).replace(
    /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ufeff]/g,
    (c) => `\u27e8U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);
  const cache = new Map();
  const opened = (id) => {
    if (!cache.has(id)) {
      const block = $(id);
      if (!block) return Promise.resolve(null);
      const bytes = Uint8Array.from(atob(block.textContent.trim()), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      if (cache.size > 24) cache.delete(cache.keys().next().value);
      cache.set(id, new Response(stream).text().then(JSON.parse));
    }
    return cache.get(id);
  };
  const image = (k) => {
    const block = $(`browser-image-${k}`);
    return block.tagName === "IMG" ? block.src : `data:${block.dataset.mime};base64,${block.textContent.trim()}`;
  };

  const MARKS = { 1: ["✓", "ok", "correct"], 0: ["✗", "bad", "wrong"], a: ["?", "none", "unreadable"], p: ["½", "none", "partly"] };
  const STATUS = { correct: MARKS[1], wrong: MARKS[0], abstain: MARKS.a };
  const badge = ([mark, kind, word], more) => make("span", { class: `badge ${kind}` }, `${mark} ${visible(more === undefined ? word : more)}`);
  const options = (select, values) => select.replaceChildren(...values.map(([value, label]) => make("option", { value }, label)));
  const LIST = 25;

  opened("browser-index").then((index) => {
    const splits = Object.fromEntries(index.splits.map((split) => [split.name, split]));
    for (const split of index.splits) {
      split.place = [];
      split.order.forEach((number, place) => { split.place[number] = place; });
      split.number = new Map(split.problems.map((problem, number) => [problem[0], number]));
    }
    const controls = {};
    for (const name of ["split", "weights", "strategy", "filter", "query"]) controls[name] = $(`browse-${name}`);
    let start = 0;
    const split = () => splits[controls.split.value];
    const state = (problem, k, strategy) => {
      const found = problem[3][k], names = split().strategies[k] || [];
      const place = names.indexOf(strategy);
      return found && place >= 0 ? { mark: found[0][place], answer: found[1], flags: found[2] } : null;
    };
    const main = () => { const names = split().strategies[split().pair[1]]; return names.includes("greedy") ? "greedy" : names[0]; };

    const FILTERS = {
      all: ["all", () => true],
      changed: ["gained or lost", (was, now) => was && now && (was.mark === "1") !== (now.mark === "1")],
      lost: ["lost", (was, now) => was && now && was.mark === "1" && now.mark !== "1"],
      gained: ["gained", (was, now) => was && now && was.mark !== "1" && now.mark === "1"],
      wrong: ["wrong", (was, now) => now && now.mark !== "1"],
      unread: ["unread", (was, now) => now && now.mark === "a"],
      select: ["vote ≠ select", (was, now) => now && now.flags & 1],
      against: ["answer against its own reasoning", (was, now) => now && now.flags & 2],
    };
    options(controls.split, index.splits.map((one) => [one.name, one.name]));
    options(controls.filter, Object.entries(FILTERS).map(([key, [label]]) => [key, label]));
    const refill = () => {
      const known = Object.keys(split().strategies).map(Number).sort((a, b) => a - b);
      const k = controls.weights.value;
      options(controls.weights, known.map((one) => [one, index.names[one] + (one === index.accepted ? ", accepted" : "")]));
      controls.weights.value = known.includes(Number(k)) && k !== "" ? k : split().pair[1];
      const names = split().strategies[controls.weights.value], strategy = controls.strategy.value;
      options(controls.strategy, names.map((name) => [name, name]));
      controls.strategy.value = names.includes(strategy) ? strategy : main();
    };
    const link = (one, problem) =>
      `#${index.splits.some((other) => other !== one && other.number.has(problem[0])) ? `${one.name}/` : ""}${encodeURIComponent(problem[0])}`;

    const show = () => {
      const k = Number(controls.weights.value), base = split().pair[0], strategy = controls.strategy.value;
      const wanted = controls.query.value.trim().toLowerCase(), fits = FILTERS[controls.filter.value][1];
      const found = split().problems.filter((problem) => {
        const was = state(problem, base, strategy), now = state(problem, k, strategy);
        const said = now ? now.answer : "";
        return fits(was, now) && (!wanted || `${problem[0]}\n${problem[1]}\n${problem[2]}\n${said}`.toLowerCase().includes(wanted));
      });
      start = Math.max(0, Math.min(start, Math.floor((found.length - 1) / LIST) * LIST));
      const cell = (problem, one) => {
        const at = state(problem, one, strategy);
        return at ? badge(MARKS[at.mark], strategy === main() && at.answer ? at.answer : undefined) : "–";
      };
      $("browse-count").textContent = `${found.length.toLocaleString("en")} of ${split().problems.length.toLocaleString("en")} problems` +
        (found.length > LIST ? `, ${start + 1} to ${Math.min(start + LIST, found.length)} shown` : "");
      const columns = k === base ? [k] : [base, k];
      const heads = ["Problem", "Gold", ...columns.map((one) => index.names[one]), "Question"];
      const rows = found.slice(start, start + LIST).map((problem) => make("tr", {},
        make("th", { scope: "row" }, make("a", { href: link(split(), problem) }, visible(problem[0]))),
        make("td", { "data-label": "Gold" }, visible(problem[2])), ...columns.map((one) => make("td", { "data-label": index.names[one] }, cell(problem, one))),
        make("td", { class: "said" }, visible(problem[1]))));
      $("browse-list").replaceChildren(
        make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), make("tbody", {}, ...rows));
      $("browse-before").disabled = start === 0;
      $("browse-after").disabled = start + LIST >= found.length;
    };

    const marked = (item) => {
      const body = make("pre", {});
      if (!item.text) body.append(make("i", {}, "(empty)"));
      else if (!item.span) body.append(visible(item.text));
      else {
        const letters = Array.from(item.text), [from, to] = item.span;  // places count code points
        body.append(visible(letters.slice(0, from).join("")), make("mark", {}, visible(letters.slice(from, to).join(""))),
          visible(letters.slice(to).join("")));
      }
      return body;
    };
    // Every second part of a selector's prompt is the number of a sample.
    const prompt = (parts, texts) => make("pre", {}, ...parts.map((part, i) => i % 2
      ? make("b", {}, visible((texts.find((text) => text.name === `sample ${part}`) || { text: "" }).text)) : visible(part)));
    const CLOSED = { model: "the model closed its thinking", budget: "the budget closed its thinking", loop: "closed in a loop",
      end_of_turn: "the model ended its turn while thinking" };
    const ledger = ({ thinking, ignored_at, closed_by }) => {
      const forced = ignored_at.length ? `${ignored_at.length} ignore string${ignored_at.length > 1 ? "s" : ""} put in after ${ignored_at.join(", ")} tokens` : "nothing put in";
      return `Budget: ${forced}; ${thinking} tokens of thinking; ${CLOSED[closed_by] || "truncated while thinking"}.`;
    };
    const card = (title, item, texts) => {
      if (!item) return make("article", {}, make("header", {}, make("b", {}, title), " –"));
      const facts = [`read ${visible(item.answer === undefined || item.answer === null ? "–" : item.answer)} by rule ${visible(item.rule || "–")}`, `${item.tokens} tokens`];
      if (item.named) facts.push(`calls prediction ${item.named} correct`);
      if (item.truncated) facts.push("truncated");
      if (item.reward !== undefined) facts.push(`reward ${Number(item.reward).toFixed(3)}`);
      return make("article", {},
        make("header", {}, item.status ? badge(STATUS[item.status]) : "", " ", make("b", {}, title), " ", make("span", { class: "soft" }, facts.join(", "))),
        ...(item.note ? [make("p", { class: "soft" }, visible(item.note))] : []),
        ...(item.against || []).map((one) => make("p", { class: "against" }, `Against its own reasoning: ${visible(one)}`)),
        marked(item), ...(item.budget ? [make("p", { class: "soft" }, ledger(item.budget))] : []),
        ...(item.prompt ? [make("details", {}, make("summary", {}, "The selector's prompt"), prompt(item.prompt, texts))] : []));
    };
    const columns = (names, texts) => {
      const labels = [...new Set(texts.flatMap((several) => (several || []).map((text) => text.name)))];
      return labels.map((label) => make("div", { class: "side" }, ...names.map((name, i) =>
        card(`${visible(label)}, ${name}`, (texts[i] || []).find((text) => text.name === label), texts[i]))));
    };

    const open = async (one, number, scroll) => {
      const place = one.place[number], page = Math.floor(place / index.page), at = place % index.page;
      const inPage = async (name) => { const found = await opened(`page-${one.name}-${name}-${page}`); return found && found[at]; };
      const problem = await inPage("problems"), id = one.problems[number][0];
      const known = Object.keys(one.strategies).map(Number).sort((a, b) => a - b);
      const entries = await Promise.all(known.map(inPage));
      const here = known.filter((_, i) => entries[i]), found = entries.filter(Boolean);
      const all = here.length ? [...new Set([...one.pair, ...here])].filter((k) => here.includes(k)) : [];
      const shown = all.map((k) => found[here.indexOf(k)]), names = all.map((k) => index.names[k]);
      const parts = [make("h3", { tabindex: "-1", id: "browse-title" }, `${visible(id)} (${one.name})`)];
      if (problem) {
        const letters = "ABCDEFGHIJ";
        const pictures = problem.images.map((k) => typeof k === "number"
          ? make("img", { alt: `Image of problem ${visible(id)}`, src: image(k), loading: "lazy" }) : make("p", { class: "soft" }, visible(k)));
        const choices = problem.choices.map((choice, i) => {
          const gold = letters[i] === problem.gold;
          return make("li", { class: gold ? "gold" : "" }, make("b", {}, letters[i] || String(i + 1)), ` ${visible(choice)} `, gold ? make("span", { class: "badge" }, "gold") : "");
        });
        parts.push(make("div", { class: "problem" }, ...pictures, make("div", {}, make("p", { class: "said" }, visible(problem.question)),
          ...(choices.length ? [make("ol", { class: "choices" }, ...choices)] : []), make("p", {}, "Gold: ", make("b", {}, visible(problem.gold || "–"))))));
      }
      if (!found.length || !problem) parts.push(make("p", {}, "The texts of this problem are not in this file, which holds a part of the run. `selftrain show` shows them."));
      else {
        const strategies = [...new Set(shown.flatMap((entry) => entry.strategies.map((row) => row[0])))];
        parts.push(make("div", { class: "scroll", tabindex: "0" }, make("table", {},
          make("caption", {}, "What each strategy answered, with its credit"),
          make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Strategy"), ...names.map((name) => make("th", { scope: "col" }, name)))),
          make("tbody", {}, ...strategies.map((name) => make("tr", {}, make("th", { scope: "row" }, visible(name)), ...shown.map((entry, i) => {
            const row = entry.strategies.find((other) => other[0] === name);
            return make("td", { "data-label": names[i] }, row ? `${visible(row[3].join(", ") || (row[2] === 1 ? "unreadable" : "–"))} (${row[1]})` : "–");
          })))))));
        parts.push(...columns(names, shown.map((entry) => entry.texts)));
      }
      const rows = index.rows.map((row, i) => [row, i]).filter(([row]) => row[3] === id).slice(0, 20);
      if (rows.length) parts.push(make("p", {}, `${rows.length} training rows of this problem are below, under Training rows.`));
      $("browse-problem").replaceChildren(...parts);
      $("browse-problem").hidden = false;
      if (scroll) { $("browse-problem").scrollIntoView(); $("browse-title").focus({ preventScroll: true }); }
    };
    const follow = () => {
      let wanted;
      try { wanted = decodeURIComponent(location.hash.slice(1)); } catch { return; }
      if (!wanted) return;
      for (const one of index.splits) {
        const id = wanted.startsWith(`${one.name}/`) && !one.number.has(wanted) ? wanted.slice(one.name.length + 1) : wanted;
        if (one.number.has(id) && (id === wanted || wanted.startsWith(`${one.name}/`))) { open(one, one.number.get(id), true); return; }
      }
    };

    // Training rows
    let first = 0;
    const kinds = [...new Set(index.rows.map((row) => row[2]))], iterations = [...new Set(index.rows.map((row) => row[0]))];
    options($("rows-kind"), [["", "all kinds"], ...kinds.map((kind) => [kind, kind])]);
    options($("rows-iteration"), [["", "all iterations"], ...iterations.map((k) => [k, `iteration ${k}`])]);
    const list = () => {
      const kind = $("rows-kind").value, k = $("rows-iteration").value, wanted = $("rows-query").value.trim().toLowerCase();
      const found = index.rows.map((row, i) => [row, i]).filter(([row]) => (!kind || row[2] === kind) && (k === "" || row[0] === Number(k)) &&
        (!wanted || row[1].toLowerCase().includes(wanted)));
      first = Math.max(0, Math.min(first, Math.floor((found.length - 1) / LIST) * LIST));
      $("rows-count").textContent = `${found.length.toLocaleString("en")} rows` + (found.length > LIST ? `, ${first + 1} to ${Math.min(first + LIST, found.length)} shown` : "");
      $("rows-list").replaceChildren(...found.slice(first, first + LIST).map(([row, i]) => {
        const body = make("div", {});
        const details = make("details", { on: { toggle: () => { if (details.open && !body.childNodes.length) lineage(body, i); } } },
          make("summary", {}, make("b", {}, visible(row[1])), ` ${visible(row[2])}, iteration ${row[0]}`), body);
        return details;
      }));
      $("rows-before").disabled = first === 0;
      $("rows-after").disabled = first + LIST >= found.length;
    };
    const lineage = async (body, i) => {
      const page = await opened(`page-rows-${Math.floor(i / index.rows_page)}`), row = page[i % index.rows_page];
      body.append(make("h4", {}, "Prompt"), make("pre", {}, visible(row.prompt)));
      if (row.history) body.append(make("h4", {}, "The response begins with, without loss"), make("pre", {}, visible(row.history.map((pair) => pair.join("")).join(""))));
      body.append(make("h4", {}, "Target"), make("pre", {}, visible(row.target)));
      if (row.rejected) body.append(make("h4", {}, "Rejected"), make("pre", {}, visible(row.rejected)));
      body.append(make("h4", {}, row.sources.length ? "Made from" : "Made from no sample"), ...row.sources.map((source) =>
        source.text === undefined ? make("p", {}, visible(source.name)) : card(visible(source.name), source)));
    };

    for (const [name, control] of Object.entries(controls))
      control.addEventListener(name === "query" ? "input" : "change", () => { start = 0; if (name !== "query") refill(); show(); });
    for (const [id, step] of [["browse-before", -LIST], ["browse-after", LIST]]) $(id).addEventListener("click", () => { start += step; show(); });
    for (const id of ["rows-kind", "rows-iteration", "rows-query"]) $(id).addEventListener("input", () => { first = 0; list(); });
    for (const [id, step] of [["rows-before", -LIST], ["rows-after", LIST]]) $(id).addEventListener("click", () => { first += step; list(); });
    window.addEventListener("hashchange", follow);
    if (index.splits.length) { refill(); show(); }
    if (index.rows.length) { list(); $("rows").hidden = false; }
    root.hidden = false;
    const plain = $("without-script");
    if (plain) plain.hidden = true;
    follow();
  });
})();
