"""The page in a real browser: no error, no request, sorting, choosing, no overflow."""

import contextlib
import shutil
from pathlib import Path

import pytest
from pages import pages_of

from dai_plugin.report.page import write_page

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: make install"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip(
        "there is no Chromium here: apt-get install chromium", allow_module_level=True
    )
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page of two networks with long names."""
    kinds = {"layers": [f"layer{i // 4}.{i % 4}.relu" for i in range(20)]}
    runs = pages_of(["resnet18", "resnet18 trained for invariance " * 5], **kinds)
    return write_page(runs, tmp_path_factory.mktemp("page"), ())[0]


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, without a window."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@contextlib.contextmanager
def opened(browser, path, width, scheme="light"):
    """The page; nothing is asked of anyone, and nothing complains."""
    page = browser.new_page(viewport={"width": width, "height": 900},
                            color_scheme=scheme)  # fmt: skip
    told, asked = [], []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    try:
        yield page
        assert told == []
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    finally:
        page.close()


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_at_any_width(browser, path, tmp_path, width, scheme):
    """The page is as wide as the window; what is wider scrolls in its own box."""
    with opened(browser, path, width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wide = page.evaluate(
            "[...document.querySelectorAll('h1,h2,p,nav,select,.box,.gallery li')]"
            ".filter(e => e.getClientRects().length)"
            ".filter(e => e.getBoundingClientRect().right > innerWidth + .5"
            " || e.scrollWidth > e.clientWidth + 1 && !e.matches('.box,select'))"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        assert wide == []
        paper, ink = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.body).color]"
        )
        light = [sum(map(int, c[4:-1].split(","))) for c in (paper, ink)]
        assert (light[0] > light[1]) == (scheme == "light")
        shot = tmp_path / f"page-{width}-{scheme}.png"
        page.screenshot(path=shot, full_page=True)
        assert shot.stat().st_size > 50_000


def column(page, table, index):
    return page.eval_on_selector(
        table,
        "(t, i) => [...t.tBodies[0].rows].map(r => r.cells[i].dataset.key"
        " ?? r.cells[i].textContent)",
        index,
    )


@pytest.mark.parametrize("hand", ["mouse", "keyboard"])
def test_tables_sort(browser, path, hand):
    """By numbers in both directions, by names; aria-sort says which."""
    table = "#layers table"
    with opened(browser, path, 1440) as page:
        before = column(page, table, 0)
        buttons = page.locator(f"{table} thead button")

        def press(i):
            if hand == "mouse":
                buttons.nth(i).click()
            else:
                buttons.nth(i).focus()
                page.keyboard.press("Enter")
            heads = page.locator(f"{table} thead th")
            return [heads.nth(k).get_attribute("aria-sort") for k in range(4)]

        assert press(1) == [None, "descending", None, None]
        numbers = list(map(float, column(page, table, 1)))
        assert numbers == sorted(numbers, reverse=True)
        assert press(1) == [None, "ascending", None, None]
        numbers = list(map(float, column(page, table, 1)))
        assert numbers == sorted(numbers)
        assert press(3) == [None, None, None, "descending"]
        assert press(0) == ["ascending", None, None, None]
        names = column(page, table, 0)
        assert sorted(before) == sorted(names)
        assert names[:3] == ["input", "layer0.0.relu", "layer0.1.relu"]


def test_what_is_not_known_is_sorted_last(browser, tmp_path):
    """In both directions."""
    runs = pages_of(["a"], layers=("one", "two"), groups=("layers",))
    runs += pages_of(["b"], layers=("two", "three"), groups=("layers",))
    path = write_page(runs, tmp_path, ())[0]
    with opened(browser, path, 1440) as page:
        for _ in range(2):
            page.locator("#layers thead button").nth(1).click()
            assert column(page, "#layers table", 0)[-1] == "three"


def test_one_transformation_is_shown_at_a_time(browser, path):
    """All of them where asked for, and on paper."""
    with opened(browser, path, 1440) as page:
        options = page.locator("#strength .option")
        select = page.locator("#strength select")

        def shown():
            return [options.nth(i).is_visible() for i in range(options.count())]

        assert shown() == [True, False]
        select.select_option("zoom")
        assert shown() == [False, True]
        select.select_option("all")
        assert shown() == [True, True]
        select.select_option("rotation")
        page.emulate_media(media="print")
        assert shown() == [True, True]
        assert not select.is_visible()


@pytest.mark.parametrize("kind", ["corruptions", "pictures"])
def test_networks_of_any_name_are_chosen(browser, tmp_path, kind):
    """Spaces, lines, nothing at all, "all": each shows its own, and alone."""
    names = ["a  b", " lead\nline ", "", "all", "1", "\"q'<"]
    runs = pages_of(names, groups=("output", "corruptions"), images=4, named="")
    with opened(browser, write_page(runs, tmp_path, ())[0], 1440) as page:
        options = page.locator(f"#{kind} .option")
        select = page.locator(f"#{kind} select")
        assert options.count() == len(names)
        for i in range(len(names)):
            select.select_option(index=i)
            shown = [options.nth(k).is_visible() for k in range(len(names))]
            assert shown == [k == i for k in range(len(names))]
        select.select_option(index=len(names))
        assert all(options.nth(k).is_visible() for k in range(len(names)))


def test_layers_of_any_name_are_chosen(browser, tmp_path):
    """The row and the curve of that layer alone, whatever spaces it holds."""
    layers = ["a  b", "a\tc", '"<&>']
    runs = pages_of(["net"], layers=layers, groups=("layers", "strength"), images=4)
    with opened(browser, write_page(runs, tmp_path, ())[0], 1440) as page:
        for i in range(4):
            page.locator("#layers .layers select").select_option(index=i + 1)
            rows = page.locator("#layers .option tbody tr, #layers .box tbody tr")
            assert [r.is_visible() for r in rows.all()] == [k == i for k in range(4)]
            clear = page.locator("#strength svg [data-layer]:not(.faint)")
            assert clear.count() == 2  # of two transformations


def test_one_layer_is_shown_where_asked_for(browser, path):
    """Its row alone, its curves among faint ones."""
    with opened(browser, path, 1440) as page:
        rows = page.locator("#layers tbody tr")
        page.locator("#layers .layers select").select_option("layer1.2.relu")
        visible = [r for r in rows.all() if r.is_visible()]
        assert [r.locator("th").text_content() for r in visible] == ["layer1.2.relu"]
        lines = page.locator("svg [data-layer]")
        faint = page.locator("svg [data-layer].faint")
        clear = page.locator("svg [data-layer='layer1.2.relu']")
        assert clear.count() > 0
        assert faint.count() == lines.count() - clear.count()
        page.locator("#layers .layers select").select_option("all")
        assert faint.count() == 0


def test_tables_and_figures_stand_beside_each_other(browser, path):
    """In a wide window; in a narrow one beneath each other."""
    corner = "e => [e.getBoundingClientRect().left, e.getBoundingClientRect().top]"
    for width, beside in ((1440, True), (390, False)):
        with opened(browser, path, width) as page:
            left, right = (
                page.eval_on_selector(f"#output {part}", corner)
                for part in (".box:has(svg)", ".box:has(table)")
            )
            assert (right[0] > left[0] and right[1] == left[1]) == beside


def test_the_page_is_whole_without_a_script(browser, path):
    """All options are shown, and no control that does nothing."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(Path(path).as_uri())
    assert page.locator("#strength .option").nth(1).is_visible()
    assert not page.locator("select").first.is_visible()
    context.close()
