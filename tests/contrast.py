"""Whether texts on a page stand out enough against what lies behind them, computed in the browser itself."""

from typing import Any

FAINT = """selector => {
    const VISIBLE = { visibilityProperty: true, opacityProperty: true }; // not what appears under the mouse
    const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const parse = text => {
        const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((value, i) => value * a + below[i] * (1 - a));
    const behind = element => {
        const layers = [];
        for (let node = element; node; node = node.parentElement) {
            const colour = parse(getComputedStyle(node).backgroundColor);
            layers.push(colour);
            if (colour[3] === 1) break;
        }
        return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
    };
    const faint = [];
    for (const root of document.querySelectorAll(selector)) {
        const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) {
            const element = texts.currentNode.parentElement, style = getComputedStyle(element);
            if (!texts.currentNode.data.trim() || !element.checkVisibility(VISIBLE)) continue;
            if (element.closest("svg, script, style")) continue;
            const ground = behind(element), ink = over(parse(style.color), ground);
            const [dark, light] = [luminance(ink), luminance(ground)].sort((a, b) => a - b);
            const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
            const ratio = (light + 0.05) / (dark + 0.05);
            const words = texts.currentNode.data.trim().slice(0, 60);
            if (ratio < (large ? 3 : 4.5)) faint.push(`${ratio.toFixed(2)}: ${words}`);
        }
    }
    return faint;
}"""


def faint_texts(page: Any, selector: str) -> list[str]:
    """The texts inside the elements that `selector` picks whose contrast is below WCAG's AA, each with its ratio."""
    return page.evaluate(FAINT, selector)
