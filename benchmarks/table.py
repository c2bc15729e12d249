"""The tables of README and docs from the results, and the ratios against the targets.

python benchmarks/table.py                            # prints
python benchmarks/table.py README.md docs/cost.md     # writes between their markers
"""

import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import timing

RESULTS = Path(__file__).parent / "results"
END = "<!-- until here -->"
# Suite, case, what is measured, and what it may be at most (or at least): a number, or
# the case whose measurement is the limit.
Target = tuple[str, str, str, str, float | str]
QUARTER, THIN = "All-CNN-C, width 1/4", "WRN-28-10, width 1/10"
LOSS, SAVED, OF_FLOOR = "invariance loss", "saved tensors", "loss / bandwidth floor"
SELDOM, SOME = "M = 2, every=4", "M = 2, share=.25"
ROWS = {"M = 2": 2.0, SELDOM: 1.25, SOME: 1.25}  # over images, on average
_SPENT: list[Target] = [
    ("overhead", "All-CNN-C, 128 images", arm, "<=", 1.02 * ROWS[arm])
    for arm in (SELDOM, SOME)
]
# Those of which kornia has a container.
NAMED = [
    (name, side)
    for name in ("randaugment", "trivialaugment", "autoaugment", "simclr")
    for side in (32, 224)
]
TARGETS: dict[str, list[Target]] = {
    "cpu": [
        ("overhead", "All-CNN-C", LOSS, "<=", 1.02),
        ("overhead", QUARTER, LOSS, "<=", 1.08),
        ("overhead", "ResNet-50", LOSS, "<=", 1.03),
        *(
            ("overhead", f"{name}, compiled", LOSS, "<=", name)
            for name in ("All-CNN-C", QUARTER, THIN, "ResNet-50")
        ),
        ("overhead", "All-CNN-C", SAVED, "<=", 1.05),
        ("overhead", QUARTER, SAVED, "<=", 1.05),
        ("views", "heavier, 32", "kornia", ">=", 3.0),
        ("views", "heavier, 224", "kornia", ">=", 1.5),
        *(("views", f"{name}, {side}", "kornia", ">=", 1.0) for name, side in NAMED),
        ("scores", "10240", "invariance_scores", "<=", 1.15),
        ("scores", "10240", "measure", "<=", 1.2),
        *_SPENT,
    ],
    "cuda": [
        ("overhead", "All-CNN-C, compiled", LOSS, "<=", 1.06),
        ("overhead", "All-CNN-C, captured", LOSS, "<=", 1.06),
        ("overhead", "ResNet-50, 4 stages", LOSS, "<=", 1.015),
        ("overhead", "ResNet-50, 4 stages", OF_FLOOR, "<=", 1.2),
        ("overhead", "ResNet-50", OF_FLOOR, "<=", 1.2),
        ("views", "heavier, 32", "kornia", ">=", 5.0),
        ("views", "heavier, 224", "kornia", ">=", 5.0),
        *(("views", f"{name}, {side}", "kornia", ">=", 1.0) for name, side in NAMED),
        *_SPENT,
    ],
}


def load(device: str = "cpu") -> dict[str, dict]:
    """The results of every suite that was run on that kind of device."""
    return {
        path.name.split("--")[0]: json.loads(path.read_text())
        for path in sorted(RESULTS.glob(f"*--{device}.json"))
    }


def title(case: dict) -> str:
    """What a case is called."""
    if "scheme" in case:
        return f"{case['scheme']}, {case['side']}"
    return str(case.get("network") or case.get("images"))


def lines(results: dict[str, dict]) -> Iterator[str]:
    """Markdown tables of all suites, each with what it was measured on."""
    if "overhead" in results:
        yield from overhead(results["overhead"])
        yield from spent(results["overhead"])
    for suite, headline in (
        ("views", "{rows} rows of {side} x {side} pixels, {scheme} scheme"),
        ("scores", "{images} images, All-CNN-C at quarter width, 5 transformations"),
    ):
        if suite in results:
            yield from simple(results[suite], headline)


