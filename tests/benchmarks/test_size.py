"""The size of a checkout's product."""

from __future__ import annotations

from pathlib import Path

from benchmarks.size import size


def test_modules_lines_and_classes_are_counted_once_though_the_package_links_to_its_folders(tmp_path: Path) -> None:
    for folder in ("src/flexai", "blocks", "tasks", "flows", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "src" / "flexai" / "blocks").symlink_to("../../blocks")
    (tmp_path / "blocks" / "one.py").write_text("class One:\n    class Inner:\n        pass\n")
    (tmp_path / "src" / "flexai" / "two.py").write_text("NUMBER = 2\n")
    (tmp_path / "tests" / "test_one.py").write_text("class Test:\n    pass\n")
    assert size(tmp_path) == (2, 4, 2)


def test_a_checkout_below_a_link_is_counted(tmp_path: Path) -> None:
    (tmp_path / "real" / "flows").mkdir(parents=True)
    (tmp_path / "real" / "flows" / "one.py").write_text("NUMBER = 1\n")
    (tmp_path / "link").symlink_to("real")
    assert size(tmp_path / "link") == (1, 1, 0)
