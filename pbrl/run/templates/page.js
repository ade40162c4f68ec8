"use strict";
const find = document.getElementById("find"), only = document.getElementById("only");
function filter() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...document.querySelectorAll("#all-settings tbody tr")];
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = (only.checked && !row.classList.contains("differs")) || !words.every((word) => text.includes(word));
  }
  const shown = rows.filter((row) => !row.hidden).length;
  document.getElementById("shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} shown`;
}
if (find) {
  only.checked = document.querySelector("#all-settings .differs") !== null;
  find.addEventListener("input", () => { only.checked &&= !find.value; filter(); });  // a search is of all settings
  only.addEventListener("change", filter);
  filter();
}
