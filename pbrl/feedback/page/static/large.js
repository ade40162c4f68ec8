// One clip alone, as large as the window lets it be, by a key, a button or a double click; it can be answered from there.

export class Large {
  constructor(clips) {
    this.clips = clips;
    clips.addEventListener("dblclick", (event) => {
      const figure = event.target.closest("figure");
      if (figure && event.target.matches("video")) this.set(document.body.classList.contains("large") ? null : figure);
    });
  }

  get figures() {
    return [...this.clips.children];
  }

  get isOn() {
    return document.body.classList.contains("large");
  }

  // All, then each alone, then all again.
  turn() {
    const at = this.figures.findIndex((figure) => figure.classList.contains("alone"));
    this.set(this.figures[at + 1] ?? null);
  }

  set(shown) {
    for (const figure of this.figures) figure.classList.toggle("alone", figure === shown);
    document.body.classList.toggle("large", Boolean(shown));
  }
}
