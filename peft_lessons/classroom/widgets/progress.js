// The map of the lessons. Counts come from the kernel, which is asked again each time the map comes into view.

const text = (tag, className, ...children) => element(tag, { className }, ...children);

// The folder that the notebook lies in, as JupyterLab's address tells it: [what stands before /lab, path from the root].
function place() {
  const found = location.pathname.match(/^(.*)\/(?:lab(?:\/workspaces\/[^/]+)?|doc)\/tree\/(.*\/)?[^/]*$/);
  return found && [found[1], found[2] ?? ""];
}

// In JupyterLab a plain link would reload the page; its command linker opens a tab instead, given the path from the
// server's root. Elsewhere, and where a page holds one document only, the plain link works.
function openInLab(event) {
  if (!/\/lab(\/|$)/.test(location.pathname)) return;
  const link = event.currentTarget;
  const path = decodeURIComponent(place()[1]) + link.getAttribute("href");
  link.setAttribute("data-commandlinker-command", "docmanager:open");
  link.setAttribute("data-commandlinker-args", JSON.stringify({ path }));
}

function lessonLink(lesson, words, className) {
  const link = text("a", className, words);
  link.setAttribute("href", lesson.notebook);
  link.addEventListener("click", openInLab);
  return link;
}

function bar({ done, total }, label) {
  const track = text("span", "peft-bar");
  const fill = element("span");
  fill.style.width = `${(100 * done) / total}%`;
  track.append(fill);
  if (label) {
    const values = { role: "progressbar", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": total, "aria-valuenow": done };
    for (const [name, value] of Object.entries(values)) track.setAttribute(name, value);
  } else {
    track.setAttribute("aria-hidden", "true"); // the count beside it says it
  }
  return track;
}

const sum = (parts) => ({
  done: parts.reduce((all, { done }) => all + done, 0),
  total: parts.reduce((all, { total }) => all + total, 0),
});
const things = (lesson) => sum([lesson.quiz, lesson.exercise]);
const minutes = (lesson) => lesson.reading + lesson.running;
const finished = (lesson) => things(lesson).done === things(lesson).total;

// 47 min, 3 h 20 min: whole ten minutes from an hour on, since nobody knows it better.
function duration(all) {
  if (all < 60) return `${all} min`;
  const tens = Math.round(all / 10);
  return [`${Math.floor(tens / 6)} h`, tens % 6 ? `${(tens % 6) * 10} min` : ""].filter(Boolean).join(" ");
}

function head(rows) {
  const all = sum(rows.map(things));
  const next = rows.find((lesson) => !finished(lesson));
  const left = rows.filter((lesson) => !finished(lesson)).reduce((whole, lesson) => whole + minutes(lesson), 0);
  const top = text("div", "peft-head");
  const count = `${all.done} of ${all.total} questions and exercises`;
  top.append(
    text("p", "peft-title", "Your way through the course"),
    bar(all, "Questions and exercises done"),
    text("p", "peft-muted", next ? `${count} · about ${duration(left)} left` : `✔ All ${all.total} questions and exercises done`),
  );
  if (next) {
    const words = all.done || rows[0] !== next ? "Go on with" : "Begin with";
    top.append(lessonLink(next, `${words} ${next.number} · ${next.title}`, "peft-go"));
  }
  return top;
}

function row(lesson) {
  const { done, total } = things(lesson);
  const line = text("li", finished(lesson) ? "peft-done" : "");
  const parts = [["question", lesson.quiz], ["exercise", lesson.exercise]].filter(([, part]) => part.total);
  const count = text("span", "peft-count", finished(lesson) ? "✔ done" : `${done} of ${total}`);
  count.title = parts.map(([name, part]) => `${part.done} of ${part.total} ${name}${part.total > 1 ? "s" : ""}`).join(", ");
  line.append(
    text("span", "peft-number", lesson.number),
    lessonLink(lesson, lesson.title, "peft-lesson"),
    bar({ done, total }),
    count,
    text("span", "peft-minutes", `${minutes(lesson)} min`),
  );
  return line;
}

function improvement({ earlier, later }) {
  const part = text("div", "peft-guesses");
  if (!later) return part;
  const share = ({ close, total }) => close / total;
  const better = share(later) > share(earlier) ? " They have become better." : "";
  part.append(text("p", "peft-title", `Your guesses within a factor of two.${better}`));
  for (const [name, { close, total }] of [["earlier", earlier], ["later", later]]) {
    const line = text("p", "peft-half");
    const half = { done: close, total };
    line.append(text("span", "", `the ${name} ${total}`), bar(half), text("span", "", `${close} of ${total}`));
    part.append(line);
  }
  return part;
}

// Only a kernel can write the certificate.
function certificate(model) {
  const form = text("form", "peft-certificate");
  const label = text("label", "", "Your name, as it is to stand on the certificate ");
  const name = element("input");
  name.required = true;
  name.maxLength = 80;
  name.autocomplete = "name";
  label.append(name);
  const said = element("p");
  said.setAttribute("role", "status");
  form.append(label, text("button", "", "Make the certificate"), said);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    said.textContent = "Writing …";
    kernel.waits(true);
    model.send({ certificate: name.value });
  });
  const kernel = kernelWatch(model, form);
  const show = () => {
    kernel.answered();
    const answer = model.get("certificate") ?? {};
    said.textContent = answer.said ?? "";
    const here = place();
    if (!answer.file || !here) return;
    const link = text("a", "", "Open it.");
    link.href = `${here[0]}/files/${here[1]}${answer.file}`;
    link.target = "_blank";
    link.rel = "noopener";
    said.append(" ", link);
  };
  show();
  return { form, show, kernel };
}

function render({ model, el }) {
  const map = text("section", "peft-theme peft-box peft-progress");
  map.setAttribute("aria-label", "Progress");
  const [top, list, guesses] = [element("div"), element("ol"), element("div")];
  const note = text("p", "peft-muted");
  const end = certificate(model);
  map.append(top, list, guesses, end.form, note);
  el.append(map);

  function draw() {
    const rows = model.get("rows");
    top.replaceChildren(head(rows));
    list.replaceChildren(...rows.map(row));
    guesses.replaceChildren(improvement(model.get("guesses") ?? {}));
    const saved = Boolean(model.get("saved"));
    end.form.hidden = !rows.every(finished) || !model.send || saved;
    note.textContent = saved ? "Saved view: run this cell to bring it up to date." : "";
  }
  const reactions = [...["rows", "guesses", "saved"].map((name) => [`change:${name}`, draw]), ["change:certificate", end.show]];
  for (const [event, react] of reactions) model.on(event, react);
  draw();

  keepKeys(map);
  const inView = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) model.send?.("refresh");
  });
  inView.observe(map);

  return () => {
    inView.disconnect();
    end.kernel.close();
    for (const [event, react] of reactions) model.off(event, react);
  };
}

export default { render };