def overhead(result: dict) -> Iterator[str]:
    """A row an arm, a column a network: the step's time as a ratio to plain."""
    cases = [case for case in result["cases"] if SELDOM not in case["seconds"]]
    arms = dict.fromkeys(arm for case in cases for arm in case["seconds"])
    yield f"Training step, as a ratio to the plain step ({about(result)}):\n"
    yield "| | " + " | ".join(title(case) for case in cases) + " |"
    yield "|---|" + "---:|" * len(cases)
    plain = [f"{1e3 * median(case, 'plain'):.0f} ms" for case in cases]
    yield "| plain step | " + " | ".join(plain) + " |"
    speed = [f"{case['rows_per_second']:.0f}" for case in cases]
    yield "| rows a second | " + " | ".join(speed) + " |"
    for arm in arms:
        if arm != "plain":
            cells = [cell(case, arm) for case in cases]
            yield f"| {shown(arm)} | " + " | ".join(cells) + " |"
    sizes = [f"{c['images']} x {c['views']} at {c['side']}" for c in cases]
    yield "| images x views at side | " + " | ".join(sizes) + " |"
    saved = [growth(case["saved_mib"]) for case in cases]
    yield "| saved for the backward | " + " | ".join(saved) + " |"
    peak = [growth(case["peak_mib"]) for case in cases]
    yield "| peak memory of a process | " + " | ".join(peak) + " |\n"


def spent(result: dict) -> Iterator[str]:
    """What steps with fewer views take, beside their rows over the images."""
    cases = [case for case in result["cases"] if SELDOM in case["seconds"]]
    if not cases:
        return
    yield f"Training step, as a ratio to that without views ({about(result)}):\n"
    yield f"| images | plain step | {' | '.join(ROWS)} | noise |"
    yield "|---|---:|" + "---:|" * (len(ROWS) + 1)
    shares = [f"{rows:g}" for rows in ROWS.values()]
    yield f"| *rows over images* | 1 | {' | '.join(shares)} | |"
    for case in cases:
        ratios = [cell(case, arm) for arm in (*ROWS, timing.AGAIN)]
        milliseconds = f"{1e3 * median(case, 'plain'):.0f} ms"
        yield f"| {title(case)} | {milliseconds} | {' | '.join(ratios)} |"
    yield ""


def simple(result: dict, headline: str) -> Iterator[str]:
    """A table a case: milliseconds, and the ratio to the reference."""
    for case in result["cases"]:
        yield f"{headline.format(**case)} ({about(result)}):\n"
        yield f"| | ms | ratio to {case['reference']} |"
        yield "|---|---:|---:|"
        for arm in case["seconds"]:
            milliseconds = 1e3 * median(case, arm)
            yield f"| {shown(arm)} | {milliseconds:.1f} | {cell(case, arm)} |"
        yield ""


def cell(case: dict, arm: str) -> str:
    """Median ratio and its 95 % interval."""
    if arm not in case["seconds"]:
        return ""
    if arm == case["reference"]:
        return "1"
    middle, low, high = timing.ratio(case["seconds"], arm, case["reference"])
    single = len(case["seconds"][arm]) == 1
    return f"{middle:.3f}" if single else f"{middle:.3f} ({low:.3f} to {high:.3f})"


def growth(mib: dict[str, float]) -> str:
    """Memory with the invariance loss beside that of the plain step."""
    if "invariance loss" not in mib:
        return ""
    return f"{mib['invariance loss'] / mib['plain']:.3f} of {mib['plain']:.0f} MiB"


def shown(arm: str) -> str:
    """What the table calls an arm."""
    return "the reference again (noise)" if arm == timing.AGAIN else arm


def median(case: dict, arm: str) -> float:
    """Seconds."""
    return statistics.median(case["seconds"][arm])


