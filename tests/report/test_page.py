"""The page: what is on it, what can never be on it, and that it is always the same."""

import base64
import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

import excise.report
from excise.errors import BadRequest
from excise.report import Band, ClassAccuracy, Classes, Control, Costs, Layer, Page, Strata, Verdict, render
from excise.report.page import _columns

VOID = {"meta", "br", "img", "input", "link", "hr"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</script><script>alert(1)</script>",
    "</style><style>*{display:none}</style>",
    "</title><iframe src=//example.org></iframe>",
    "<!-- -->]]><![CDATA[",
    "{{7*7}}{% raw %}${7*7}",
    "&lt;b&gt;&amp;&#60;",
    "javascript:alert(1)",
    "\x1b[31mred\x1b[0m\x07\x00",
    "\u202eesrever\u2066\u2028line\u2029",
    "\ud800 lone",
]


class Tree(HTMLParser):
    """The document as a parser sees it: tags with attributes in order, and text, that of style and script apart."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.words, self.raw = [], [], [], {"style": [], "script": []}
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        self.raw.get(inside, self.words).append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment got in: {data}")

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def numbers_of(value):
    """Every number anywhere in a value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers_of(item)]
    return [value] if isinstance(value, int | float) else []


def with_text(page, change):
    """The page with every text changed, keys of mappings included, but for the words that have a fixed meaning."""
    fixed = {"forget", "retain", "test", "PASS", "FAIL", "log", "linear", "%"}
    kinds = [
        kind for kind in vars(excise.report).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ]
    structs = {field for kind in kinds for field in kind.__struct_fields__}

    def walk(value):
        if isinstance(value, str):
            return value if value in fixed else change(value)
        if isinstance(value, list):
            return [walk(item) for item in value]
        if isinstance(value, dict):
            return {key if key in structs | fixed else change(key): walk(item) for key, item in value.items()}
        return value

    return msgspec.convert(walk(msgspec.to_builtins(page)), Page)


def test_the_same_value_gives_the_same_bytes(page):
    assert render(page).encode() == render(page).encode()


def test_the_bytes_do_not_depend_on_the_process(page, tmp_path):
    source = tmp_path / "page.json"
    source.write_bytes(msgspec.json.encode(page))
    code = (
        "import sys, msgspec; from excise.report import Page, render\n"
        "sys.stdout.buffer.write(render(msgspec.json.decode(open(sys.argv[1], 'rb').read(), type=Page)).encode())"
    )
    for seed in "01":
        command = [sys.executable, "-c", code, str(source)]
        run = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True)
        assert run.stdout == render(page).encode()


def test_a_page_can_be_drawn_again_from_the_json_inside_it(page):
    html = render(page)
    (data,) = Tree(html).raw["script"]
    assert render(msgspec.json.decode(data, type=Page)) == html


def test_every_number_is_on_the_page_exactly_and_as_people_write_it(page):
    tree = Tree(render(page))
    exact = {float(attributes["value"]) for attributes in tree.named("data")}
    assert set(map(float, numbers_of(msgspec.to_builtins(page)))) <= exact
    row = "DEL 46.9 −0.2 98.70 −0.06 93.11 −0.24 0.513 3.46 5.6"
    oracles = (
        "Oracles never saw the forget rows 46.9 41.4 – 53.1 98.76 98.50 – 99.00 93.35 92.80 – 93.92 0.501 0.471 – 0.534"
    )
    for words in (row, oracles, "Nothing left as it was 99.2 +52.3", "49 872", "Training 61.8", "Audit 4.1"):
        assert words in tree.text
    assert "Outside b – 0.600 0.570 0.630 0.500 0.460 0.540 0.031 16 0.071 told apart" in tree.text
    assert "Far c log-odds −9.500 −9.900 −9.100 0.500 0.460 0.540 < 0.001 16 – no" in tree.text


