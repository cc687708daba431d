// The desk by keyboard: j and k go through the texts, a, e and r decide. Without it all forms work.
"use strict";
const texts = [...document.querySelectorAll(".review")];
let place = 0;
const show = (to) => {
  place = Math.max(0, Math.min(to, texts.length - 1));
  texts[place]?.focus();
};
if (texts.length) {
  show(0);
  document.addEventListener("focusin", (event) => {
    const found = texts.findIndex((text) => text.contains(event.target));
    if (found >= 0) place = found;
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, textarea");
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape" && typing) return show(place);
    if (typing) return;
    if (event.key === "j" || event.key === "k") return show(place + (event.key === "j" ? 1 : -1));
    if (event.key === "e") {
      event.preventDefault();
      return texts[place].querySelector("textarea").focus();
    }
    texts[place].querySelector(`button[data-key="${CSS.escape(event.key)}"]`)?.click();
  });
  for (const area of document.querySelectorAll(".review textarea")) {
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        area.form.querySelector('button[value="edit"]').click();
      }
    });
  }
}
