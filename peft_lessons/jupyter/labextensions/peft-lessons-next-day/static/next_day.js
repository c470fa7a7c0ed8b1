/* A lesson that was saved and is opened the next day shows its widgets as they were left, without a kernel.

   JupyterLab's widget manager saves the state of widgets with the notebook (../../../settings) and shows them again from
   it. Three things it leaves undone are done here: a second save keeps what the first one saved, a widget without a
   saved state falls back to the text form that lies beside it, and a widget's script learns from `saved` on its model
   that no kernel listens. JupyterLab loads this file like any prebuilt extension, as the module container that a bundler
   would make: `init` receives JupyterLab's shared modules, `get` returns the plugin. */

(() => {
  const VIEW = "application/vnd.jupyter.widget-view+json";
  const STATE = "application/vnd.jupyter.widget-state+json";
  const NOT_FOUND = "Error displaying widget: model not found"; // what the widget manager writes in its place
  const TEXT_FORMS = ["text/html", "text/markdown", "text/plain"];
  const followed = new WeakSet();
  let modules;

  const shared = async name => (await Object.values(modules[name])[0].get())();

  function shownIn(notebook) {
    const outputs = [...notebook.cells].flatMap(({ outputs }) =>
      Array.from({ length: outputs?.length ?? 0 }, (_, place) => outputs.get(place)),
    );
    return outputs.flatMap(({ data }) => data[VIEW]?.model_id ?? []);
  }

  /* The manager saves the widgets that have a kernel and forgets all others (ipywidgets 3270). What an output shows stays,
     with the widgets that it consists of. */
  function saveAll(notebook) {
    const setMetadata = notebook.setMetadata.bind(notebook);
    notebook.setMetadata = (name, value) => {
      if (name !== "widgets") return setMetadata(name, value);
      const all = { ...notebook.getMetadata("widgets")?.[STATE]?.state, ...value[STATE].state };
      const kept = {};
      const wanted = shownIn(notebook);
      while (wanted.length) {
        const id = wanted.pop();
        if (!(id in all) || id in kept) continue;
        kept[id] = all[id];
        for (const [, part] of JSON.stringify(all[id]).matchAll(/IPY_MODEL_([\w-]+)/g)) wanted.push(part);
      }
      if (Object.keys(kept).length) setMetadata(name, { [STATE]: { ...value[STATE], state: kept } });
      else notebook.deleteMetadata(name);
    };
  }

  async function followKernel(renderer, id) {
    const manager = await renderer._manager?.promise;
    if (manager?.has_model(id)) follow(await manager.get_model(id));
  }

  function follow(model) {
    (model.get("children") ?? []).forEach(follow);
    if (followed.has(model)) return;
    followed.add(model);
    const tell = () => model.set("saved", !model.comm_live);
    model.on("comm_live_update", tell);
    if (!model.comm_live) tell();
  }

  async function fallBack(renderer, rendermime, options, output) {
    const mimeType = TEXT_FORMS.find(type => output.data[type] !== undefined);
    if (!mimeType) return;
    renderer.node.textContent = "";
    const form = rendermime.getFactory(mimeType).createRenderer({ ...options, mimeType });
    await form.renderModel(output);
    renderer.addWidget(form);
    const line = document.createElement("p");
    line.textContent = "Saved view: run this cell to use it.";
    renderer.node.append(line);
  }

  /* Renderers stay the manager's own, which looks for them to give them the models of the notebook. */
  function lasting(factory, rendermime) {
    const createRenderer = options => {
      const renderer = factory.createRenderer(options);
      const renderModel = renderer.renderModel.bind(renderer);
      renderer.renderModel = async output => {
        await renderModel(output);
        if (renderer.node.textContent === NOT_FOUND) await fallBack(renderer, rendermime, options, output);
        else await followKernel(renderer, output.data[VIEW].model_id);
      };
      return renderer;
    };
    return { ...factory, createRenderer };
  }

  (window._JUPYTERLAB ??= {})["peft-lessons-next-day"] = {
    init: scope => {
      modules = scope;
    },
    get: async () => {
      const { INotebookTracker } = await shared("@jupyterlab/notebook");
      const { IRenderMimeRegistry } = await shared("@jupyterlab/rendermime");
      const { IJupyterWidgetRegistry } = await shared("@jupyter-widgets/base");
      const plugin = {
        id: "peft-lessons-next-day:plugin",
        description: "Shows the widgets of a reopened lesson as they were left, without a kernel.",
        autoStart: true,
        requires: [INotebookTracker, IRenderMimeRegistry, IJupyterWidgetRegistry],
        activate: (_, tracker, rendermime) => {
          rendermime.addFactory(lasting(rendermime.getFactory(VIEW), rendermime), -10); // for outputs drawn at once
          tracker.widgetAdded.connect((_, { content, context }) => {
            saveAll(context.model);
            const own = content.rendermime; // its factory comes when the kernel is known, and again with each other one
            const addFactory = own.addFactory.bind(own);
            own.addFactory = (factory, rank) =>
              addFactory(factory.mimeTypes.includes(VIEW) ? lasting(factory, own) : factory, rank);
          });
        },
      };
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
