// As the other pages of the site: what the reader has chosen there, else what the system says.
{
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const choose = () => {
    let chosen;
    try { chosen = localStorage.getItem("mode"); } catch { /* a page from a file may have no storage */ }
    document.documentElement.dataset.theme = ["light", "dark"].includes(chosen) ? chosen : dark.matches ? "dark" : "light";
  };
  dark.addEventListener("change", choose);
  choose();
}