def test_every_number_of_a_whole_audit_is_on_the_page_but_for_the_points_of_its_curves(full):
    tree = Tree(render(full))
    exact = {float(attributes["value"]) for attributes in tree.named("data")}
    rocs = [
        msgspec.structs.replace(
            roc,
            curves=[msgspec.structs.replace(curve, false_positive=[], true_positive=[]) for curve in roc.curves],
            band=msgspec.structs.replace(roc.band, false_positive=[], low=[], high=[]),
        )
        for roc in full.rocs
    ]
    numbers = numbers_of(msgspec.to_builtins(msgspec.structs.replace(full, rocs=rocs)))
    assert len(set(numbers)) > 500
    assert set(map(float, numbers)) <= exact
    for words in (
        "low 43 4.21 3.77 3.79 3.31 4.18 2.3 3.1 0.0 – 9.3",
        " s 96.2 13.4 6.1 – 44.7",
        " s 3.1 1 0.0026 583 MiB –",
        "SameCostRetrain from scratch, stopped at the method's cost 41.4 −5.5 93.12 −5.64 90.21 −3.14 8.61 4.0",
        "needs 1 000 non-members",
        "unlearned 0.651 0.630 – 0.671",
        "Retained rows whose exposure grew Share of retained rows that an attack finds more surely",
        "20 measures decide the verdict; 3 of them tell the network apart; 15 more only inform.",
    ):
        assert words in tree.text, words


def test_what_is_missing_is_a_dash_and_not_a_zero(page):
    assert "NegGrad 0.0 – 61.00 – 60.00 – – 1.25 –" in Tree(render(page)).text


