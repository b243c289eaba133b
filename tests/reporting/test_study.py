import pandas as pd

from seglab.reporting.load_runs import collect
from seglab.reporting.report_sections import verdict
from seglab.reporting.study import Question, Study
from seglab.reporting.write_report import markdown
from tests.reporting.fabricate import FakeLoss, write_sweep


def test_runs_that_find_nothing_are_told_beside_the_verdict(tmp_path):
    root = write_sweep(tmp_path, [FakeLoss("bce", 2), FakeLoss("dice", 2)], [1, 2], images=10)
    assert Study("data", collect([root]), Question(resamples=100)).blind == ""
    file = root / "dice_s2" / "per_image.csv"
    rows = pd.read_csv(file)
    rows["fn"], rows["tn"] = rows["fn"] + rows["tp"], rows["tn"] + rows["fp"]
    rows["tp"] = rows["fp"] = 0
    rows.to_csv(file, index=False)
    study = Study("data", collect([root]), Question(resamples=100))
    assert study.blind == "Nothing is found by 1 of 2 runs of dice: they have the score of the empty images."
    assert study.blind in verdict(study)
    assert study.blind in markdown([study], study.board.runs)
