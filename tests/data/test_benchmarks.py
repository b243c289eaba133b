from seglab.benchmarks import gpu


def test_the_step_on_a_gpu_is_measured_on_a_cpu_too(monkeypatch):
    monkeypatch.setattr(gpu, "precision", lambda *_: "32-true")
    rows = gpu.measure(size=32, base=4, batch_size=2, images=4, steps=2)
    assert len(rows) == 8
    assert all(row.milliseconds > 0 for row in rows)
