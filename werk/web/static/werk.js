// Scripts of werk's pages: buttons that ask before they act, and the part that is refreshed.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const dialog = byId("ask");

  function show(id, text) {
    byId(id).textContent = text;
    byId(id).hidden = !text;
  }

  // Returns the data in a reply. Throws an Error with the message to show.
  async function ask(url, options) {
    let reply, data;
    try {
      reply = await fetch(url, { headers: { Accept: "application/json" }, ...options });
      data = await reply.json();
    } catch {
      throw new Error("the dashboard does not answer");
    }
    if (!reply.ok) throw new Error(data.error);
    return data;
  }

  // --- buttons

  function capital(text) { return text.charAt(0).toUpperCase() + text.slice(1); }

  // Returns the question, the label of the answer, and when the jobs were counted.
  async function question(button, signal) {
    if (!button.dataset.count) return [button.dataset.ask, button.textContent];
    const fields = new URLSearchParams();
    for (const [name, values] of Object.entries(JSON.parse(button.dataset.body))) {
      for (const value of [].concat(values)) fields.append(name, value);
    }
    const { count, is_whole, counted_at } = await ask(`${button.dataset.count}?${fields}`, { signal });
    const jobs = `${is_whole ? "" : "at least "}${count} ${count === 1 ? "job" : "jobs"}`;
    const what = `${capital(button.dataset.post.split("/").pop())} ${jobs}`;
    return [`${what}?`, count || !is_whole ? what : "", counted_at];
  }

  // Opens the dialog. Returns a promise of its answer, and a signal that it has been closed: all
  // questions share one dialog, so nothing may touch it for a question that has been closed.
  function opened() {
    const closing = new AbortController();
    byId("ask-text").textContent = "Counting...";
    byId("ask-yes").hidden = true;
    dialog.returnValue = "";
    dialog.showModal();
    const answer = new Promise((done) => dialog.addEventListener("close", () => {
      closing.abort();
      done(dialog.returnValue);
    }, { once: true }));
    return [answer, closing.signal];
  }

  // Asks whether to act. Returns the data to send, nothing if the answer is no.
  async function confirmed(button) {
    const [answer, signal] = opened();
    try {
      const [text, label, counted_at] = await question(button, signal);
      if (signal.aborted) return undefined;
      byId("ask-text").textContent = text;
      byId("ask-yes").textContent = label;
      byId("ask-yes").hidden = !label;
      if (label) byId("ask-yes").focus();
      const body = { ...JSON.parse(button.dataset.body), counted_at };
      return (await answer) === "yes" ? body : undefined;
    } catch (error) {
      if (signal.aborted) return undefined;
      dialog.close();
      throw error;
    }
  }

  async function act(button) {
    show("told", "");
    show("trouble", "");
    button.disabled = true;
    try {
      const body = await confirmed(button);
      if (!body) return;
      show("told", "Working...");
      const told = await ask(button.dataset.post, {
        method: "POST",
        headers: { Accept: "application/json", "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
      show("told", told.done);
      await refresh();
    } catch (error) {
      show("told", "");
      show("trouble", error.message);
    } finally {
      button.disabled = false;
    }
  }

  byId("ask-yes").addEventListener("click", () => dialog.close("yes"));
  byId("ask-no").addEventListener("click", () => dialog.close());
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-post]");
    if (button) act(button);
  });

  // --- refreshing

  async function page(url) {
    const reply = await fetch(url, { headers: { Accept: "text/html" } });
    return [reply.ok, new DOMParser().parseFromString(await reply.text(), "text/html")];
  }

  let trouble = false; // whether the last refresh failed

  async function refresh() {
    const main = document.querySelector("main");
    if (!main || dialog.open) return;
    try {
      const [isOk, found] = await page(location.href);
      if (dialog.open) return;
      if (isOk) {
        main.replaceChildren(...found.querySelector("main").childNodes);
        load();
      }
      if (trouble || !isOk) show("trouble", isOk ? "" : found.querySelector("#error").textContent);
      trouble = !isOk;
    } catch {
      show("trouble", "the dashboard does not answer");
      trouble = true;
    }
  }

  function load() {
    document.querySelectorAll("[data-load]").forEach(async (place) => {
      try {
        const [isOk, found] = await page(place.dataset.load);
        if (isOk) place.replaceChildren(...found.body.childNodes);
        else place.textContent = found.querySelector("#error").textContent;
      } catch {
        place.textContent = "the dashboard does not answer";
      }
    });
  }

  const box = byId("refresh");
  const seconds = Number(document.querySelector("main")?.dataset.refresh);
  if (box) {
    box.checked = localStorage.getItem("werk-refresh") !== "off";
    box.addEventListener("change", () => localStorage.setItem("werk-refresh", box.checked ? "on" : "off"));
    const loop = async () => {
      if (box.checked && !document.hidden) await refresh();
      setTimeout(loop, seconds * 1000);
    };
    setTimeout(loop, seconds * 1000);
  }
  load();

  // The Content-Security-Policy forbids sending forms, so the filters go into the address.
  byId("filters")?.addEventListener("submit", (event) => {
    event.preventDefault();
    const fields = new URLSearchParams();
    for (const [name, value] of new FormData(event.target)) if (value) fields.append(name, value);
    location.search = fields;
  });
})();
