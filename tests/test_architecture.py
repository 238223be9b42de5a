"""The house, read from its own syntax trees: who imports whom, how long things are, what is never written.

A rule is a function from sources to violations. Each is run on the package, and on a line that it must object to.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import excise

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "excise"
TESTS = ROOT / "tests"

# A package may import packages of lower steps, and nothing else of this library.
STEPS = [
    {"errors"},
    {"checks", "plugins", "seeds", "verify", "version"},
    {"params"},
    {"distributed"},
    {"store"},
    {"cluster", "masks"},
    {"patch"},
    {"data", "networks"},
    {"ledger"},
    {"train"},
    {"curvature", "diagnosis"},  # beside train in the guide; it needs the engine's tasks and counts
    {"localize"},  # beside methods in the guide; a method made of parts may say where each works (docs/decisions/0008)
    {"methods", "oracles"},
    {"observe", "custody"},
    {"measure"},
    {"attribution", "report"},
    {"recipes"},
    {"pipeline"},
    {"lifecycle"},
    {"cli", "testing"},
    {"__main__"},
]
# These take arrays or plain values, never networks, and so may import less than their step allows.
ONLY = {"measure": {"errors"}, "report": {"errors"}}
WITHOUT_TORCH = {"measure", "report", "errors", "plugins", "verify", "version"}
# The one import inside a function: an optional package in its leaf file.
OPTIONAL = {
    ("attribution/trak.py", "dattri"),
    ("cluster/ray_fleet.py", "ray"),
    ("data/sets/image_folder.py", "PIL"),
    ("distributed/sharding.py", "torch"),  # what shards takes as long to import as half of torch
    ("pipeline/tuning_search.py", "optuna"),
    ("store/remote.py", "fsspec"),
}
WITHOUT_MIRROR = {"version.py", "errors.py"}

MAX_FILE_LINES = 400
MAX_BODY_LINES = 75
FORBIDDEN_NAMES = re.compile(r"(utils?|helpers?|misc|common|core|managers?|old|.*_(v\d+|new|old))")
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torchvision"}
FORBIDDEN_MODULES |= {"yaml", "ruamel", "jsonpickle"}  # text that builds objects
FORBIDDEN_MODULES |= {"urllib", "http", "ftplib", "requests", "aiohttp", "httpx"}  # nothing goes out
FORBIDDEN_CALLS = {
    "eval": "runs text",
    "exec": "runs text",
    "compile": "compiles text",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "torch.save": "pickles; write through store",
    "torch.set_default_dtype": "changes global state",
    "torch.set_default_device": "changes global state",
    "torch.set_num_threads": "changes global state",
    "torch.use_deterministic_algorithms": "changes global state",
    "os.putenv": "changes global state",
    "safetensors.torch.save_file": "writes past the store",
    "safetensors.numpy.save_file": "writes past the store",
    "numpy.save": "writes past the store",
    "numpy.savez": "writes past the store",
    "shutil.rmtree": "removes directories",
    "subprocess.getoutput": "runs a shell",
    "subprocess.getstatusoutput": "runs a shell",
    "tempfile.mktemp": "gives a name that another may take first",
    "shutil.unpack_archive": "writes where an archive says",
    "socket.socket": "speaks to other machines",
    "socket.create_connection": "speaks to other machines",
    "torch.jit.load": "runs code from a file",
    "torch.package.PackageImporter": "runs code from a file",
    "torch.hub.load": "runs code from elsewhere",
    "torch.hub.load_state_dict_from_url": "fetches files",
}
LOADERS = {"load", "loads", "load_file", "load_state_dict_from_url", "Unpickler", "read_archive", "fromfile", "loadtxt"}
SEEDING = {
    "torch.manual_seed",
    "torch.seed",
    "torch.random.manual_seed",
    "torch.set_rng_state",
    "torch.random.set_rng_state",
    "numpy.random.seed",
    "numpy.random.set_state",
    "random.seed",
    "random.setstate",
}
# What a checked method may have changed for the whole process is put back here, and only here.
RESTORING = {
    ("testing/verdicts.py", "torch.set_default_dtype"),
    ("testing/verdicts.py", "torch.set_num_threads"),
}
# Where a user has named another process to work with, these ask whether anybody listens there.
REACHING = {
    ("cluster/ray_fleet.py", "socket.create_connection"),
    ("distributed/launch.py", "socket.create_connection"),
}
WRITERS = {"write_text", "write_bytes", "touch", "mkdir", "rename", "replace", "unlink", "rmdir", "symlink_to"}


class Import(NamedTuple):
    """One imported name: `from excise.data import Split` is `excise.data` and `Split`; `import excise` has no name."""

    module: str
    name: str | None
    line: int
    inside_function: bool


class Source(NamedTuple):
    """A file of the package, parsed; its path is relative to src/excise."""

    path: str
    text: str
    tree: ast.Module

    @classmethod
    def of(cls, path: str, text: str) -> "Source":
        return cls(path, text, ast.parse(text))

    @property
    def module(self) -> str:
        parts = Path("excise", self.path).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        """The word on the ladder: `data` for data/sets/cifar.py, `masks` for masks.py, nothing for the front door."""
        return "" if self.path == "__init__.py" else Path(self.path).parts[0].removesuffix(".py")

    def imports(self) -> Iterator[Import]:
        inside = {
            id(node)
            for function in ast.walk(self.tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, None, node.lineno, id(node) in inside)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    module = f"{'.' * node.level}{node.module or ''}"
                    yield Import(module, alias.name, node.lineno, id(node) in inside)

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Give every call with its full name, read through the file's imports (`np.load` is `numpy.load`)."""
        known = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    root = alias.name.partition(".")[0]
                    known[alias.asname or root] = alias.name if alias.asname else root
            elif isinstance(node, ast.ImportFrom):
                known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node, _dotted(node.func, known)


