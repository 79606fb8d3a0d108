"""The benchmark of size, with networks that take no time."""

from types import SimpleNamespace

from benchmarks import size


def test_table_and_results(monkeypatch, capsys):
    monkeypatch.setattr(size, "BATCHES", (1, 2))
    monkeypatch.setattr(size, "NETWORKS", ("resnext50_32x4d",))
    monkeypatch.setattr(size, "seconds", lambda model, batch: 0.1 * batch)
    monkeypatch.setattr(size, "afresh", lambda module, function, name, batch: None if batch == "2" else 5_000_000)
    results = size.run(SimpleNamespace(runs=9))
    output = capsys.readouterr().out
    assert "3 runs each" in output
    assert "5 MB" in output
    assert "not measured" in output
    assert [result.batch for result in results] == [1, 1, 2, 2]
    assert results[3].missing == {"resnext50_32x4d": "not measured: not Linux"}
