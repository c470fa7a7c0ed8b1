/* What a talk (talk.py) adds to JupyterLab: each notebook that is opened starts as slides, in a fresh kernel, and runs.

   So loading the page again resets a demonstration. JupyterLab loads this file like any prebuilt extension; it is short
   enough to be written by hand, as the module container that a bundler would make: `init` receives JupyterLab's shared
   modules, `get` returns the plugin. */

(() => {
  const FORWARD = { direction: "down", alternate: "forward" };
  const BACK = { direction: "up", alternate: "back" };
  const KEYS = { PageDown: FORWARD, PageUp: BACK }; // what remote controls send, and Space below
  const BUSY = "input:not([type=range]), button, textarea, select, .cm-editor"; // here a space is a space
  let modules;

  const shared = async name => (await Object.values(modules[name])[0].get())();
  const isSolution = cell => (cell.model.getMetadata("tags") ?? []).includes("solution");

  /* Also waits until the kernel answers: one that is restarted while it starts loses messages. */
  async function hasRun(kernel) {
    const reply = await kernel.requestExecute({ code: "", silent: true }).done;
    return reply.content.execution_count > 0;
  }

  /* One cell after the other, so that each shows its stored outputs until its turn has come. */
  async function begin(app, CodeCell, panel) {
    const { content, context, sessionContext } = panel;
    await Promise.all([app.restored, context.ready, panel.revealed]);
    content.activeCellIndex = 0;
    await app.commands.execute("deck:start");
    await sessionContext.ready;
    if (await hasRun(sessionContext.session.kernel)) await sessionContext.restartKernel();
    for (const cell of content.widgets) {
      if (cell.model.type === "code" && !isSolution(cell)) await CodeCell.execute(cell, sessionContext);
    }
  }

  /* One key, one visible step: what lies beyond the edge of the screen comes first, then another slide. The deck's own
     keys stop at every cell of a slide and never scroll within one. */
  async function step(app, notebook, towards) {
    const scroller = notebook.node.querySelector(".jp-WindowedPanel-outer");
    const onScreen = () => notebook.widgets.findIndex(cell => cell.hasClass("jp-deck-mod-onscreen"));
    const [top, slide] = [scroller.scrollTop, onScreen()];
    scroller.scrollTop += (towards === FORWARD ? 0.8 : -0.8) * scroller.clientHeight;
    if (scroller.scrollTop !== top) return;
    let cell;
    do {
      cell = notebook.activeCellIndex;
      await app.commands.execute("deck:go", towards);
    } while (notebook.activeCellIndex !== cell && onScreen() === slide);
    if (onScreen() !== slide) scroller.scrollTop = 0;
  }

  function listen(app, tracker) {
    const towards = ({ key, shiftKey, target }) =>
      key === " " && !target.closest(BUSY) ? (shiftKey ? BACK : FORWARD) : KEYS[key];
    const handle = event => {
      if (document.body.dataset.jpDeckMode !== "presenting" || !towards(event)) return;
      event.preventDefault();
      event.stopPropagation();
      step(app, tracker.currentWidget.content, towards(event));
    };
    window.addEventListener("keydown", handle, true); // before a widget that has the focus
  }

  (window._JUPYTERLAB ??= {})["peft-lessons-presenter"] = {
    init: scope => {
      modules = scope;
    },
    get: async () => {
      const { INotebookTracker } = await shared("@jupyterlab/notebook");
      const { CodeCell } = await shared("@jupyterlab/cells");
      const plugin = {
        id: "peft-lessons-presenter:plugin",
        description: "Starts each notebook as slides, in a fresh kernel, and runs it.",
        autoStart: true,
        requires: [INotebookTracker],
        activate: (app, tracker) => {
          tracker.widgetAdded.connect((_, panel) => begin(app, CodeCell, panel));
          listen(app, tracker);
        },
      };
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
