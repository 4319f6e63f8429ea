// Puts fresh figures in place of the old every two seconds, while the page is looked at.
"use strict";
const live = document.getElementById("live");
async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/live", { credentials: "same-origin", redirect: "error" });
    if (answer.ok) live.innerHTML = await answer.text();
    live.classList.toggle("stale", !answer.ok);
  } catch {
    live.classList.add("stale");
  }
}
setInterval(refresh, 2000);
document.addEventListener("visibilitychange", refresh);
