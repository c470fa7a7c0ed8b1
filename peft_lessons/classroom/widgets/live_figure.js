function render({ model, el }) {
  const picture = Object.assign(new Image(), { alt: model.get("alt"), width: model.get("width") });
  const seen = new Map(); // answers by position: a slider on its way back need not wait for the kernel
  const ahead = []; // where the sliders have been since what is shown, in order
  let latest, shown;
  // What is shown: where the sliders stand, if that was answered; else an answer that comes, if the sliders were there
  // after what is shown. So the picture follows the hand, late at times, but never goes back to where that came from.
  const here = () => {
    const answer = model.get("answer");
    const place = String(model.get("position"));
    if (!answer.failed) seen.set(String(answer.position), answer);
    if (seen.size > 256) seen.delete(seen.keys().next().value);
    if (ahead.at(-1) !== place) ahead.push(place);
    const found = seen.get(place) ?? (answer === latest ? shown : answer);
    latest = answer;
    const passed = ahead.lastIndexOf(String(found.position)) + 1;
    if (passed || !shown) shown = found;
    ahead.splice(0, passed);
    return shown;
  };
  const paint = () => {
    const now = here();
    now.url ??= pngUrl(new Uint8Array(now.png.buffer));
    if (picture.src !== now.url) picture.src = now.url;
  };
  const readouts = () => here().readouts;
  const close = sliders(
    { model, el },
    { picture, paint, readouts, news: ["change:position", "change:answer"], delay: 0 },
  );

  const figure = picture.parentElement;
  const kernel = kernelWatch(model, figure);
  const wait = () => {
    const waiting = String(here().position) !== String(model.get("position"));
    figure.classList.toggle("peft-stale", waiting);
    kernel.waits(waiting);
  };
  const answered = () => {
    kernel.answered();
    wait();
  };
  model.on("change:position", wait);
  model.on("change:answer", answered);
  return () => {
    model.off("change:position", wait);
    model.off("change:answer", answered);
    kernel.close();
    close();
  };
}

// A blob's URL would be fetched through another process, some milliseconds more.
function pngUrl(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return `data:image/png;base64,${btoa(text)}`;
}

export default { render };
