"""The page in a real browser: drawn, silent, quiet on the network, and nothing on top of anything else."""

import html as markup
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from excise.report import render
from tests.report import samples

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-pdf-header-footer",
    "--enable-logging=stderr",
)
HOSTILE = [
    "<script>console.error('ran')</script>",
    '"><img src="http://canary.invalid/name.png">',
    "</svg><style>*{display:none}</style>",
    "\u202eesrever",
    "\x1b[31mred",
    "&lt;b&gt;",
    "חתול שחור וגדול מאוד",
    "猫の写真がとても長い名前です",
    "a-class-with-a-name-that-is-far-too-long-for-its-margin",
    "plain",
]
CANARY = '<img src="http://canary.invalid/{}.png" alt="">'

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine to open the page with")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a browser made of a page."""

    dom: str
    console: list[str]
    requests: set[str]
    picture: Path
    pdf: Path


def opened(html, folder, *flags, width=1200, height=3000, dark=False):
    """Open a page from disk, with a network in which no name is found, and take down everything."""
    folder.mkdir()
    source, log = folder / "page.html", folder / "net.json"
    picture, pdf = folder / "page.png", folder / "page.pdf"
    source.write_text(html, encoding="utf-8")
    command = [
        BROWSER,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},{height}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--log-net-log={log}",
        *(f"--{name}" for name in flags or (f"screenshot={picture}", f"print-to-pdf={pdf}", "dump-dom")),
        source.as_uri(),
    ]
    run = subprocess.run(command, capture_output=True, timeout=60, check=True)
    console = [line for line in run.stderr.decode(errors="replace").splitlines() if ":CONSOLE" in line]
    return Seen(dom=run.stdout.decode(), console=console, requests=asked_for(log), picture=picture, pdf=pdf)


def asked_for(log):
    """The addresses that the page, and not the browser on its own account, asked the network for."""
    text = log.read_text(encoding="utf-8", errors="replace")
    try:
        found = json.loads(text)
    except json.JSONDecodeError:  # the browser ended before it closed the list
        found = json.loads(text.rstrip().rstrip(",") + "]}")
    own = (event["params"] for event in found["events"] if "initiator" in event.get("params", {}))
    return {params["url"] for params in own if params["initiator"] != "not an origin"}


