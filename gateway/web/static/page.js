// Keeps an open page up to date: at once when an alert moves, and every few seconds where <main> says so.
// Pure progressive enhancement: without it the status page reloads itself.
"use strict";

const RETRY_MS = 5000;
let asking = false;
let again = false;

// The form somebody is writing in; it must stay as it is.
function heldForm() {
  const forms = [...document.querySelectorAll("main form[id]")];
  const written = (form) => [...form.elements].some((e) => "defaultValue" in e && e.value !== e.defaultValue);
  return forms.find((form) => form.contains(document.activeElement)) ?? forms.find(written);
}

// Replaces everything in `old` by what is in `fresh`, except the form and the elements around it.
function renew(old, fresh, form) {
  if (old === form) return;
  const twinForm = form && fresh.querySelector("#" + form.id);
  const way = twinForm && [...old.childNodes].find((node) => node.contains(form));
  const twin = twinForm && [...fresh.childNodes].find((node) => node.contains(twinForm));
  if (!way || !twin) {
    old.replaceWith(fresh);
    return;
  }
  for (const { name, value } of fresh.attributes) old.setAttribute(name, value);
  while (old.firstChild !== way) old.firstChild.remove();
  while (old.lastChild !== way) old.lastChild.remove();
  while (fresh.firstChild !== twin) old.insertBefore(fresh.firstChild, way);
  while (twin.nextSibling) old.append(twin.nextSibling);
  renew(way, twin, form);
}

async function refresh() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  let stale = true;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = fresh.querySelector("main");
    if (answer.ok && main) {
      document.title = fresh.title;
      renew(document.querySelector("main"), main, heldForm());
      stale = false;
    }
  } catch {
    // The gateway does not answer; the page says so below.
  }
  document.getElementById("stale").hidden = !stale;
  asking = false;
  if (again) {
    again = false;
    refresh();
  }
}

function listen() {
  const live = new EventSource("/live");
  live.addEventListener("alert", refresh);
  live.addEventListener("open", refresh); // what happened while nobody listened
  live.addEventListener("error", () => {
    if (live.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MS);
  });
}

listen();
const every = Number(document.querySelector("main").dataset.refreshS);
if (every) setInterval(refresh, every * 1000);
