// Sets the colour scheme before anything is drawn. A classic script, so that nothing flashes.
// `auto` follows the system; the choice is kept in this browser only.
{
  const KEY = "theme";
  let kept = null;
  try {
    kept = localStorage.getItem(KEY);
  } catch {
    // A browser may forbid storage; the system's scheme is used then.
  }
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
}
