/* Brings page.css, which lies beside this file, into JupyterLab and its slides. */

(() => {
  const sheet = Object.assign(document.createElement("link"), {
    rel: "stylesheet",
    href: new URL("page.css", document.currentScript.src).href,
  });
  (window._JUPYTERLAB ??= {})["peft-lessons-page"] = {
    init: () => {},
    get: async () => {
      const plugin = {
        id: "peft-lessons-page:plugin",
        description: "Brings the style sheet of the lessons.",
        autoStart: true,
        activate: () => document.head.append(sheet),
      };
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
