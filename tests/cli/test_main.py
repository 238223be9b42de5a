import errno
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch

from excise import errors, store
from excise.cli import main
from excise.version import __version__
from tests.cli.project import UNLEARN, tree, typed

COMMANDS = ("demo", "unlearn", "tune", "bench", "localize", "doctor", "audit", "bank", "datamodel", "report", "recipes")
ENTRY = [sys.executable, "-c", "from excise.cli.main import run; run()"]


# help and usage


def test_help_lists_every_command(excise):
    for words in ([], ["--help"]):
        done = excise(*words)
        assert done.code == 0 and done.err == ""
        assert all(re.search(rf"^│ {name} ", done.out, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_fits_80_columns_and_shows_what_all_commands_take(excise, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = excise(command, "--help")
    assert done.code == 0
    assert all(option in done.out for option in ("--json", "--quiet", "--debug", "--config"))
    assert max(map(len, done.out.splitlines())) <= 80


def test_the_version_is_said(excise):
    assert excise("--version") == (0, f"excise {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["unlern"], r"No such command 'unlern'.*unlearn.* \(see excise --help\)"),
        (["unlearn"], r"Missing option '--model' \(see excise unlearn --help\)"),
        (["unlearn", "--recpie", "DEL"], r"No such option: --recpie.* \(see excise unlearn --help\)"),
        (["unlearn", *typed(UNLEARN, seed="x")], r"Invalid value for '--seed': .* \(see excise unlearn --help\)"),
        (
            ["localize", *typed(UNLEARN, budget="much")],
            r"Invalid value for '--budget': .* \(see excise localize --help\)",
        ),
        (["demo", "--oracles", "1"], "Invalid value for '--oracles': .*2"),
        (["audit", "run", "--oracles", "0"], "Invalid value for '--oracles': .*1"),
        (["audit"], r"Missing argument '?(run|RUN)'? \(see excise audit --help\)"),
        (["report", "one", "two"], "unexpected extra argument.*two"),
    ],
)
def test_a_mistake_of_usage_is_one_message(project, excise, words, message):
    before = tree(project)
    done = excise(*words)
    assert done.code == 2 and done.out == ""
    assert re.fullmatch(f"excise: .*{message}.*\n", done.err, re.IGNORECASE), done.err
    again = excise(*words, "--json")
    assert again.code == again.json["exit_code"] == 2 and again.err == done.err
    assert tree(project) == before


# --config


def test_a_config_gives_options_required_ones_too(project, excise):
    (project / "run.toml").write_text(
        'model = "mine:make"\nweights = "w.safetensors"\ndata = "mine:train"\nforget = "ids.txt"\nout = "run"\n'
        'set = ["epochs=1", "lr=0.1"]\nseed = 5\nplan = "plan.toml"\njson = true\ndata-root = "."\n'
    )
    done = excise("unlearn", "--config", "run.toml")
    assert done.code == 0 and done.json["seed"] == 5
    record = json.loads((project / "run" / "run.json").read_text())
    assert record["request"]["set"] == ["epochs=1", "lr=0.1"] and record["request"]["data_root"] == "."


@pytest.mark.parametrize("place", ["before", "after"])
def test_what_is_typed_wins_over_the_config(project, unlearn, place):
    (project / "run.toml").write_text('seed = 5\nset = "epochs=50"\nrecipe = "NegGrad"\nout = "elsewhere"\n')
    config = ["--config", "run.toml"]
    words = ["--seed", "7", "--set", "epochs=1", "--recipe", "DEL", "--json"]
    done = unlearn(*(config + words if place == "before" else words + config))
    assert done.json["seed"] == 7 and done.json["recipe"] == "DEL" and done.json["out"] == "run"
    assert not (project / "elsewhere").exists()


def test_one_setting_may_stand_without_a_list(project, unlearn):
    (project / "run.toml").write_text('set = "epochs=1"\n')
    assert unlearn("--config", "run.toml", "--json", plan="plan.toml").json["retraining_share"] < 0.1


def test_an_argument_may_come_from_a_config(project, excise):
    (project / "a.toml").write_text('run = "nowhere"\n')
    assert "nowhere holds neither audit.json nor demo.json" in excise("report", "--config", "a.toml").err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"--config: c\.toml cannot be read as TOML: .*No such file"),
        (b"epochs: 3", r"--config: c\.toml cannot be read as TOML: "),
        (b"\xff\xfe", r"--config: c\.toml cannot be read as TOML: "),
        (b'recpie = "DEL"', r"--config: c\.toml sets 'recpie'; expected options of unlearn: .*recipe"),
        (b'config = "d.toml"', r"--config: c\.toml sets 'config'; expected options of unlearn"),
        (b"help = true", r"--config: c\.toml sets 'help'"),
        (b"[unlearn]\nseed = 1", r"--config: c\.toml sets 'unlearn'"),
        (b"seed = [1, 2]", r"--config: c\.toml: seed: expected a string, a number or a boolean, found \[1, 2\]"),
        (b"seed = 2026-01-01", r"--config: c\.toml: seed: expected a string, a number or a boolean"),
        (b"set = [[1]]", r"--config: c\.toml: set: expected a string, a number or a boolean, found \[1\]"),
        (b"seed = 1.5", r"Invalid value for '--seed': .*\(see excise unlearn --help\)"),
        (b'quiet = "perhaps"', r"Invalid value for '--quiet': "),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, str) else "",
)
def test_a_config_that_cannot_be_meant_is_refused(project, unlearn, content, message):
    if content is not None:
        (project / "c.toml").write_bytes(content)
    before = tree(project)
    done = unlearn("--config", "c.toml")
    assert done.code == 2 and done.out == ""
    assert re.match(f"excise: {message}", done.err), done.err
    assert tree(project) == before
    assert unlearn("--config", "c.toml", "--json").json["exit_code"] == 2