@pytest.mark.parametrize("payload", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_can_change_the_structure_of_the_page(page, payload):
    """The page with hostile text has the same elements with the same attributes as the page with harmless text."""
    _same_structure(page, payload)


def test_no_text_can_change_the_structure_of_the_page_of_a_whole_audit(full):
    _same_structure(full, " ".join(HOSTILE))


def _same_structure(page, payload):
    harmless = Tree(render(with_text(page, lambda text: f"x {text}")))
    hostile = Tree(render(with_text(page, lambda text: f"{payload} {text}")))
    assert [(tag, list(attributes)) for tag, attributes in hostile.tags] == [
        (tag, list(attributes)) for tag, attributes in harmless.tags
    ]
    assert [a["class"] for _, a in hostile.tags if "class" in a] == [
        a["class"] for _, a in harmless.tags if "class" in a
    ]
    assert hostile.raw["style"] == harmless.raw["style"]


@pytest.mark.parametrize("payload", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_shown_as_text(page, payload):
    html = render(with_text(page, lambda text: f"{payload} {text}"))
    shown = re.sub("[\x00-\x08\x0b-\x1f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", "\ufffd", payload)
    tree = Tree(html)
    for text in ("Audit of a toy", "A toy was audited.", "DEL", "left as it was", "classifier", "seed", "2.9", "Audit"):
        assert " ".join(f"{shown} {text}".split()) in tree.text
    assert "49 Audit" not in tree.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    html.encode("utf-8")


@pytest.mark.parametrize("payload", HOSTILE, ids=range(len(HOSTILE)))
def test_the_json_inside_the_page_cannot_leave_its_element(page, payload):
    html = render(with_text(page, lambda text: f"{payload} {text}"))
    (data,) = Tree(html).raw["script"]
    assert not set(data) & set("<>&\u2028\u2029")
    assert render(msgspec.json.decode(data, type=Page)) == html


def test_the_page_runs_nothing_and_loads_nothing(page):
    tree = Tree(render(page))
    assert {tag for tag, _ in tree.tags}.isdisjoint(
        {"img", "iframe", "object", "embed", "link", "base", "form", "input"}
    )
    assert tree.named("script") == [{"type": "application/json", "id": "excise-page"}]
    for _, attributes in tree.tags:
        assert not {"src", "srcset", "style", "xlink:href", "action", "data"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
    (style,) = tree.raw["style"]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"\w+://", render(page))


def test_the_policy_forbids_everything_but_the_one_style_sheet(page):
    tree = Tree(render(page))
    (policy,) = [each["content"] for each in tree.named("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256("".join(tree.raw["style"]).encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert next(i for i, (_, a) in enumerate(tree.tags) if "http-equiv" in a) < next(
        i for i, (tag, _) in enumerate(tree.tags) if tag == "style"
    )


@pytest.mark.parametrize(
    ("outcome", "expected", "words", "look"),
    [
        ("FAIL", "FAIL", "Doing nothing: FAIL – as it must", "good"),
        ("PASS", "PASS", "Doing nothing: PASS – as it must", "good"),
        ("PASS", "FAIL", "Doing nothing: PASS – not as it must: it must FAIL", "bad"),
        ("FAIL", "PASS", "Doing nothing: FAIL – not as it must: it must PASS", "bad"),
        ("not run", "FAIL", "Doing nothing: not run – would have to FAIL", "open"),
        ("INCONCLUSIVE", "PASS", "Doing nothing: INCONCLUSIVE – would have to PASS", "open"),
    ],
)
def test_a_control_says_whether_it_came_out_as_it_must(outcome, expected, words, look):
    control = Control(name="nothing", title="Doing nothing", outcome=outcome, expected=expected)
    html = render(Page(title="One", verdict=Verdict(word="PASS", headline="So.", controls=[control])))
    assert words in Tree(html).text
    assert f'<li class="{look}">' in html


def test_a_thousand_classes_do_not_explode(full):
    names = [f"n{index:08} a class of the thousand" for index in range(1000)]
    rng = np.random.default_rng(3)
    values = rng.random((1000, 2))
    classes = [
        ClassAccuracy(
            name=name, num_rows=50, original=a, unlearned=b, oracles=Band(low=b * 0.8, mean=b * 0.9, high=(1 + b) / 2)
        )
        for name, (a, b) in zip(names, values.tolist(), strict=True)
    ]
    parts = [Classes(name=name, title=f"{name} rows", classes=classes) for name in ("forget", "test")]
    html = render(msgspec.structs.replace(full, classes=parts))
    assert len(html.encode()) < 2_000_000
    assert html.count("<bdi>") == 2000
    assert html.count('class="long"') == 2
    assert Tree(html).text.count("The 20 classes farthest from the oracles; 980 more are in the table.") == 2


def test_parts_stand_in_the_order_in_which_a_reader_asks_for_them(full):
    tree = Tree(render(full))
    wanted = ["verdict", "measures", "attacks", "section-1", "distributions", "classes", "strata", "costs", "limits"]
    ids = [attributes["id"] for tag, attributes in tree.tags if tag == "h2"]
    assert ids == [*wanted, "numbers", "facts"]
    links = [attributes["href"] for tag, attributes in tree.tags if tag == "a"]
    assert links == ["#content", *(f"#{name}" for name in ids[1:])]


def test_headings_never_skip_a_level(page, full):
    for each in (page, full, msgspec.structs.replace(page, measures=[])):
        levels = [int(tag[1]) for tag, _ in Tree(render(each)).tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))


def test_what_only_informs_is_marked_and_quiet(page):
    html = render(page)
    assert html.count('class="measure quiet"') == 1
    assert html.count("informs only</span>") == 1
    assert html.count("told apart</span>") == 1


def test_a_page_without_groups_has_no_heading_for_them(page):
    plain = [msgspec.structs.replace(measure, group="") for measure in page.measures]
    html = render(msgspec.structs.replace(page, measures=plain))
    assert '<h3 class="group">' not in html
    assert 'scope="rowgroup"' not in html


def test_a_long_page_is_small(page, section):
    layers = [Layer(name=f"blocks.{i}.attention.projection", fraction=i / 200, num_parameters=i) for i in range(200)]
    long = msgspec.structs.replace(page, sections=[msgspec.structs.replace(section, layers=layers)] * 10)
    assert len(render(page).encode()) < 100_000
    assert len(render(long).encode()) < 2_000_000


@pytest.mark.parametrize(
    ("part", "empty", "trace"),
    [
        ("verdict", None, 'id="verdict"'),
        ("measures", [], 'id="measures"'),
        ("sections", [], 'id="section-'),
        ("timings", [], 'id="timings"'),
        ("facts", {}, 'id="facts"'),
        ("limits", [], 'id="limits"'),
        ("lead", "", 'class="lead"'),
    ],
)
def test_an_empty_part_of_the_page_is_left_out(page, part, empty, trace):
    assert trace in render(page)
    assert trace not in render(msgspec.structs.replace(page, **{part: empty}))


@pytest.mark.parametrize(
    ("part", "empty", "trace"),
    [
        ("measures", [], 'id="numbers"'),
        ("rocs", [], 'id="attacks"'),
        ("distributions", [], 'id="distributions"'),
        ("classes", [], 'id="classes"'),
        ("strata", None, 'id="strata"'),
        ("strata", Strata(), 'id="strata"'),
        ("costs", None, 'id="costs"'),
        ("costs", Costs(sentence="Free."), 'id="costs"'),
        ("untested", [], "Not tested"),
        ("assumptions", [], "Taken for granted"),
        ("limits", [], "Limits of any such audit"),
    ],
)
def test_an_empty_part_of_an_audit_is_left_out(full, part, empty, trace):
    assert trace in render(full)
    Tree(html := render(msgspec.structs.replace(full, **{part: empty})))
    assert trace not in html


@pytest.mark.parametrize(
    ("part", "changes", "trace"),
    [
        ("strata", {"strata": []}, "least memorised first"),
        ("strata", {"lines": []}, "Attack that holds both networks"),
        ("strata", {"sentence": ""}, "Rows were ordered"),
        ("costs", {"steps": [], "retraining": None}, 'class="costs"'),
        ("costs", {"rows": []}, "Beside a retraining"),
        ("costs", {"sentence": ""}, "have paid off"),
        ("costs", {"retraining": None}, 'class="limit"'),
    ],
)
def test_an_empty_part_of_an_exhibit_is_left_out(full, part, changes, trace):
    assert trace in render(full)
    fewer = msgspec.structs.replace(getattr(full, part), **changes)
    Tree(html := render(msgspec.structs.replace(full, **{part: fewer})))
    assert trace not in html


def test_an_attack_without_oracles_and_intervals_is_still_one(full):
    curves = [msgspec.structs.replace(curve, auc_low=None, auc_high=None) for curve in full.rocs[0].curves]
    bare = msgspec.structs.replace(full.rocs[0], curves=curves, band=None, sentence="")
    tree = Tree(render(Page(title="One", rocs=[bare])))
    assert "unlearned 0.651 3.8" in tree.text
    assert "held-out" not in tree.text


@pytest.mark.parametrize(
    ("changes", "trace"),
    [
        ({"rows": []}, "Accuracy against"),
        ({"histograms": []}, "Losses of the forget rows"),
        ({"histograms": [], "histogram_edges": []}, "Losses of the forget rows"),
        ({"layers": []}, "Share of each layer"),
        ({"bands": {}, "attack_band": None}, "never saw the forget rows</small>"),
        ({"sentence": ""}, "Some rows."),
    ],
)
def test_an_empty_part_of_a_section_is_left_out(section, changes, trace):
    assert trace in render(Page(title="One", sections=[section]))
    Tree(html := render(Page(title="One", sections=[msgspec.structs.replace(section, **changes)])))
    assert trace not in html


def test_the_attack_has_a_column_only_when_there_was_one(section):
    rows = [msgspec.structs.replace(row, attack=None) for row in section.rows]
    without = msgspec.structs.replace(section, rows=rows, attack_band=None)
    assert "Attack" in Tree(render(Page(title="One", sections=[section]))).text
    assert "ttack" not in Tree(render(Page(title="One", sections=[without]))).text


def test_a_page_of_a_title_alone_is_a_page():
    tree = Tree(render(Page(title="Nothing yet")))
    assert {tag for tag, _ in tree.tags}.isdisjoint({"table", "figure", "svg", "section", "nav"})
    assert tree.text.startswith("Nothing yet Skip to the content Nothing yet Drawn by excise.")


@pytest.mark.parametrize("word", ["PASS", "FAIL", "INCONCLUSIVE", "INVALID"])
def test_a_verdict_is_a_word_with_its_meaning(word):
    tree = Tree(render(Page(title="One", verdict=Verdict(word=word, headline="So it is."))))
    assert f"Verdict: {word} So it is." in " ".join(tree.text.split())
    assert {"class": f"verdict {word.lower()}", "aria-labelledby": "verdict"} in tree.named("section")


def test_the_page_promises_nothing_that_the_numbers_do_not(full):
    page = full
    for word in "PASS", "FAIL", "INCONCLUSIVE", "INVALID":
        verdict = msgspec.structs.replace(page.verdict, word=word)
        text = Tree(render(msgspec.structs.replace(page, verdict=verdict))).text.lower()
        assert not re.search("guarantee|proof|prove|certif|gdpr|complian", text)


@pytest.mark.parametrize("which", ["page", "full"])
def test_a_reader_without_eyes_or_mouse_finds_the_way(which, request):
    tree = Tree(render(request.getfixturevalue(which)))
    ids = [attributes["id"] for _, attributes in tree.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tree.tags:
        assert attributes.get("aria-labelledby", ids[0]) in ids
        assert attributes.get("href", f"#{ids[0]}")[1:] in ids
    assert tree.named("html") == [{"lang": "en"}]
    assert len(tree.named("h1")) == 1
    assert all("scope" in header for header in tree.named("th"))
    assert all(
        each.get("tabindex") == "0" and each["aria-label"] for each in tree.named("div") if each.get("role") == "region"
    )
    drawn = list(pairwise(tree.tags))
    for (tag, svg), (inner, _) in drawn:
        if tag == "svg" and svg.get("class"):
            assert (svg.get("role") == "img" and inner == "title") or svg["aria-hidden"] == "true"


@pytest.mark.parametrize("which", ["page", "full"])
def test_every_row_of_a_table_has_as_many_cells(which, request):
    for table in re.findall("<table.*?</table>", render(request.getfixturevalue(which)), re.DOTALL):
        widths = set()
        for row in re.findall("<tr.*?</tr>", table.partition("<tbody>")[2], re.DOTALL):
            cells = [attributes for tag, attributes in Tree(row).tags if tag in ("td", "th")]
            widths.add(sum(int(cell.get("colspan", 1)) for cell in cells))
        assert len(widths) == 1


@pytest.mark.parametrize("which", ["page", "full"])
def test_every_picture_has_a_sentence_that_says_what_to_look_at(which, request):
    html = render(request.getfixturevalue(which))
    figures = re.findall("<figure.*?</figure>", html, re.DOTALL)
    assert len(figures) >= 5
    for figure in figures:
        (caption,) = re.findall("<figcaption>(.*?)</figcaption>", figure, re.DOTALL)
        assert caption.startswith("Look ")
    for name in ("timings", "costs"):
        for caption in re.findall(rf'<table class="{name}">\n<caption>(?:<span>)?(.*?)<', html):
            assert caption.startswith("Look ")


def test_every_class_on_the_page_has_a_look(page, section, full):
    layers = [Layer(name=str(i), fraction=0.5, num_parameters=1) for i in range(40)]
    wide = msgspec.structs.replace(section, layers=layers)
    trees = [Tree(render(each)) for each in (msgspec.structs.replace(page, sections=[section, wide]), full)]
    ((style,), _) = [tree.raw["style"] for tree in trees]
    used = {name for tree in trees for _, attributes in tree.tags for name in attributes.get("class", "").split()}
    plain = {"panel", "mask", "what", "gap", "measure", "of-1", "of-dot", "fail", "line", "steps"}
    assert {name for name in used - plain if not re.search(rf"\.{re.escape(name)}\b", style)} == set()


@pytest.mark.parametrize("count", [1, 16, 17, 32, 33, 60, 61])
def test_layers_are_divided_into_columns_in_order_and_without_loss(count):
    layers = [Layer(name=str(i), fraction=0.5, num_parameters=1) for i in range(count)]
    columns = _columns(layers)
    assert [layer for column in columns for layer in column] == layers
    assert len(columns) == (1 if count <= 16 else 2 if count <= 32 else 3)
    assert max(map(len, columns)) - min(map(len, columns)) <= 2


def test_a_number_that_is_not_finite_is_refused_by_name(page):
    broken = msgspec.structs.replace(page.measures[1], high=float("nan"))
    with pytest.raises(BadRequest, match=r"page\.measures\[1\]\.high should be a finite number; found nan"):
        render(msgspec.structs.replace(page, measures=[page.measures[0], broken]))


def test_the_style_sheet_and_the_template_travel_with_the_package():
    room = Path(excise.report.__file__).parent
    assert (room / "style.css").is_file()
    used = set()
    for path in (room / "templates").iterdir():
        used |= set(re.findall(r'{% (?:include|import) "([^"]+)"', path.read_text()))
    assert {path.name for path in (room / "templates").iterdir()} == used | {"page.html.j2"}
