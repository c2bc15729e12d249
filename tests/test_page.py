"""The page says what was measured, in one file, whatever names hold."""

import base64
import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from measured import CORRUPTIONS, GROUPS
from pages import NASTY, full, pages_of
from PIL import Image, features

import dai_plugin.report.page
from dai_plugin.report.canvas import plain
from dai_plugin.report.page import earlier, write_page
from dai_plugin.report.quantities import Quantity, differences, estimates
from dai_plugin.report.runs import Run
from dai_plugin.report.summary import beside
from dai_plugin.report.thumbnails import data_uri

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Elements, their attributes and text; whether all of them are closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text, self.source = [], [], [], text
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def page_of(runs, folder, formats=()):
    return Page(write_page(runs, folder, formats)[0].read_text("utf-8"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two runs of two seeds, and their page."""
    folder = tmp_path_factory.mktemp("page")
    runs = pages_of(["before", "after"], seeds=2, named="x")
    return runs, page_of(runs, folder, ("png", "svg", "pdf")), folder


def test_the_page_holds_a_section_for_each_group(two):
    """All elements are closed, and every link leads somewhere."""
    _, page, folder = two
    assert not page.open
    anchors = [each["id"] for each in page.all("section")]
    assert anchors == ["run", "layers", "output", "strength", "corruptions", "attacks",
                       "pictures", "similarity"]  # fmt: skip
    for link in page.all("a"):
        target = link["href"]
        assert (
            target[1:] in anchors if target[0] == "#" else (folder / target).is_file()
        )
    shown = page.source.split('<section id="similarity">')[1]
    for stem in ("cka", "cka-between", "rank-correlation-between"):
        assert f'aria-label="{stem}"' in shown
    for words in (
        "n = 2 seeds",
        "confidence is from accuracy",
        "each with the same",
        "its first is taken",
    ):
        assert words in page.words


def test_nothing_comes_from_elsewhere(two):
    """No address but those of XML's names, and no resource but data."""
    _, page, _ = two
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            value = attributes.get(name) or "#"
            assert re.match(r"#|data:|[\w-]+\.(png|svg|pdf|csv|json)$", value), value
    assert "@import" not in page.source
    found = set(re.findall(r"https?://[^\"' <]+", page.source))
    assert found <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_ids_are_of_one_element_each(two):
    """Figures beside each other share no ids, and refer to their own."""
    _, page, _ = two
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    used = re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", page.source)
    assert used
    assert set(used) <= set(ids)


def test_each_figure_has_its_files(two):
    """Pictures as asked for; CSV and JSON hold the same numbers."""
    _, _, folder = two
    stems = {path.stem for path in folder.glob("*.json")}
    assert {"invariance", "output", "strength-rotation", "attacks-eps"} <= stems
    for stem in stems:
        for kind in ("png", "svg", "pdf", "csv"):
            assert (folder / f"{stem}.{kind}").stat().st_size
        rows = json.loads((folder / f"{stem}.json").read_text())
        with (folder / f"{stem}.csv").open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        assert len(rows) == len(table) > 0
        for row, line in zip(rows, table, strict=True):
            for name, value in row.items():
                if isinstance(value, float):
                    assert float(line[name]) == value
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("group", GROUPS)
def test_what_was_not_measured_is_not_shown(tmp_path, group):
    """One group alone makes its section alone."""
    runs = pages_of(["net"], groups=(group,), named="x")
    runs[0].seeds[0] = replace(runs[0].seeds[0], pictures={}, tables={
        name: tables for name, tables in runs[0].seeds[0].tables.items()
        if name.split(":")[0] == group
    })  # fmt: skip
    page = page_of(runs, tmp_path)
    assert [each["id"] for each in page.all("section")] == ["run", group]


def test_text_of_users_is_text(tmp_path):
    """Tags, quotes, templates, 200 characters, other scripts: as they are, escaped."""
    long = NASTY + "x" * 200
    runs = [
        Run(
            name, [full(i, name=name, layers=(f"a{name}", "b"), named=name)], [tmp_path]
        )
        for i, name in enumerate((NASTY, long))
    ]
    page = page_of(runs, tmp_path / "page")
    assert not page.open
    assert len(page.all("script")) == 1
    assert " ".join(NASTY.split()) in page.words
    assert "x" * 200 in page.words
    assert page.source.count("<script") == 1
    assert "alert(" not in page.source.split("<script>")[1].split("</script>")[0]
    names = [a.get("data-row") for a in page.all("tr") if a.get("data-row")]
    assert plain(f"a{NASTY}") in names


def test_what_is_missing_is_said_at_the_top(tmp_path):
    """By network and folder, before the first section."""
    runs = pages_of(["net"], groups=("layers", "output"), named="x")
    seed = runs[0].seeds[0]
    about = {**seed.about, "missing": ["attacks:pgd", "similarity"]}
    runs[0].seeds[0] = replace(seed, about=about)
    page = page_of(runs, tmp_path)
    told = page.words.split("What was run")[0]
    assert "Missing: net, runs/0-0: attacks:pgd, similarity" in told
    assert (
        "Missing:" not in page_of(pages_of(["net"], groups=("output",)), tmp_path).words
    )


@pytest.mark.parametrize("fill", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("seeds", [1, 2])
def test_what_is_not_finite_is_not_known(tmp_path, fill, seeds):
    """Nowhere a number, no warning; of all measures at once."""
    runs = pages_of(["a", "b"], seeds=seeds, images=3, layers=("l",), named="x",
                    groups=("layers", "output", "strength", "similarity"))  # fmt: skip
    for table in [
        (places, place)
        for run in runs
        for seed in run.seeds
        for tables in seed.tables.values()
        for places in tables.values()
        for place in places
    ]:
        places, place = table
        if places[place].dtype != torch.int64:
            places[place] = torch.full_like(places[place].float(), fill)
    page = page_of(runs, tmp_path)
    part = page.source.split('<section id="output">')[1].split("</section>")[0]
    assert set(re.findall(r"<td[^>]*>([^<\n]+)", part)) == {"-"}
    assert not re.search(r"\b(nan|inf)\b", page.words)


def test_nan_is_a_dash(tmp_path):
    """No "nan" anywhere, not in the numbers beside the page either."""
    runs = pages_of(["net"], groups=("layers", "output"), named="x")
    runs[0].seeds[0].tables["layers"]["score"]["relu2"].fill_(torch.nan)
    page = page_of(runs, tmp_path)
    assert not re.search(r"\bnan\b", page.words)
    (row,) = re.findall(r'data-row="relu2".*?</tr>', page.source, re.DOTALL)
    assert re.search(r"<td[^>]*>-</td>", row)
    rows = json.loads((tmp_path / "invariance.json").read_text())
    assert any(row["median"] is None for row in rows)


@pytest.mark.parametrize("seeds", [1, 3])
def test_numbers_are_those_of_the_tables(seeds):
    """Means, spread over seeds, differences to the first."""
    first, run = pages_of(["a", "b"], seeds=seeds, named="x")
    asked = Quantity(("output",), "consistency", ("output",))
    found = beside("", "", [first, run], {"consistency": asked}).rows[0].cells
    means = [
        [s.tables["output"]["consistency"]["output"].double().mean() for s in r.seeds]
        for r in (first, run)
    ]
    expected = [
        np.mean(means[0]),
        np.mean(means[1]),
        np.mean(means[1]) - np.mean(means[0]),
    ]
    assert [cell.key for cell in found] == pytest.approx(expected)
    (estimate,) = estimates(run, [asked])
    spread = np.std(means[1], ddof=1) if seeds > 1 else np.nan
    assert estimate.spread == pytest.approx(spread, nan_ok=True)
    (gain,) = differences(run, first, [asked])
    assert gain.low <= expected[2] <= gain.high
    assert ("±" in found[0].note) == (seeds > 1)


def test_equal_networks_differ_by_nothing():
    """The interval of a network less itself is the point 0."""
    first, run = pages_of(["a"]) + pages_of(["a"])
    for gain in differences(
        run, first, [Quantity(("output",), "consistency", ("output",))]
    ):
        assert (gain.mean, gain.low, gain.high, gain.apart) == (0, 0, 0, False)


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_number_of_the_tables_is_a_mean_of_measures(tmp_path, seeds):
    """Layers, predictions, series and their means: of the page, against the tables."""
    runs = pages_of(["a", "b"], seeds=seeds, named="x", groups=GROUPS[:5])
    page = page_of(runs, tmp_path)
    shown = {key: cells(page, *key) for key in [
        ("output", "consistency"), ("layers", "relu2"), ("corruptions", "fog"),
        ("corruptions", "mean"), ("strength", "0.8"),
    ]}  # fmt: skip

    def mean(run, group, measure, place="output", at=slice(None)):
        found = [seed.tables[group][measure][place][..., at] for seed in run.seeds]
        return np.mean([each.double().mean().item() for each in found])

    hit, kinds = "accuracy_transformed", [f"corruptions:{c}" for c in CORRUPTIONS]
    expected = {
        ("output", "consistency"): [mean(r, "output", "consistency") for r in runs],
        ("layers", "relu2"): [mean(r, "layers", "score", "relu2") for r in runs],
        ("corruptions", "fog"): [mean(r, "corruptions:fog", hit) for r in runs],
        ("corruptions", "mean"): [
            np.mean([mean(r, kind, hit) for kind in kinds]) for r in runs
        ],
        ("strength", "0.8"): [mean(r, "strength:zoom", hit, at=1) for r in runs],
    }
    for key, (one, other) in expected.items():
        texts = [text.replace("\N{MINUS SIGN}", "-") for text in shown[key]]
        assert texts[:2] == [f"{one:.3f}", f"{other:.3f}"], key
        assert float(texts[2]) == pytest.approx(other - one, abs=6e-4)


def cells(page, section, row):
    """Numbers of the first row of that name in a section, less what is small."""
    part = page.source.split(f'<section id="{section}">')[1]
    found = re.search(rf"<th scope=\"row\"><span>{row}</span>.*?</tr>", part, re.DOTALL)
    return re.findall(r"<td[^>]*>([^<\n]+)", found[0])


def test_differences_say_which_way_is_better(tmp_path):
    """Where their intervals do not hold 0; of errors and collapse less is better."""
    runs = pages_of(["a", "b"], named="x", groups=("layers", "output"))
    for sign, run in zip((-1, 1), runs, strict=True):
        noise = torch.linspace(-0.01, 0.01, 12)
        output = {m: {"output": 0.5 + sign * 0.2 + noise} for m in VERDICTS}
        run.seeds[0].tables["output"].update(output)
    page = page_of(runs, tmp_path)
    for measure, verdict in VERDICTS.items():
        part = page.source.split('<section id="output">')[1]
        row = re.search(rf"<span>{measure.replace('_', ' ')}</span>.*?</tr>", part,
                        re.DOTALL)  # fmt: skip
        assert re.findall(r'class="verdict">(\w+)<', row[0]) == verdict, measure


VERDICTS = {
    "accuracy": ["better"],
    "effective_invariance": ["better"],
    "calibration_error": ["worse"],
    "confidence": [],
}


def test_what_one_network_lacks_is_said_to_be_left_out(tmp_path):
    """Groups that cannot be shown side by side, and of whom they are missing."""
    runs = pages_of(["a"], named="x", groups=("output", "strength", "corruptions"))
    runs += pages_of(["b", "c"], named="x", groups=("output", "corruptions"))
    page = page_of(runs, tmp_path)
    told = page.words.split("What was run")[0]
    assert "strength: not of b" in told
    assert "strength: not of c" in told
    assert (
        "corruptions" not in told.split("because not all have it")[1].split("What")[0]
    )
    del runs[1].seeds[0].tables["corruptions:fog"]
    told = page_of(runs, tmp_path / "part").words
    assert "strength, corruptions fog: not of b" in told
    alone = page_of(runs[:1], tmp_path / "alone")
    assert "because not all have it" not in alone.words


def test_names_that_look_like_attributes_stay_as_they_are(tmp_path):
    """In the figures, too."""
    name = 'net id="layer:x" href="#y" url(#z)'
    page = page_of(pages_of([name], named="x", groups=("output",)), tmp_path)
    assert page.words.count(name) >= 3


def test_a_later_page_takes_the_files_of_the_first_away(tmp_path):
    """Those that it links; files of the user stay, whatever their names."""
    runs = pages_of(["net"], named="x", groups=("layers", "output"))
    write_page(runs, tmp_path, ("png", "pdf"))
    (tmp_path / "output-of-mine.csv").write_text("mine")
    (tmp_path / "invariance-notes.json").write_text("mine")
    files = write_page(pages_of(["net"], named="x", groups=("layers",)), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "output-of-mine.csv", "invariance-notes.json", *(f.name for f in files)
    }  # fmt: skip
    assert {f.suffix for f in files} == {".html", ".png", ".csv", ".json"}
    (tmp_path / "report.html").write_text('<a href="output-of-mine.csv">CSV</a>')
    write_page(pages_of(["net"], named="x", groups=("layers",)), tmp_path)
    assert (tmp_path / "output-of-mine.csv").is_file()


def test_layers_that_one_network_lacks_are_unknown(tmp_path):
    """Rows of both networks' layers; a dash where there is nothing."""
    few = {"groups": ("layers", "strength"), "named": "x"}
    runs = pages_of(["a"], layers=("one", "two"), **few)
    runs += pages_of(["b"], layers=("two", "three"), **few)
    page = page_of(runs, tmp_path)
    for layer, count in (("one", 2), ("two", 0), ("three", 2)):
        rows = re.findall(rf'data-row="{layer}".*?</tr>', page.source, re.DOTALL)
        assert len(re.findall(r"<td[^>]*>-</td>", rows[0])) == count


def test_pages_without_labels(tmp_path):
    """What needs none is shown."""
    groups = ("output", "corruptions", "attacks")
    runs = pages_of(["a", "b"], labels=False, groups=groups, named="x")
    page = page_of(runs, tmp_path)
    assert "consistency" in page.words
    assert '"accuracy' not in (tmp_path / "output.json").read_text()


@pytest.mark.parametrize("webp", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_thumbnails_are_the_pixels(channels, webp, monkeypatch):
    """Without loss, whatever Pillow can write; of other channels their mean."""
    monkeypatch.setattr(features, "check", lambda _: webp)
    pixels = torch.randint(256, (channels, 5, 7), dtype=torch.uint8)
    kind, _, content = data_uri(pixels).partition(";base64,")
    assert kind == f"data:image/{'webp' if webp else 'png'}"
    image = Image.open(BytesIO(base64.b64decode(content))).convert("RGB")
    if channels == 4:
        pixels = pixels.float().mean(0, keepdim=True).round().byte()
    expected = pixels.permute(1, 2, 0).expand(5, 7, 3)
    assert torch.from_numpy(np.array(image)).equal(expected)


def test_each_picture_stands_beside_its_own_version(tmp_path):
    """Names, classes, labels and words are those of that image and version."""
    found = full(3, named="x")
    (run,) = [Run("a", [found], [tmp_path])]
    page = page_of([run], tmp_path / "page")
    sources = [each["src"] for each in page.all("img")]
    entries = re.findall(r"<li>\n<div class=\"pair\">.*?</li>", page.source, re.DOTALL)
    output = found.tables["output"]
    shown = [(p, k) for p in found.pictures.values() for k in range(len(p.images))]
    assert len(entries) == len(shown) == 24
    for entry, (pictures, k) in zip(entries, shown, strict=True):
        image, version = int(pictures.images[k]), int(pictures.versions[k])
        pair = [sources.pop(0), sources.pop(0)]
        assert pair == [data_uri(each) for each in pictures.pixels[k]]
        before = int(output["prediction"]["output"][image])
        after = int(output["predictions"]["output"][image, version])
        label = int(found.labels[image])
        for told in (f"<b>{image}x.png</b>", f"class {before}, label {label}<",
                     f"class {after}<", pictures.words[k]):  # fmt: skip
            assert told in entry
        assert ('class="apart"' in entry) == (before != after)


def test_two_runs_of_fifty_layers_stay_small(tmp_path):
    """Less than 5 MB, with 48 pairs of pictures each."""
    kinds = {"layers": [f"layer{i}.relu" for i in range(50)], "images": 30}
    runs = pages_of(["a", "b"], named="x", side=96, **kinds)
    for run in runs:  # photographs compress, noise does not
        for shown in run.seeds[0].pictures.values():
            shown.pixels.copy_(shown.pixels[..., :1, :1] // 2 + shown.pixels // 64)
    page, *_ = write_page(runs, tmp_path, ())
    assert page.stat().st_size < 5_000_000


def test_a_page_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    """Nothing half-written."""
    runs = pages_of(["a"], groups=("layers",), named="x")
    before = write_page(runs, tmp_path)[0].read_bytes()
    monkeypatch.setattr(dai_plugin.report.page, "sections", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_page(runs, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


def test_runs_and_formats_are_asked_for(tmp_path):
    """None and unknown ones are refused, before anything is written."""
    with pytest.raises(ValueError, match="no runs to report on"):
        write_page([], tmp_path)
    with pytest.raises(ValueError, match="figures are written as png, svg, pdf"):
        write_page(pages_of(["a"]), tmp_path, ("gif",))
    assert not list(tmp_path.iterdir())


def test_the_template_is_in_the_wheel():
    """Page, style and script lie beside the module, which hatchling takes whole."""
    import importlib.resources

    files = importlib.resources.files("dai_plugin.report")
    for name in ("page.html.j2", "page.css", "page.js"):
        assert files.joinpath(name).is_file()


@pytest.mark.parametrize("path", ["..%2Fkept.png", "%2Fkept.png", "a%2Fkept.png", ".."])
def test_a_page_that_links_elsewhere_removes_nothing_there(tmp_path, path):
    """Only files beside the page are those of an earlier report."""
    for place in (tmp_path, tmp_path.parent, tmp_path / "a"):
        place.mkdir(exist_ok=True)
        (place / "kept.png").touch()
    (tmp_path / "own.png").touch()
    links = f'<a href="own.png"></a><a href="{path}"></a>'
    text = f'<meta name="generator" content="dai-plugin report">{links}'
    (tmp_path / "report.html").write_text(text)
    assert earlier(tmp_path) == ["own.png"]