def _dotted(node: ast.expr, known: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, known)}.{node.attr}"
    return "?"


SOURCES = [
    Source.of(path.relative_to(SOURCE).as_posix(), path.read_text(encoding="utf-8"))
    for path in sorted(SOURCE.rglob("*.py"))
]
MODULES = {source.module for source in SOURCES}


def _target(found: Import) -> str | None:
    """Give the module of this library that an import reaches, or None."""
    if found.module.partition(".")[0] != "excise":
        return None
    deeper = f"{found.module}.{found.name}"
    return deeper if deeper in MODULES else found.module


def _step(package: str) -> int:
    return next(index for index, step in enumerate(STEPS) if package in step)


def ladder(sources):
    """Imports point down; no relative ones."""
    for source in sources:
        for found in source.imports():
            where = f"{source.path}:{found.line}: {source.package}"
            if found.module.startswith("."):
                yield f"{where} imports {found.module}, relatively"
            target = _target(found)
            if target is None or not source.package:
                continue
            reached = target.split(".")[1] if "." in target else ""
            if reached == source.package:
                continue
            if not reached or _step(reached) >= _step(source.package):
                yield f"{where} imports {reached or 'the front door'}, which is not below it"
            elif source.package in ONLY and reached not in ONLY[source.package]:
                yield f"{where} imports {reached}; it may import only {sorted(ONLY[source.package])}"


def no_torch(sources):
    """Rooms of plain values do not know tensors."""
    for source in sources:
        for found in source.imports():
            if source.package in WITHOUT_TORCH and found.module.partition(".")[0] in ("torch", "safetensors"):
                yield f"{source.path}:{found.line}: {source.package} imports {found.module}"


def no_private(sources):
    """No file imports a private name of another."""
    for source in sources:
        for found in source.imports():
            private = [part for part in (*found.module.split("."), found.name or "") if re.match(r"_[^_]", part)]
            if _target(found) and private:
                yield f"{source.path}:{found.line}: imports {private[0]} of {found.module}"


def imports_at_top(sources):
    """No import inside a function, none below the first line of code, none by name."""
    for source in sources:
        if source.package == "cli":
            continue
        for found in source.imports():
            if found.inside_function and (source.path, found.module.partition(".")[0]) not in OPTIONAL:
                yield f"{source.path}:{found.line}: imports {found.module} inside a function"
        begun = None
        for node in source.tree.body:
            guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if isinstance(node, ast.Import | ast.ImportFrom):
                if begun is not None:
                    yield f"{source.path}:{node.lineno}: import below line {begun}, where the code begins"
            elif not guarded and not docstring and begun is None:
                begun = node.lineno
        for call, name in source.calls():
            if name in ("importlib.import_module", "__import__") and source.package:
                yield f"{source.path}:{call.lineno}: imports by name"


def no_cycles(sources):
    """Files import each other without a cycle; no file imports from the package it lies in."""
    edges = {s.module: sorted({t for i in s.imports() if (t := _target(i))}) for s in sources if s.package}
    done: set[str] = set()

    def visit(module, path):
        if module in path:
            yield "cycle: " + " -> ".join((*path[path.index(module) :], module))
        elif module in edges and module not in done:
            done.add(module)
            for target in edges[module]:
                yield from visit(target, (*path, module))

    for module, targets in edges.items():
        yield from (
            f"{module} imports from its own package" for t in targets if t != "excise" and module.startswith(f"{t}.")
        )
        yield from visit(module, ())


