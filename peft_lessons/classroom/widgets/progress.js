// The table of lessons. Counts come from the kernel, which is asked again each time the table comes into view.

function element(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

// In JupyterLab a plain link would reload the page; its command linker opens a tab instead, given the path from the
// server's root, which the page's address tells. Elsewhere the plain link works.
function openInLab(event) {
  const folder = location.pathname.match(/\/lab(?:\/workspaces\/[^/]+)?\/tree\/(.*\/)?[^/]*$/);
  if (!folder) return;
  const link = event.currentTarget;
  const path = decodeURIComponent(folder[1] ?? "") + link.getAttribute("href");
  link.setAttribute("data-commandlinker-command", "docmanager:open");
  link.setAttribute("data-commandlinker-args", JSON.stringify({ path }));
}

function count({ done, total }) {
  if (total === 0) return element("td", "–");
  const cell = element("td", `${done === total ? "✔ " : ""}${done} of ${total}`);
  cell.className = done === total ? "peft-done" : "";
  return cell;
}

function row(lesson) {
  const link = element("a", lesson.title);
  link.setAttribute("href", lesson.notebook);
  link.addEventListener("click", openInLab);
  const title = element("th");
  title.scope = "row";
  title.append(link);
  const line = element("tr");
  line.append(
    element("td", lesson.number),
    title,
    element("td", `${lesson.reading} + ${lesson.running}`),
    count(lesson.quiz),
    count(lesson.exercise),
  );
  return line;
}

function render({ model, el }) {
  const table = element("table", undefined, "peft-theme peft-progress");
  const head = element("tr");
  for (const text of ["", "Lesson", "Minutes to read + run", "Questions answered", "Exercises solved"]) {
    const cell = element(text ? "th" : "td", text);
    if (text) cell.scope = "col";
    head.append(cell);
  }
  const thead = element("thead");
  thead.append(head);
  const body = element("tbody");
  table.append(element("caption", "The lessons and your progress"), thead, body);

  const draw = () => body.replaceChildren(...model.get("rows").map(row));
  draw();
  model.on("change:rows", draw);
  el.append(table);

  const inView = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) model.send("refresh");
  });
  inView.observe(table);

  return () => {
    inView.disconnect();
    model.off("change:rows", draw);
  };
}

export default { render };
