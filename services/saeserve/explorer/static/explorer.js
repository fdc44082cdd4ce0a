// Pages work without this: it adds keys (j and k: next and previous entry), a button that copies the
// link of a view, and renews the page of a job that somebody waits for only once its state changes.
"use strict";

const typing = (element) => element.matches("input, textarea, select, [contenteditable]");

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  const step = { j: 1, k: -1 }[event.key];
  if (!step) return;
  const entries = [...document.querySelectorAll("[data-steps] a.main, a[data-step]")];
  const at = entries.indexOf(document.activeElement);
  const next = entries[at < 0 ? (step > 0 ? 0 : entries.length - 1) : at + step];
  if (next) next.focus();
});

const follow = async (element) => {
  const answer = await fetch(element.dataset.follow, { headers: { Accept: "application/json" } });
  if (!answer.ok) return;
  const { job } = await answer.json();
  if (job.state === element.dataset.state) setTimeout(follow, 1000, element);
  else location.reload();
};

for (const element of document.querySelectorAll("[data-follow]")) setTimeout(follow, 1000, element);

for (const link of document.querySelectorAll("a.permalink")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.className = "plain";
  button.textContent = "Copy link";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(link.href);
    button.textContent = "Copied";
  });
  link.replaceWith(button);
}