def about(result: dict) -> str:
    """Machine, versions, date and commit."""
    machine = result["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v)
    return f"{machine['device']}, {versions}, {machine['date']}, {machine['commit']}"


def verdicts(results: dict[str, dict], device: str) -> Iterator[str]:
    """A line a target: what it asks, what was measured, whether it is met."""
    for suite, name, what, sign, limit in TARGETS[device]:
        case = find(results, suite, name)
        value = measured(case, what)
        if isinstance(limit, str):
            limit = measured(find(results, suite, limit), what)
        if value is None or limit is None:
            yield f"{device}: {name}: {what}: not measured"
            continue
        met = value <= limit if sign == "<=" else value >= limit
        noise, floor = (measured(case, a) for a in (timing.AGAIN, "bandwidth floor"))
        yield (
            f"{device}: {name}: {what} {value:.3f}, target {sign} {limit:.4g}: "
            f"{'met' if met else 'missed'} (noise {noise:.3f}"
            + (f", bandwidth floor {floor:.3f})" if floor else ")")
        )


def find(results: dict[str, dict], suite: str, name: str) -> dict | None:
    """The case of that name, if it was measured."""
    cases = results.get(suite, {"cases": []})["cases"]
    return next((case for case in cases if title(case) == name), None)


def measured(case: dict | None, what: str) -> float | None:
    """An arm's ratio to the reference.

    Of saved tensors, those with the loss to those without; of the loss and the floor,
    what the one adds to what the other adds.
    """
    if case is None:
        return None
    if what == SAVED:
        saved = case["saved_mib"]
        return saved[LOSS] / saved["plain"] if saved else None
    if what == OF_FLOOR:
        loss, floor = measured(case, LOSS), measured(case, "bandwidth floor")
        known = loss is not None and floor is not None and floor > 1
        return (loss - 1) / (floor - 1) if known else None
    if what not in case["seconds"]:
        return None
    return timing.ratio(case["seconds"], what, case["reference"])[0]


def summary(results: dict[str, dict]) -> Iterator[str]:
    """The training steps in short: what the loss and the whole method add."""
    result = results["overhead"]
    yield "| images x views | plain step | + invariance loss | + views, too | noise |"
    yield "|---|---:|---:|---:|---:|"
    for case in result["cases"]:
        if "method" not in case["seconds"]:  # graphs replay the loss alone
            continue
        size = f"{case['images']} x {case['views']} at {case['side']}"
        milliseconds = f"{1e3 * median(case, 'plain'):.0f} ms"
        ratios = [
            f"{timing.ratio(case['seconds'], arm, 'plain')[0]:.2f}"
            for arm in ("invariance loss", "method", timing.AGAIN)
        ]
        cells = [f"{title(case)}, {size}", milliseconds, *ratios]
        yield f"| {' | '.join(cells)} |"
    yield f"\n*{about(result)}*"


def tables() -> dict[str, str]:
    """What stands between the markers of each name."""
    devices = [load(device) for device in ("cpu", "cuda")]
    return {
        "results": "\n".join(line for each in devices for line in lines(each)),
        "summary": "\n".join(
            line for each in devices if each for line in summary(each)
        ),
    }


def replace(text: str) -> str:
    """The text with the tables between its markers."""
    for name, table in tables().items():
        marker = f"<!-- {name}: made by benchmarks/table.py -->"
        inside = f"{marker}\n{table}\n{END}"
        pattern = f"{re.escape(marker)}.*?{re.escape(END)}"
        text = re.sub(pattern, lambda _, new=inside: new, text, flags=re.DOTALL)
    return text


def main() -> None:
    """Prints the tables, or writes them into files; the verdicts come last."""
    if not sys.argv[1:]:
        print(tables()["results"])
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(replace(path.read_text()))
    for device in TARGETS:
        results = load(device)
        print("\n".join(verdicts(results, device) if results else [f"{device}: none"]))


if __name__ == "__main__":
    main()