class Tags(HTMLParser):
    """Names of a document's elements in order, and the text outside of style and script."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.names, self.words, self.inside = [], [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.names.append((tag, sorted(dict(attrs))))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("style", "script"):
            self.words.append(data)


@pytest.fixture(scope="module")
def page():
    """The page of a whole audit with hostile names of classes and recipes."""
    full = samples.full_page(names=HOSTILE)
    return samples.with_recipes(full, HOSTILE[1], HOSTILE[0])


@pytest.fixture(scope="module")
def light(page, tmp_path_factory):
    return opened(render(page), tmp_path_factory.mktemp("light") / "run")


def colours(picture):
    """The colours of a picture with their shares."""
    with Image.open(picture) as image:
        plain = image.convert("RGB")
        counts = plain.getcolors(plain.width * plain.height)
        return {colour: count / (plain.width * plain.height) for count, colour in counts}


def test_nothing_is_said_on_the_console_and_nothing_is_asked_of_the_network(light):
    assert light.console == []
    assert light.requests == set()


def framed(*pages, widths=(1200,), script=""):
    """A page of pages, each laid out in each width, and without a policy of its own."""
    frame = '<iframe srcdoc="{}" style="border:0;width:{}px;height:900px"></iframe>'
    frames = "".join(frame.format(markup.escape(page), width) for page in pages for width in widths)
    return f"<!doctype html><meta charset=utf-8><body>{frames}<script>{script}</script>"


def without_policy(html):
    return re.sub(r"<meta http-equiv=.*?>", "", html)


def test_the_policy_stops_what_gets_into_the_page_and_a_page_without_it_is_noticed(page, tmp_path):
    """The check of the network can fail: of two pages with a picture and a script in them, one may load and run them."""
    stopped, bare = (
        render(page).replace("<footer>", f"{CANARY.format(name)}<script>console.log('{name} ran')</script><footer>")
        for name in ("stopped", "bare")
    )
    seen = opened(framed(stopped, without_policy(bare)), tmp_path / "run", "dump-dom")
    assert seen.requests == {"http://canary.invalid/bare.png"}
    said = sorted("policy" if "Content Security Policy" in line else "ran" for line in seen.console)
    assert said == ["policy", "policy", "ran"]
    assert sum("bare ran" in line for line in seen.console) == 1


def test_a_browser_sees_the_elements_that_were_meant_and_hostile_names_as_text(page, light):
    meant, seen = Tags(render(page)), Tags(light.dom)
    assert seen.names == meant.names
    assert [name for name, _ in seen.names if name in ("script", "style", "img")] == ["style", "script"]
    text = " ".join(seen.words)
    for name in HOSTILE:
        assert name.replace("\u202e", "\ufffd").replace("\x1b", "\ufffd") in text


def test_light_and_dark_are_drawn_and_differ(page, light, tmp_path):
    dark = opened(render(page), tmp_path / "run", f"screenshot={tmp_path / 'dark.png'}", dark=True)
    assert dark.console == []
    for picture, paper, dot in (
        (light.picture, (0xFF, 0xFF, 0xFF), (0x00, 0x63, 0xA6)),
        (tmp_path / "dark.png", (0x14, 0x17, 0x1B), (0x69, 0xB7, 0xF0)),
    ):
        found = colours(picture)
        assert max(found, key=found.get) == paper
        assert found[paper] < 0.97
        assert len(found) > 50
        assert found[dot] > 1e-4


def test_print_has_pages_in_light_colours(light):
    pages = re.findall(rb"/Type\s*/Page\b", light.pdf.read_bytes())
    assert 5 <= len(pages) <= 40


MEASURE = """
const parts = [];
for (const frame of document.querySelectorAll('iframe')) {
  const inner = frame.contentDocument, width = frame.clientWidth, found = [];
  const say = (what, node) => found.push(`${what}: ${node.textContent.slice(0, 60)}`);
  const texts = inner.querySelectorAll('svg.plot text').length;
  parts.push({title: inner.querySelector('h1').textContent, width, texts, found});
  if (inner.documentElement.scrollWidth > width) say('wider than the window', inner.querySelector('h1'));
  for (const plot of inner.querySelectorAll('svg.plot')) {
    if (plot.closest('details')) continue;
    const texts = [...plot.querySelectorAll('text')].filter(text => text.getBoundingClientRect().width);
    const boxes = texts.map(text => text.getBoundingClientRect());
    boxes.forEach((box, index) => {
      const column = plot.parentElement.getBoundingClientRect();
      const out = box.left < Math.max(-1, column.left - 14) || box.right > Math.min(width + 1, column.right + 14);
      if (!plot.closest('.scroll') && out) say('clipped', texts[index]);
      for (let other = 0; other < index; other++) {
        const across = Math.min(box.right, boxes[other].right) - Math.max(box.left, boxes[other].left);
        const down = Math.min(box.bottom, boxes[other].bottom) - Math.max(box.top, boxes[other].top);
        if (across > 1 && down > 4) say(`upon ${texts[other].textContent}`, texts[index]);
      }
    });
  }
  for (const node of inner.querySelectorAll('p, li, dd, dt, h1, h2, h3, summary, figcaption')) {
    const box = node.getBoundingClientRect();
    if (!node.closest('.scroll') && !node.closest('.spoken') && box.width && box.right > width + 1) say('sticks out', node);
  }
}
document.body.innerHTML = '';
document.body.append(Object.assign(document.createElement('pre'), {textContent: JSON.stringify(parts)}));
"""


@pytest.fixture(scope="module")
def layout(page, tmp_path_factory):
    """What is clipped or covered on a phone, a tablet and a desk: of the page, and of one that is spoilt."""
    plot = '<svg class="plot" width="200" height="20"><text y="10">one</text><text x="4" y="10">two</text></svg>'
    spoilt = f'<!doctype html><h1>Spoilt</h1><p style="width:400px">too wide</p><div>{plot}</div>'
    hub = framed(without_policy(render(page)), spoilt, widths=(360, 768, 1200), script=f"onload = () => {{{MEASURE}}}")
    seen = opened(hub, tmp_path_factory.mktemp("layout") / "run", "dump-dom", width=1300)
    assert seen.console == []
    return json.loads(markup.unescape(re.search("<pre>(.*?)</pre>", seen.dom, re.DOTALL).group(1)))


def test_at_no_width_is_a_text_clipped_or_written_over_another(layout):
    drawn = [part for part in layout if part["title"].startswith("Did the network")]
    assert [part["width"] for part in drawn] == [360, 768, 1200]
    for part in drawn:
        assert part["texts"] > 300
        assert part["found"] == []


def test_what_is_clipped_or_covered_is_noticed(layout):
    phone, tablet, _ = [part["found"] for part in layout if part["title"] == "Spoilt"]
    assert tablet == ["upon one: two"]
    assert sorted(phone) == ["sticks out: too wide", "upon one: two", "wider than the window: Spoilt"]