def test_json_asked_for_in_a_config_holds_for_errors(project, unlearn):
    (project / "c.toml").write_text("json = true\n")
    assert unlearn("--config", "c.toml", recipe="DELL").json["exit_code"] == 2


# errors and exit codes


def test_a_traceback_is_for_debug_only(unlearn):
    plain, debug = unlearn(model="mine:raises"), unlearn("--debug", model="mine:raises")
    assert plain.code == debug.code == 2 and plain.out == debug.out == ""
    assert "Traceback" not in plain.err
    assert "Traceback (most recent call last)" in debug.err and "mine.py" in debug.err
    assert debug.err.endswith(plain.err)


def fail_with(error):
    def fail(*_args, **_options):
        raise error

    return fail


@pytest.mark.parametrize("place", ["os.fsync", "os.open", "pathlib.Path.replace"])
def test_a_full_disk_is_5_and_leaves_no_record(project, unlearn, monkeypatch, place):
    store.commitment(torch.tensor([0]))  # the key is there already
    with monkeypatch.context() as patched:
        patched.setattr(place, fail_with(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        done = unlearn("--set", "epochs=1", "--json")
    assert done.code == done.json["exit_code"] == 5
    first = r"(run cannot be held for this run|could not write run/\S+ \(\d+ bytes\))"
    assert re.search(f"{first}: No space left on device; (choose|free)", done.err)
    assert not [path for path in project.rglob("run/**/*") if path.is_file()]
    assert unlearn("--set", "epochs=1").code == 0


def test_a_directory_that_may_not_be_written_is_5_before_any_work(project, unlearn, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != project)
    done = unlearn()
    assert done.code == 5 and re.match(r"excise: --out: .*work may not be written by this user; choose", done.err)
    assert "Finetune" not in done.err and not (project / "run").exists()


def test_a_machine_where_no_key_can_be_kept_is_5_before_any_work(project, unlearn, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(project / "plan.toml"))
    before = tree(project)
    done = unlearn()
    assert done.code == 5 and "Finetune" not in done.err and tree(project) == before
    assert re.match(r"excise: the key that hides row ids in records cannot be kept: .*; set XDG_STATE_HOME", done.err)


def test_a_place_where_no_directory_can_be_is_5(unlearn):
    done = unlearn("--set", "epochs=1", out="/proc/excise/run")
    assert done.code == 5 and "/proc/excise/run cannot be held for this run" in done.err


def test_a_file_that_the_users_data_miss_is_5(unlearn):
    done = unlearn("--set", "epochs=1", data="mine:Loses")
    assert done.code == 5 and done.err.endswith("No such file or directory: 'img/77.png'\n")


@pytest.mark.parametrize("model", ["mine:bottomless", "mine:Vast"])
def test_memory_that_runs_out_is_9(project, unlearn, model):
    if model == "mine:Vast":
        state = {f"layers.{k}": v for k, v in store.read_weights(Path("w.safetensors")).items()}
        store.write_tensors(Path("w.safetensors"), state)
    done = unlearn("--json", model=model)
    assert done.code == done.json["exit_code"] == 9
    assert re.match(r"excise: out of memory \((MemoryError|RuntimeError): .*\); take smaller batches", done.err)
    assert not (project / "run").exists()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.Refused("moved"), 3, "moved"),
        (errors.InUse("held"), 7, "held"),
        (ValueError("?"), 1, "an error that excise did not foresee: ValueError: ?; give --debug to see where"),
        (KeyboardInterrupt(), 130, "interrupted; nothing is half-written; give the same command again to go on"),
        (main.Terminated(), 143, "terminated; nothing is half-written; give the same command again to go on"),
        (PermissionError(13, "Permission denied", "x"), 5, "PermissionError: [Errno 13] Permission denied: 'x'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_is_raised_has_its_code_and_one_message(excise, monkeypatch, error, code, message):
    monkeypatch.setattr("excise.cli.recipes.run", fail_with(error))
    assert excise("recipes") == (code, "", f"excise: {message}\n")
    done = excise("recipes", "--json")
    assert done.code == code and done.json == {"error": message, "exit_code": code}


def test_every_exit_code_of_the_front_door_is_an_errors_own():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ExciseError)]
    assert {kind.exit_code for kind in kinds} == {
        *range(1, 10),
        10,
    }  # 10, a cluster, came after the front door was fixed


