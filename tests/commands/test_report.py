import csv
import shutil
import subprocess

import pandas as pd
import pytest

import seglab
from seglab.contract import ContractError
from seglab.report import report, with_roots
from tests.conftest import compose, python
from tests.reporting.fabricate import FakeLoss, change, write_run, write_sweep

MAIN = "import sys; from seglab.report import main; main(); print('modules:', *sys.modules)"
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"


def test_folders_may_come_first_without_a_name(tmp_path):
    given = ["outputs/a b", "delta=0.02", "o'c", "--cfg", "job"]
    assert with_roots(given) == ["delta=0.02", "--cfg", "job", 'roots=["outputs/a b", "o\'c"]']
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert with_roots([str(odd)]) == [f'roots=["{odd}"]']
    assert with_roots(["--help"]) == ["--help"]
    assert with_roots([""]) == [""]  # an unset shell variable


def test_the_report_of_a_class_does_not_replace_that_of_all_classes(tmp_path, caplog):
    first, second = (write_sweep(tmp_path / name, [FakeLoss("bce")], [1]) for name in ("first", "second"))
    for words, place in (("", first), ("class=foreground", first / "foreground"), (f"output={second}", second)):
        cfg = compose("report", f"roots=[{first},{second}]", *words.split())
        assert report(cfg, tmp_path) == place / "report.html"
        assert f"left out: superseded by second/{next(second.glob('bce*')).name}" in caplog.text
    study = seglab.load(first)
    assert study.report().parent == first
    assert study.report(of_class="foreground").parent == first / "foreground"
    assert study.report(second, of_class="foreground").parent == second


def test_only_some_of_many_reasons_why_runs_are_left_out_are_printed(tmp_path, caplog):
    roots = [write_sweep(tmp_path / name, [FakeLoss("bce")], [*range(7)]) for name in ("first", "second")]
    cfg = compose("report", f"roots=[{roots[0]},{roots[1]}]")
    report(cfg, tmp_path)
    assert caplog.text.count("is left out: superseded by second/") == 5
    assert "runs left out for further reasons, see the report: 2" in caplog.text
    for k, file in enumerate(tmp_path.glob("*/*/run.json")):
        change(file.parent, status="failed", error={"kind": "E", "message": f"fault {k}", "traceback": None})
    caplog.set_level("INFO")
    report(compose("report", f"roots=[{roots[0]},{roots[1]}]", f"output={tmp_path}/new"), tmp_path)
    assert caplog.messages[-1].count(" fault ") == 5
    assert "; further reasons: 9)" in caplog.messages[-1]


def test_a_report_without_a_finished_run_says_why(tmp_path, caplog):
    caplog.set_level("INFO")
    for seed in (1, 2):
        change(write_run(tmp_path / "study", FakeLoss("bce"), seed), status="interrupted")
    report(compose("report", f"roots=[{tmp_path}/study]"), tmp_path)
    assert "0 of 2 runs compared (2 interrupted; run it again to resume): " in caplog.text


def test_a_report_without_a_run_to_compare_replaces_none_and_one_reason_of_many_runs_is_one_line(tmp_path, caplog):
    root = write_sweep(tmp_path / "study", [FakeLoss("bce"), FakeLoss("dice")], [1, 2])
    cfg = compose("report", f"roots=[{root}]")
    lost = [root / name / "per_image.csv" for name in ("bce_s1", "bce_s2", "dice_s1", "dice_s2")]
    for file in lost[:2]:
        file.write_text("")
    before = report(cfg, tmp_path).read_bytes()
    assert caplog.text.count("left out") == 1
    assert "2 runs are left out: per_image.csv cannot be read" in caplog.text
    for file in lost[2:]:
        file.write_text("")
    refused = r"report: expected a run to compare, got none \(4 per_image.csv cannot.*; .*report\.html is not replaced$"
    for again in (lambda: report(cfg, tmp_path), seglab.load(root).report):
        with pytest.raises(ContractError, match=refused):
            again()
    with pytest.raises(ContractError, match=r"verdict: expected a run to compare, got none \(4 per_image.csv cannot"):
        seglab.load(root).verdict()
    assert (root / "report.html").read_bytes() == before
    assert report(compose("report", f"roots=[{root}]", f"output={tmp_path / 'first'}"), tmp_path).exists()


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    root = tmp_path_factory.mktemp("my sweep")
    write_sweep(root, [FakeLoss("bce", 0.5), FakeLoss("dice", 1.6), FakeLoss("iou", 1.55)], [1, 2, 3], images=60)
    failed = write_run(root, FakeLoss("focal"), 9)
    change(failed, status="failed", error={"kind": "RuntimeError", "message": "lost its way", "traceback": ""})
    done = python("-c", MAIN, root, "delta=0.02", f"output={root / 'report'}", cwd=root)
    assert done.returncode == 0, done.stderr
    return root, done.stdout


