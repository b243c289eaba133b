from seglab.benchmarks.data import measure


def test_every_line_of_the_table_has_its_measure():
    rows = measure(images=2, repeats=1)
    names = {row.what.split(": ")[1] for row in rows}
    assert len(rows) == 8
    assert all(row.milliseconds >= 0 and row.beside in names for row in rows)
