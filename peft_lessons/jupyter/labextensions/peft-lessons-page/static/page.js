/* What a lesson's page adds to JupyterLab: page.css, which lies beside this file, running a student's cell when the card
   of its exercise asks for that, and the meanings of terms where a lesson first uses them. */

(() => {
  const glossary = new URL("glossary.js", document.currentScript.src).href;
  const sheet = Object.assign(document.createElement("link"), {
    rel: "stylesheet",
    href: new URL("page.css", document.currentScript.src).href,
  });
  let modules;
  const shared = async name => (await Object.values(modules[name])[0].get())();

  (window._JUPYTERLAB ??= {})["peft-lessons-page"] = {
    init: scope => {
      modules = scope;
    },
    get: async () => {
      const { INotebookTracker } = await shared("@jupyterlab/notebook");
      const { CodeCell } = await shared("@jupyterlab/cells");

      const run = (tracker, event) => {
        const panel = tracker.find(({ node }) => node.contains(event.target));
        const cell = panel?.content.widgets.find(
          ({ model }) => model.type === "code" && model.getMetadata("exercise") === event.detail.exercise,
        );
        if (!cell) return;
        event.preventDefault();
        CodeCell.execute(cell, panel.sessionContext).finally(event.detail.done);
      };

      const { PageConfig } = await shared("@jupyterlab/coreutils");
      const { finder, mark, showMeanings } = await import(glossary);
      const terms = finder(JSON.parse(PageConfig.getOption("peftLessonsGlossary") || "[]"));

      // Cells are rendered in any order, and again when they are edited; their sources say where a term comes first.
      const markTerms = ({ content }) => {
        const used = new Set();
        for (const cell of content.widgets.filter(({ model }) => model.type === "markdown")) {
          const prose = cell.model.sharedModel.getSource().replace(/^#.*$|`[^`]*`|\$[^$]*\$/gm, "");
          const here = new Set((prose.match(terms.pattern) ?? []).map(terms.termOf).filter((term) => !used.has(term)));
          here.forEach((term) => used.add(term));
          const shown = cell.node.querySelector(".jp-MarkdownOutput");
          const ready = shown && !/\$[^$]+\$/.test(shown.textContent); // formulas are typeset after the text
          if (ready && here.size && !shown.querySelector(".peft-term")) mark(shown, terms, (term) => here.has(term));
        }
      };
      const watch = panel => {
        let timer;
        const later = () => {
          clearTimeout(timer);
          timer = setTimeout(() => markTerms(panel), 100);
        };
        new MutationObserver(later).observe(panel.content.node, { childList: true, subtree: true });
        later();
      };

      const plugin = {
        id: "peft-lessons-page:plugin",
        description: "Brings the lessons' style sheet and glossary, and runs the cell that an exercise's card asks for.",
        autoStart: true,
        requires: [INotebookTracker],
        activate: (_, tracker) => {
          document.head.append(sheet);
          document.addEventListener("peft:run", event => run(tracker, event));
          showMeanings();
          tracker.forEach(watch);
          tracker.widgetAdded.connect((_, panel) => watch(panel));
        },
      };
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
