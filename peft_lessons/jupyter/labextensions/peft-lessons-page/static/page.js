/* What a lesson's page adds to JupyterLab: page.css, which lies beside this file, and running a student's cell when the
   card of its exercise asks for that. */

(() => {
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

      const plugin = {
        id: "peft-lessons-page:plugin",
        description: "Brings the style sheet of the lessons, and runs the cell that an exercise's card asks for.",
        autoStart: true,
        requires: [INotebookTracker],
        activate: (_, tracker) => {
          document.head.append(sheet);
          document.addEventListener("peft:run", event => run(tracker, event));
        },
      };
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