# from the shell


def shell(*words, **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*ENTRY, *map(str, words)], env={**environment, **options.pop("env", {})}, text=True, **options
    )


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom excise.cli import main\ncode = main.call(['unlearn', '--help'])\n"
        "sys.exit(code or bool({'torch', 'numpy', 'excise.cli.tables'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_terminal_of_few_letters_and_a_reader_that_leaves_are_no_errors():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    plain = shell("unlearn", "--help", **pipes, env={"PYTHONIOENCODING": "ascii"})
    out, err = plain.communicate(timeout=60)
    assert plain.returncode == 0 and err == "" and "resnet18, ?" in out
    left = shell("recipes", "--json", "--quiet", **pipes)
    left.stdout.close()
    assert left.stderr.read() == "" and left.wait(timeout=60) == 1
    left.stderr.close()


def until(words, stream, seconds=60):
    """Read a stream until it has said something."""
    heard, deadline = b"", time.monotonic() + seconds
    while words.encode() not in heard and time.monotonic() < deadline:
        if select.select([stream], [], [], 0.1)[0]:
            heard += os.read(stream, 65536)
    assert words.encode() in heard, heard
    return heard


LONG = ["unlearn", *typed(UNLEARN), "--set", "epochs=100000", "--recipe", "Finetune"]


def test_termination_is_143_at_once_and_leaves_nothing(project):
    running = shell(*LONG, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until("Finetune", running.stderr.fileno())
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 143
    assert err == "excise: terminated; nothing is half-written; give the same command again to go on\n"
    assert json.loads(out)["exit_code"] == 143
    assert not (project / "run").exists()


def test_ctrl_c_on_a_terminal_is_130_at_once_and_puts_the_cursor_back(project):
    ours, theirs = pty.openpty()
    running = shell(*LONG, stdout=theirs, stderr=theirs, stdin=theirs, env={"TERM": "xterm", "COLUMNS": "80"})
    heard = until("left", ours)
    running.send_signal(signal.SIGINT)
    heard += until("to go", ours, 30)
    assert running.wait(timeout=30) == 130
    os.close(theirs)
    os.close(ours)
    text = heard.decode()
    assert "Finetune" in text and "━" in text and "Traceback" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", text))
    assert max(map(len, lines)) <= 80
    assert not (project / "run").exists()


def test_the_entry_point_is_the_one_installed():
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"excise": "excise.cli.main:run"} and callable(main.run)


def test_a_name_that_is_no_utf_8_stands_in_the_object_by_its_escapes():
    found = {"path": os.fsdecode(b"bad\xff.txt"), "number": 0.1}
    assert json.loads(main._object(found)) == found and main._object(found).isascii()
    assert main._object({"é": 1}) == '{"é":1}'