def names_say_something(sources):
    """No file or folder has a name that fits anything."""
    for source in sources:
        for part in Path(source.path).with_suffix("").parts:
            if FORBIDDEN_NAMES.fullmatch(part):
                yield f"{source.path}: {part!r} says nothing about what is inside"


def short(sources):
    """Files and function bodies (without the docstring) are short."""
    for source in sources:
        lines = source.text.count("\n")
        if lines > MAX_FILE_LINES:
            yield f"{source.path}: {lines} lines, at most {MAX_FILE_LINES}"
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if length > MAX_BODY_LINES:
                    yield f"{source.path}:{node.lineno}: {node.name} has {length} lines, at most {MAX_BODY_LINES}"


def nothing_dangerous(sources):
    """Nothing runs code that came as data, seeds a global generator, changes global state, or prints."""
    for source in sources:
        for found in source.imports():
            if found.module.partition(".")[0] in FORBIDDEN_MODULES:
                yield f"{source.path}:{found.line}: imports {found.module}"
        for call, name in source.calls():
            where = f"{source.path}:{call.lineno}: {name}"
            keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if name in FORBIDDEN_CALLS and (source.path, name) not in RESTORING | REACHING:
                yield f"{where} {FORBIDDEN_CALLS[name]}"
            if name == "torch.load" and keywords.get("weights_only") != "True":
                yield f"{where} without weights_only=True"
            if name.rpartition(".")[2] in ("extractall", "extract") and isinstance(call.func, ast.Attribute):
                yield f"{where} writes where an archive says"
            if keywords.get("shell", "False") != "False":
                yield f"{where} with a shell"
            if keywords.get("allow_pickle", "False") != "False":
                yield f"{where} with allow_pickle"
            if name in SEEDING and source.path != "seeds.py":
                yield f"{where} seeds a global generator outside seeds.py"
            if name == "print" and source.package != "cli":
                yield f"{where} outside cli/"


