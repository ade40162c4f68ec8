// The clips of a question, loaded before it is shown.

const DOUBLE = 250; // ms within which a second click makes a double click

// `hooks`: `broken(video)` when one does not play, `choose(slot)` when one is clicked, once.
export function makeFigures(question, { broken, choose }) {
  return question.order.map((place, slot) => {
    const figure = document.createElement("figure");
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: question.clips[place] });
    video.disablePictureInPicture = true;
    video.setAttribute("aria-label", `Clip ${slot + 1}`);
    video.addEventListener("error", () => broken(video));
    video.addEventListener("loadedmetadata", () => {
      figure.style.setProperty("--ratio", video.videoWidth / video.videoHeight || 1);
    });
    let clicked;
    video.addEventListener("click", (event) => {
      clearTimeout(clicked);
      if (event.detail === 1) clicked = setTimeout(() => choose(slot), DOUBLE);
    });
    figure.append(video, document.createElement("figcaption"));
    return figure;
  });
}

// Why a clip does not play.
export async function whyBroken(video) {
  try {
    const response = await fetch(video.src);
    return response.ok ? "this browser does not play it" : (await response.json()).detail;
  } catch {
    return "the server cannot be reached";
  }
}