def test_the_command_writes_the_page_the_tables_and_the_figures_and_nothing_else(reported):
    root, said = reported
    made = {str(path.relative_to(root / "report")) for path in (root / "report").rglob("*") if path.is_file()}
    figures = ("seeds", "learning", "forest", "precision_recall", "reliability")
    pictures = {f"figures/{name}.svg" for name in figures}
    assert made == {"report.html", "table.csv", "table.md"} | pictures
    assert not (root / "outputs").exists()
    assert not list(root.glob("*.log"))
    assert "bce is worse by at least" in said
    assert "Look 1 at this study" in said
    assert (root / "looks.json").exists()
    assert "9 of 10 runs" in said


def test_the_page_lists_the_run_that_failed_and_how_to_reproduce_the_report(reported):
    html = (reported[0] / "report" / "report.html").read_text()
    assert "RuntimeError: lost its way" in html
    assert "delta=0.02</pre>" in html


def test_the_numbers_of_the_page_are_those_that_an_independent_count_gives(reported):
    """Recompute means, spreads, differences and the seeds' part of the interval from per_image.csv alone."""
    root, _ = reported
    iou = {}
    for folder in sorted(root.glob("*_s[123]")):
        name, seed = folder.name.split("_s")
        with (folder / "per_image.csv").open(newline="") as rows:
            iou[name, int(seed)] = [float(row["iou"]) for row in csv.DictReader(rows)]
    means = {key: sum(values) / len(values) for key, values in iou.items()}
    table = pd.read_csv(root / "report" / "table.csv").set_index("loss")
    for name in ("bce", "dice", "iou"):
        seeds = [means[name, seed] for seed in (1, 2, 3)]
        middle = sum(seeds) / 3
        spread = (sum((x - middle) ** 2 for x in seeds) / 2) ** 0.5
        assert table.loc[name, "iou"] == pytest.approx(middle)
        assert table.loc[name, "iou sd"] == pytest.approx(spread)
    html = (root / "report" / "report.html").read_text()
    best = max(("dice", "iou"), key=table["iou"].get)
    gap = sum(means[best, seed] - means["bce", seed] for seed in (1, 2, 3)) / 3
    assert f"({gap:.3f} behind {best})" in html


def test_the_report_needs_no_torch(reported):
    loaded = set(reported[1].split("modules:")[1].split())
    assert "pandas" in loaded
    assert not loaded & {"torch", "pytorch_lightning", "torchvision", "cv2"}


SORT = """<script>addEventListener("error", (e) => { document.title = "error " + e.message; });</script>"""
CLICK = """<script>
const table = document.querySelector("#b0-metrics table");
table.tHead.rows[0].cells[1].click();
const down = [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join();
table.tHead.rows[0].cells[1].click();
const up = [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join();
const box = document.querySelector(".filter input");
box.value = "DIC"; box.dispatchEvent(new Event("input"));
const shown = [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[0].textContent).join();
document.querySelector(".toggle input[value=p]").click();
const toggled = document.querySelector(".gallery").className;
document.title = [document.title.split(":")[0], down, up, shown, toggled].join("|");
</script>"""


@pytest.mark.slow
def test_sorting_filtering_and_switching_work_in_a_browser_without_an_error(reported, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("no Chromium on this machine to open the report with")
    root, _ = reported
    html = (root / "report" / "report.html").read_text()
    html = html.replace("<style>", SORT + "<style>", 1).replace("</body>", CLICK + "</body>")
    (tmp_path / "page.html").write_text(html)
    command = [browser, *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    page = (tmp_path / "page.html").as_uri()
    done = subprocess.run([*command, page], capture_output=True, text=True, timeout=120, check=True)
    title = done.stdout.split("<title>")[1].split("</title>")[0]
    best = pd.read_csv(root / "report" / "table.csv").sort_values("iou", ascending=False)["loss"].tolist()
    orders = [",".join([*losses, "best − worst"]) for losses in (best, best[::-1])]
    assert title.split("|")[1:] == [*orders, "dice", "gallery showp"]
    assert not title.startswith("error")
