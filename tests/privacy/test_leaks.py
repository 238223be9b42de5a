"""Nothing of the forgotten rows is left anywhere by a run, whether it ends well or is killed."""

import contextlib
import io
import json
import os
import shutil
import signal
import stat

import numpy as np
import pytest
from PIL import Image

from excise import params, store
from excise.cli import main
from excise.cli.tables import import_object
from excise.pipeline.row_results import ROWS, read_row_results
from tests.planted import hurried
from tests.privacy import photos
from tests.privacy.conftest import IDS, OPTIONS, WHO, per_row, project_in, scanner
from tests.privacy.scan import Scanner

TEST = ("--test", "photos:test")
TUNE = ("--recipe", "Finetune", "--space", "epochs=1,2", "--trials", "2")
UNLEARN = ("--recipe", "DEL", "--set", "epochs=2", "--plan", "plan.toml")


def call(*words):
    """Give the exit code and all that was said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main.call([str(word) for word in words])
    return code, said.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, network):
    """Every command once, on one project: the directory of all that was left, and what was said."""
    folder = tmp_path_factory.mktemp("runs")
    out, said = folder / "left" / "out", {}
    with project_in(folder, network), hurried():
        for words in (
            ("doctor", *OPTIONS, *TEST),
            ("localize", *OPTIONS, "--out", out / "mask"),
            ("tune", *OPTIONS, *TEST, "--out", out / "tune", "--oracles", 3, "--plan", "plan.toml", *TUNE),
            ("unlearn", *OPTIONS, "--out", out / "run", *UNLEARN),
            ("audit", out / "run", *TEST, "--tier", "T0"),
            ("audit", out / "run", *TEST, "--oracles", 4, "--json", "--rows"),
            ("report", out / "run"),
        ):
            code, said[" ".join(map(str, (words[0], *words[-2:])))] = call(*words)
            assert code in (0, 4), said
        yield folder / "left", said


@pytest.fixture(scope="module")
def looks(runs, network):
    """A scanner that knows also what the network before and the one after say of the rows."""
    own = params.clone_model(network)
    own.load_state_dict(store.read_tensors(runs[0] / "out" / "run" / "model.safetensors")[0])
    return scanner(network, own)


def test_no_file_that_is_left_holds_a_row_or_a_list_of_rows(runs, looks):
    left, _ = runs
    files = [path for path in left.rglob("*") if path.is_file()]
    assert len(files) > 20 and {"run.json", "audit.json", ROWS, "tuning.json", "key"} <= {path.name for path in files}
    assert looks.files(left) == []


def test_nothing_that_is_said_holds_one(runs, looks):
    assert {name: hits for name, text in runs[1].items() if (hits := looks.scan(text.encode()))} == {}


def test_the_scan_would_have_seen_what_there_was_to_see(runs, looks):
    """The user's own files, which are no concern of the tool's, hold all of it."""
    found = {hit.what for hit in looks.files(runs[0].parent / "work" / IDS)}
    assert {"row ids as text", "the file's name as u1"} <= found
    pixels = looks.scan(photos.train()[0].numpy().tobytes())
    assert {f"pixels of row {row} as <f4" for row in photos.FORGET[:4]} <= {hit.what for hit in pixels}


def test_what_was_found_row_by_row_lies_in_one_file_under_opaque_ids(runs, network):
    path = runs[0] / "out" / "run" / ROWS
    found = read_row_results(store.read_json(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert store.read_record(path.parent)["files"][ROWS] == store.file_digest(path)
    before = per_row(network, "")[" margins"]
    np.testing.assert_allclose([one.original_margin for one in found.of(photos.FORGET)], before, rtol=1e-5)
    margins = [one.margin for one in found.rows]
    others = [one for one in runs[0].rglob("*") if one.is_file() and one != path]
    single = Scanner(per_row={"margins as they lie there": np.asarray(margins)})
    assert [hit for one in others for hit in single.scan(one.read_bytes(), str(one))] == []
    assert single.scan(path.read_bytes()) == []  # each beside other numbers of its row
    assert all(str(one) not in other.read_text(errors="replace") for one in margins[:5] for other in others)


def test_margins_of_a_search_are_in_no_order_of_ids(runs):
    held = store.read_tensors(runs[0] / "out" / "tune" / "margins-0000.safetensors")[0]["forget"].numpy()
    assert sorted(held.tolist()) != held.tolist()
    assert not (runs[0] / "out" / "tune" / ROWS).exists()


def test_the_path_of_the_row_ids_is_read_back_by_the_holder_of_the_key_alone(runs, monkeypatch):
    run = runs[0] / "out" / "run"
    asked = json.loads((run / "run.json").read_text())["request"]["forget"]
    assert asked.startswith("hidden:") and WHO.hex()[:16] not in asked
    monkeypatch.setenv("XDG_STATE_HOME", str(runs[0] / "nowhere"))
    code, said = call("audit", run, *TEST, "--tier", "T0")
    assert code == 2 and "cannot be read with it; name the file again" in said
    shutil.rmtree(runs[0] / "nowhere")


def test_rows_are_written_where_they_are_asked_for_and_made_again_where_they_are_gone(excise, project):
    run = project.parent / "left" / "out" / "run"
    assert excise("unlearn", *OPTIONS, "--out", run, *UNLEARN).code == 0
    plain = ("audit", run, *TEST, "--tier", "T0")
    assert excise(*plain).code == 0 and not (run / ROWS).exists()
    done = excise(*plain, "--rows")
    assert done.code == 0 and "under names that only your key can give to rows" in done.out
    first = (run / ROWS).read_bytes()
    assert "nothing was done" in excise(*plain, "--rows").out and (run / ROWS).read_bytes() == first
    (run / ROWS).unlink()
    assert "nothing was done" in excise(*plain).out  # without rows, none are missed
    assert excise(*plain, "--rows").code == 0
    one, other = read_row_results(json.loads(first)), read_row_results(store.read_json(run / ROWS))
    assert one.salt != other.salt and one.of(photos.FORGET)[3].margin == other.of(photos.FORGET)[3].margin


# ---------------------------------------------------------------- killed


def killed(left, place, words):
    """Run a command in a child that is killed in the middle of its `place`-th write; give whether it came to that."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        written, real = 0, os.write

        def write(descriptor, content):
            nonlocal written
            written += 1
            if written == place:
                real(descriptor, content[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(descriptor, content)

        os.write = write
        with (left / f"said-{place}").open("w") as said, contextlib.redirect_stdout(said):
            os.dup2(said.fileno(), 2)
            main.call([str(word) for word in words])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize(
    ("command", "places"),
    [
        ("unlearn", (1, 2, 3, 4, 5)),
        ("tune", (2, 3, 4)),
        ("audit", (1, 2, 3, 5)),
    ],
)
def test_what_a_killed_run_leaves_holds_none(tmp_path, network, command, places):
    with project_in(tmp_path, network), hurried():
        left = tmp_path / "left"
        out, died = left / "out", 0
        if command == "audit":
            assert call("unlearn", *OPTIONS, "--out", out / "run", *UNLEARN)[0] == 0
        for place in places:
            words = {
                "unlearn": ("unlearn", *OPTIONS, "--out", out / f"run-{place}", "--checkpoint-seconds", 0, *UNLEARN),
                "tune": ("tune", *OPTIONS, *TEST, "--out", out / f"tune-{place}", *TUNE),
                "audit": ("audit", out / "run", *TEST, "--oracles", 2, "--rows"),
            }[command]
            died += killed(left, place, words)
        assert died >= 2 and any(path.name.endswith(".tmp") for path in left.rglob("*"))
        assert scanner(network).files(left) == []


# ---------------------------------------------------------------- names of files and classes


def test_names_of_pictures_and_classes_go_nowhere(tmp_path, network):
    """A folder of pictures: secrets in the names of files and of classes, and in the pixels of PNG files."""
    names = [bytes(row).hex() for row in photos.TOKENS[:12]]
    kinds = [f"{place}-{bytes(row).hex()}" for place, row in enumerate(photos.TOKENS[12:14])]
    draws = np.random.default_rng(8)
    with project_in(tmp_path, network) as work:
        for part, number in (("train", 40), ("val", 12)):
            for place in range(number):
                folder = work / "pictures" / part / kinds[place % 2]
                folder.mkdir(parents=True, exist_ok=True)
                pixels = draws.integers(0, 256, (8, 8), dtype=np.uint8)
                own = part == "train" and place < 12
                pixels[:4] = photos.TOKENS[place].reshape(4, 8) if own else pixels[:4]
                Image.fromarray(pixels).save(folder / f"{names[place] if own else place}.png")
        (work / "nets.py").write_text(
            "from torch import nn\n"
            "def make():\n"
            "    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))\n"
        )
        store.write_tensors(work / "p.safetensors", import_object("nets:make", "--model")().state_dict())
        data = store_order(work / "pictures" / "train", kinds, names)
        (work / IDS).write_text(" ".join(map(str, data)))
        options = (
            "--model",
            "nets:make",
            "--weights",
            "p.safetensors",
            "--data",
            "imagefolder:pictures",
            "--forget",
            IDS,
        )
        out, left = tmp_path / "left" / "out", tmp_path / "left"
        said = [
            call("doctor", *options),
            call("unlearn", *options, "--out", out / "run", "--recipe", "Finetune", "--set", "epochs=1"),
            call("audit", out / "run", "--tier", "T0"),
        ]
        assert [code for code, _ in said] == [0, 0, 0], said
        secrets = {f"name {place}": bytes(row) for place, row in enumerate(photos.TOKENS[:14])}
        look = Scanner({**secrets, "the file's name": WHO}, tuple(data), 40)
        assert look.files(left) == [] == look.scan("".join(text for _, text in said).encode())
        assert look.files(work / "pictures") != []


def store_order(folder, kinds, names):
    """Give the ids of the pictures with secret names: rows are ordered by class, then by path."""
    paths = [path for kind in sorted(kinds) for path in sorted((folder / kind).glob("*.png"))]
    return [place for place, path in enumerate(paths) if path.stem in names]
