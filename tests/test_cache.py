"""What is made once and kept, and keys that notice edits of the code that makes it."""

import ast
import shutil
from types import SimpleNamespace

import pytest

from cvae_utils import cache
from cvae_utils.analysis.run_results import evaluate
from cvae_utils.cache import kept, kept_json
from cvae_utils.data.every_slice import every_slice
from cvae_utils.data.slices import align_all
from cvae_utils.files import read_json
from cvae_utils.model import training

KEYS = ["0123456789ab", "cafecafecafe"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Maker:
    """Makes a folder, a file or a value, and counts how often."""

    def __init__(self):
        self.count = 0

    def folder(self, path):
        self.file(path / "a.txt")

    def file(self, path):
        self.count += 1
        path.write_text(f"made {self.count}")

    def value(self):
        self.count += 1
        return {"count": self.count, "pair": (1, 2)}


# ---------------------------------------------------------------------------------- what is kept
def test_folder_is_made_once_for_a_key_and_those_of_other_keys_stay(tmp_path):
    maker, place = Maker(), tmp_path / "new"
    found = [kept(place, "slices", key, maker.folder) for key in (*KEYS, KEYS[0])]
    assert found[0] == found[2] == place / f"slices-{KEYS[0]}"
    assert [(path / "a.txt").read_text() for path in found] == ["made 1", "made 2", "made 1"]
    assert names(place) == [path.name for path in found[:2]]


def test_file_takes_the_place_of_those_with_other_keys_and_of_nothing_else(tmp_path):
    maker = Maker()
    others = ["prior-of-0123456789ab.bin", "prior-fedcba987654.json", "prior-short.bin"]
    for name in others:
        (tmp_path / name).write_text("other")
    found = [kept(tmp_path, "prior", key, maker.file, ".bin") for key in (KEYS[0], *KEYS)]
    assert found[0] == found[1] and found[2].read_text() == "made 2"
    assert names(tmp_path) == sorted([*others, found[2].name])


@pytest.mark.parametrize("ending", ["", ".bin"])
def test_what_could_not_be_made_is_not_there(tmp_path, ending):
    with pytest.raises(ZeroDivisionError):
        kept(tmp_path, "a", KEYS[0], lambda path: 1 / 0, ending)
    with pytest.raises(ZeroDivisionError):
        kept_json(tmp_path, "a", KEYS[0], lambda: 1 / 0)
    assert names(tmp_path) == []


def test_folder_that_another_process_makes_meanwhile_stays(tmp_path):
    maker = Maker()

    def make(path):
        kept(tmp_path, "a", KEYS[0], maker.folder)
        maker.folder(path)

    assert (kept(tmp_path, "a", KEYS[0], make) / "a.txt").read_text() == "made 1"
    assert maker.count == 2 and names(tmp_path) == [f"a-{KEYS[0]}"]


def test_value_is_made_once_for_a_key_and_always_as_from_a_file(tmp_path):
    maker = Maker()
    found = [kept_json(tmp_path, "a", key, maker.value) for key in (KEYS[0], *KEYS, KEYS[0])]
    assert found == [{"count": count, "pair": [1, 2]} for count in (1, 1, 2, 3)]
    assert names(tmp_path) == [f"a-{KEYS[0]}.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_value_whose_file_is_damaged_is_made_again(tmp_path, content):
    path, maker = tmp_path / f"a-{KEYS[0]}.json", Maker()
    path.write_bytes(content)
    assert kept_json(tmp_path, "a", KEYS[0], maker.value)["count"] == 1
    assert read_json(path)["count"] == 1


def test_value_is_the_own_one_though_another_process_keeps_another(tmp_path):
    def overtaken():
        kept_json(tmp_path, "a", KEYS[0], lambda: "theirs")
        return "mine"

    assert kept_json(tmp_path, "a", KEYS[0], overtaken) == "mine"


# ----------------------------------------------------------------------------------------- keys
MAKERS = {"training": training.MAKERS, "slices": [align_all], "every slice": [every_slice],
          "results": [evaluate]}


def edit(path, name, how):
    """Edit the function of this name in a module."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    function, = (node for node in ast.walk(ast.parse(text)) if getattr(node, "name", "") == name)
    last = function.body[-1]
    if how in ("code", "comment"):
        added = {"code": "edited = True", "comment": "# Edited."}[how]
        lines.insert(last.lineno - 1, " " * last.col_offset + added)
    else:
        row, old, new = {
            "docstring": (function.body[0].lineno, '"""', '"""Edited. '),
            "error": (next((node.lineno for node in ast.walk(function)
                            if isinstance(node, ast.Raise)), 0), "expected", "edited"),
        }[how]
        assert row and old in lines[row - 1], f"no {how} in {name}"
        lines[row - 1] = lines[row - 1].replace(old, new, 1)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("module", "function", "how", "changed"), [
    ("model/losses.py", "soft_dice", "code", {"training"}),
    ("model/augmentation.py", "warp", "code", {"training"}),
    ("model/training.py", "learning_rate_factor", "code", {"training"}),
    ("data/splits.py", "split", "code", {"training"}),
    ("model/network.py", "encode", "code", {"training", "results"}),
    ("model/network.py", "bicubic_matrix", "code", {"training"}),
    ("data/alignment.py", "align_volume", "code", {"slices"}),
    ("data/alignment.py", "resample", "code", {"slices", "every slice"}),
    ("data/volumes.py", "read_labels", "code", {"slices", "every slice"}),
    ("data/every_slice.py", "every_slice", "code", {"every slice"}),
    ("analysis/run_results.py", "evaluate", "code", {"results"}),
    ("shape_metrics.py", "is_valid", "code", {"results"}),
    ("analysis/projections.py", "fit_tsne", "code", set()),
    ("figures/learning.py", "training_history", "code", set()),
    ("figures/style.py", "save_figure", "code", set()),
    ("model/training_time.py", "minutes", "code", set()),
    ("study.py", "begin", "code", set()),
    ("files.py", "complete_file", "code", set()),
    ("cache.py", "kept", "code", set()),
    ("profiles.py", "sharp", "code", set()),
    ("data/download.py", "main", "code", set()),
    *[(module, function, how, set()) for module, function in (
        ("model/losses.py", "beta_at"), ("data/splits.py", "split"),
        ("data/alignment.py", "resample")) for how in ("comment", "docstring", "error")],
])
def test_key_changes_with_the_code_that_makes_a_thing_and_with_no_other(
        tmp_path, module, function, how, changed):
    package = shutil.copytree(cache.PACKAGE, tmp_path / "copy",
                              ignore=shutil.ignore_patterns("__pycache__"))
    before = {name: cache.code_of(*makers, package=package) for name, makers in MAKERS.items()}
    assert before == {name: cache.code_of(*makers) for name, makers in MAKERS.items()}
    edit(package / module, function, how)
    edited = package.rename(tmp_path / "edited")
    after = {name: cache.code_of(*makers, package=edited) for name, makers in MAKERS.items()}
    assert {name for name in MAKERS if before[name] != after[name]} == changed


def test_key_changes_with_what_goes_in():
    assert cache.key_of(1, "a", code=[every_slice]) == cache.key_of(1, "a", code=[every_slice])
    assert len({cache.key_of(*given, code=code) for code in ([every_slice], [align_all])
                for given in ((1, "a"), (2, "a"), ("a", 1), ())}) == 8


def test_key_is_the_same_in_every_version_of_python(tmp_path):
    (tmp_path / "small.py").write_text("def add(a, b=1):\n    return [a, b, None]\n")
    add = SimpleNamespace(__module__="cvae_utils.small", __qualname__="add")
    assert cache.code_of(add, package=tmp_path) == "25528f501bef"


@pytest.mark.parametrize("path", sorted(cache.SOURCES),
                         ids=lambda path: str(path.relative_to(cache.PACKAGE)))
def test_module_is_written_as_keys_can_follow(path):
    """Definitions at its top level, and imports of the package by `from`, each name by itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(name.name.startswith("cvae_utils") for name in node.names), node.lineno
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, node.lineno
            assert node.module.split(".")[0] != "cvae_utils" or node.names[0].name != "*"
    docstring, *rest = tree.body
    assert ast.get_docstring(tree)
    for node in rest:
        is_main = isinstance(node, ast.If) and "__main__" in ast.dump(node.test)
        assert is_main or isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign,
                                            ast.FunctionDef, ast.ClassDef)), node.lineno