def no_second_try(sources):
    """What a careful reader has refused is not given to another one."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Try):
                inside = {id(one) for handler in node.handlers for one in ast.walk(handler)}
                yield from (
                    f"{source.path}:{call.lineno}: {name} in an `except`, where a reader has failed"
                    for call, name in source.calls()
                    if id(call) in inside and name.rpartition(".")[2] in LOADERS
                )


def no_accelerator(sources):
    """No line names one kind of device."""
    for source in sources:
        for number, line in enumerate(source.text.splitlines(), 1):
            if "cuda" in line.lower():
                yield f"{source.path}:{number}: {line.strip()}"


def one_writer(sources):
    """Only the store writes files."""
    for source in sources:
        if source.package == "store":
            continue
        for call, name in source.calls():
            last = name.rpartition(".")[2]
            where = f"{source.path}:{call.lineno}: {name}"
            if _opens_for_writing(call, last):
                yield f"{where} opens a file for writing; use the store"
            on_path = isinstance(call.func, ast.Attribute) and not name.startswith(
                ("excise.store.", "msgspec.structs.")
            )
            if on_path and last in WRITERS and not (last == "replace" and len(call.args) != 1):  # text.replace(a, b)
                yield f"{where} writes past the store"


def _opens_for_writing(call: ast.Call, last: str) -> bool:
    if last in ("fdopen", "NamedTemporaryFile", "mkstemp", "TemporaryDirectory", "mkdtemp"):
        return True
    values = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    modes = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return last == "open" and any(re.fullmatch(r"[rwaxbt+]{1,3}", mode) and set(mode) & set("wax+") for mode in modes)


def mirrored(sources):
    """Every file has a file of tests under the same path."""
    for source in sources:
        path = Path(source.path)
        if path.name == "__init__.py" or source.path in WITHOUT_MIRROR:
            continue
        mirror = TESTS / path.with_name(f"test_{path.name}")
        if not mirror.is_file():
            yield f"{source.path}: no {mirror.relative_to(ROOT)}"
        elif "def test_" not in mirror.read_text(encoding="utf-8"):
            yield f"{source.path}: {mirror.relative_to(ROOT)} holds no test"


RULES = (
    ladder,
    no_torch,
    no_private,
    imports_at_top,
    no_cycles,
    names_say_something,
    short,
    nothing_dangerous,
    no_second_try,
    no_accelerator,
    one_writer,
    mirrored,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps(rule):
    violations = list(rule(SOURCES))
    assert not violations, f"{rule.__doc__} {len(violations)} violations:\n  " + "\n  ".join(violations)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (ladder, "masks.py", "from excise.data import Split"),
        (ladder, "masks.py", "from excise import patch"),
        (ladder, "localize/head.py", "import excise.methods.reset"),
        (ladder, "train/loop.py", "from excise.curvature import flat"),
        (ladder, "checks.py", "from excise import seeds"),
        (ladder, "data/rows.py", "import excise"),
        (ladder, "measure/accuracy.py", "from excise import params"),
        (ladder, "report/page.py", "def f():\n    from excise.measure import Measure"),
        (ladder, "data/rows.py", "from .split import Split"),
        (no_torch, "measure/accuracy.py", "from torch import Tensor"),
        (no_torch, "report/page.py", "import torch.nn"),
        (no_private, "data/split.py", "from excise.data.rows import _leaves"),
        (imports_at_top, "train/loop.py", "def f():\n    import scipy"),
        (imports_at_top, "train/loop.py", "class A:\n    def f(self):\n        from scipy import stats"),
        (imports_at_top, "train/loop.py", "x = 1\nimport scipy"),
        (imports_at_top, "train/loop.py", "import importlib\nimportlib.import_module('excise.cli')"),
        (imports_at_top, "data/sets/image_folder.py", "def f():\n    import scipy"),
        (no_cycles, "data/rows.py", "from excise.data import Split"),
        (names_say_something, "train/utils.py", ""),
        (names_say_something, "core/loop.py", ""),
        (names_say_something, "masks_v2.py", ""),
        (short, "masks.py", "\n" * (MAX_FILE_LINES + 1)),
        (short, "masks.py", "def f():\n" + "    x = 1\n" * (MAX_BODY_LINES + 1)),
        (nothing_dangerous, "masks.py", "import pickle"),
        (nothing_dangerous, "masks.py", "from joblib import load"),
        (nothing_dangerous, "masks.py", "eval('1')"),
        (nothing_dangerous, "masks.py", "import torch\ntorch.load(p)"),
        (nothing_dangerous, "masks.py", "from torch import load as read\nread(p, weights_only=False)"),
        (nothing_dangerous, "masks.py", "import numpy as np\nnp.load(p, allow_pickle=True)"),
        (nothing_dangerous, "masks.py", "import subprocess\nsubprocess.run(c, shell=True)"),
        (nothing_dangerous, "masks.py", "from os import system\nsystem(c)"),
        (nothing_dangerous, "masks.py", "import yaml\nyaml.load(text)"),
        (nothing_dangerous, "masks.py", "import tempfile\ntempfile.mktemp()"),
        (nothing_dangerous, "masks.py", "import tarfile\ntarfile.open(p).extractall(d)"),
        (nothing_dangerous, "masks.py", "archive.extract(name, d)"),
        (nothing_dangerous, "masks.py", "import shutil\nshutil.unpack_archive(p, d)"),
        (nothing_dangerous, "masks.py", "import subprocess\nsubprocess.getoutput(c)"),
        (nothing_dangerous, "masks.py", "import torch\ntorch.load(p, weights_only=careful)"),
        (nothing_dangerous, "masks.py", "import torch\ntorch.jit.load(p)"),
        (nothing_dangerous, "masks.py", "import urllib.request"),
        (nothing_dangerous, "masks.py", "from socket import create_connection as c\nc(('a', 1))"),
        (
            no_second_try,
            "masks.py",
            "import torch\ntry:\n    read(p)\nexcept ValueError:\n    torch.load(p, weights_only=True)",
        ),
        (
            no_second_try,
            "masks.py",
            "try:\n    pass\nexcept OSError:\n    try:\n        x = np.load(p)\n    finally:\n        pass",
        ),
        (nothing_dangerous, "masks.py", "import torch as t\nt.manual_seed(0)"),
        (nothing_dangerous, "masks.py", "import numpy as np\nnp.random.seed(0)"),
        (nothing_dangerous, "masks.py", "import random\nrandom.seed(0)"),
        (nothing_dangerous, "masks.py", "import torch\ntorch.set_default_dtype(torch.float64)"),
        (nothing_dangerous, "masks.py", "import torch\ntorch.save(x, p)"),
        (nothing_dangerous, "pipeline/demo.py", "print(1)"),
        (no_accelerator, "masks.py", "x.cuda()"),
        (no_accelerator, "masks.py", "x.to('cuda:0')"),
        (one_writer, "oracles/retrain.py", "path.write_text('a')"),
        (one_writer, "oracles/retrain.py", "open(path, 'w')"),
        (one_writer, "oracles/retrain.py", "path.open(mode='ab')"),
        (one_writer, "oracles/retrain.py", "path.replace(other)"),
        (mirrored, "data/unheard_of.py", ""),
    ],
)
def test_a_rule_objects_to(rule, path, text):
    assert any(path in line or "excise." in line for line in rule([Source.of(path, text)])), (rule.__name__, text)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (ladder, "masks.py", "from excise import store, params, errors"),
        (ladder, "cli/forget.py", "from excise.pipeline import unlearn"),
        (ladder, "methods/dampen.py", "from excise.curvature import squared_gradients"),
        (imports_at_top, "data/sets/image_folder.py", "def f():\n    from PIL import Image"),
        (nothing_dangerous, "store/tensors.py", "import torch\ntorch.load(p, weights_only=True)"),
        (nothing_dangerous, "cli/show.py", "print(1)"),
        (
            no_second_try,
            "store/tensors.py",
            "try:\n    torch.load(p)\nexcept OSError as error:\n    raise Bad(p) from error",
        ),
        (nothing_dangerous, "seeds.py", "import torch\ntorch.manual_seed(0)"),
        (one_writer, "data/rows.py", "path.open('rb')"),
        (one_writer, "data/rows.py", "text.replace('w', 'a')"),
        (one_writer, "store/files.py", "path.write_bytes(b'')"),
        (mirrored, "seeds.py", ""),
    ],
)
def test_a_rule_allows(rule, path, text):
    assert list(rule([Source.of(path, text)])) == []


def test_a_cycle_is_seen():
    texts = {"data/rows.py": "from excise.data import split", "data/split.py": "from excise.data.rows import Rows"}
    assert any("cycle" in line for line in no_cycles([Source.of(path, text) for path, text in texts.items()]))


def test_every_package_has_a_place_on_the_ladder_and_no_place_is_empty():
    assert {source.package for source in SOURCES} - {""} == set().union(*STEPS)


def test_every_exception_is_still_needed():
    inside = {
        (source.path, found.module.partition(".")[0])
        for source in SOURCES
        for found in source.imports()
        if found.inside_function and source.package != "cli"
    }
    assert inside == OPTIONAL


def test_the_front_door_resolves():
    assert sorted(excise.__all__) == excise.__dir__()
    assert [name for name in excise.__all__ if not hasattr(excise, name)] == []
    assert {*excise._HOMES, *excise._ROOMS, "ExciseError", "__version__"} == set(excise.__all__)
    with pytest.raises(AttributeError, match="no attribute 'forget_everything'"):
        _ = excise.forget_everything


ROOMS = sorted(source.module for source in SOURCES if source.path.endswith("/__init__.py") and source.package != "cli")


def _ruff_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions and modules, each by name (ruff's RUF022)."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("room", ROOMS)
def test_a_public_list_is_sorted_and_resolves(room):
    module = importlib.import_module(room)
    assert module.__all__ == sorted(set(module.__all__), key=_ruff_order)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("room", ["excise", *ROOMS])
def test_everything_public_says_what_it_is(room):
    module = importlib.import_module(room)
    public = {name: getattr(module, name) for name in module.__all__}
    silent = [
        name
        for name, value in public.items()
        if (inspect.isroutine(value) or isinstance(value, type | types.ModuleType))
        and (value.__doc__ or f"{name}(").startswith(f"{name}(")  # what a dataclass writes for itself
    ]
    assert silent == []


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_everything_imports_without_optional_packages():
    blocked = ["PIL", "optuna", "torchvision", "timm", "transformers", "pytest", "hypothesis"]
    names = sorted(info.name for info in pkgutil.walk_packages([str(SOURCE)], "excise."))
    assert {"excise.data.sets.image_folder", "excise.pipeline.demo"} <= set(names)
    done = _run(
        "import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({blocked}))\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "import excise\n"
        "for name in excise.__all__: getattr(excise, name)\n"
    )
    assert done.returncode == 0, done.stderr


def test_help_does_not_wait_for_torch():
    slow = ("torch", "numpy", "scipy", "sklearn")
    done = _run(f"import excise, excise.cli.main, sys; print([name for name in {slow} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
