"""A finished removal of ten of 200 rows, made by hand in a moment, and every kind of copy that people leave about."""

import gzip
import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from excise import store
from excise.custody import Traced
from excise.masks import Mask
from excise.patch import Patch

DATA = "d" * 64
"""What stands for the keyed digest of the data."""
NUM_ROWS, FORGET = 200, torch.arange(0, 200, 20)
RETAIN = torch.tensor([row for row in range(NUM_ROWS) if row % 20])


def network(seed=0, width=32):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))
        model[1].running_mean.uniform_(-1, 1)
        return model.eval()


def moved(model, seed, share, names=("0.weight", "1.running_mean", "3.weight")):
    """Give the network with noise on some tensors, in some of their places."""
    changed = network()
    changed.load_state_dict(model.state_dict())
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in changed.state_dict().items():
            if name in names:
                value.add_(
                    torch.randn(value.shape, generator=draws) * (torch.rand(value.shape, generator=draws) < share)
                )
    return changed


@dataclass
class Removal:
    """A run directory beside the original weights, and the two networks."""

    run: Path
    weights: Path
    original: nn.Module
    released: nn.Module

    def traced(self, forget=FORGET):
        return Traced.of(self.run, forget)


def removal(root, **request):
    """Write what `excise unlearn` writes."""
    original = network()
    released = moved(original, 1, 0.3)
    weights, run = root / "original" / "w.safetensors", root / "run"
    store.write_tensors(weights, original.state_dict())
    store.write_tensors(run / "model.safetensors", released.state_dict(), {"kind": "excise-model-1"})
    Mask.full(original).save(run / "mask.safetensors")
    Patch.between(original, released).save(run / "patch.safetensors")
    asked = {
        "command": "unlearn",
        "weights": str(weights),
        "weights_sha256": store.file_digest(weights),
        "num_rows": NUM_ROWS,
        "num_forget": len(FORGET),
        "forget": str(root / "ids.txt"),
        "forget_commitment": store.commitment(FORGET),
        "data_commitment": DATA,
        **request,
    }
    store.RunDirectory(run, asked).complete(["model.safetensors", "mask.safetensors", "patch.safetensors"], {})
    return Removal(run, weights, original, released)


def saved(path, value, **how):
    """Write as torch.save does."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    path.write_bytes(buffer.getvalue())


def numbered(path, **arrays):
    np.savez(path, **arrays)


def optimizer_state(model, *names):
    """Give what an optimizer of torch's saves after a step, with the running means that it has."""
    means = {}
    for place, value in enumerate(model.parameters()):
        mean = torch.sin(torch.arange(value.numel()) + 1.0).reshape(value.shape)
        means[place] = {"step": torch.tensor(1.0), **dict.fromkeys(names, mean)}
    return {"state": means, "param_groups": [{"lr": 0.01, "betas": (0.9, 0.999), "params": list(means)}]}


def state(model, prefix="", dtype=None):
    return {
        prefix + name: value.to(dtype) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }


def plant_networks(made, folder):
    """Write copies of the original and of what its training leaves; give the certainty with which each must be found."""
    original, released = made.original, made.released
    own, epoch = original.state_dict(), moved(original, 7, 1.0).state_dict()
    epoch = {n: own[n] + 0.1 * (epoch[n] - own[n]) if own[n].is_floating_point() else own[n] for n in own}
    average = {n: 0.9 * own[n] + 0.1 * epoch[n] if own[n].is_floating_point() else own[n] for n in own}
    raw = b"".join(value.numpy().tobytes() for value in own.values())
    draws = torch.Generator().manual_seed(3)

    (folder / "backup.dat").write_bytes(made.weights.read_bytes())
    store.write_tensors(folder / "renamed.safetensors", own, {"note": "final"})
    saved(folder / "state.pt", own)
    saved(folder / "lightning.ckpt", {"epoch": 9, "state_dict": state(original, "model.")})
    saved(folder / "ddp.pth", state(original, "module."))
    saved(folder / "compiled.bin", state(original, "_orig_mod."))
    numbered(folder / "arrays.npz", **{name: value.numpy() for name, value in own.items()})
    store.write_tensors(folder / "half.safetensors", state(original, dtype=torch.float16))
    saved(folder / "brain.pt", {"model": state(original, dtype=torch.bfloat16)})
    numbered(folder / "double.npz", **{name: value.double().numpy() for name, value in own.items()})
    np.save(folder / "flat.npy", torch.cat([value.reshape(-1) for value in original.parameters()]).detach().numpy())
    np.save(folder / "kernel.npy", own["0.weight"].T.contiguous().numpy())
    store.write_tensors(folder / "head.safetensors", {"weight": own["3.weight"]})
    delta = {name: own[name] - released.state_dict()[name] for name in ("0.weight", "3.weight")}
    store.write_tensors(folder / "task-vector.safetensors", delta)
    (folder / "weights.pkl").write_bytes(pickle.dumps({name: value.numpy() for name, value in own.items()}))
    (folder / "net.onnx").write_bytes(b"\x08\x07\x12\x07pytorch" + raw)
    saved(folder / "module.pt", original)
    saved(folder / "legacy.pth", own, _use_new_zipfile_serialization=False)

    store.write_tensors(folder / "ema.safetensors", {f"ema.{name}": value for name, value in average.items()})
    saved(
        folder / "swa.pt", {"n_averaged": torch.tensor(3), **{f"module.{name}": one for name, one in average.items()}}
    )
    store.write_tensors(folder / "epoch-7.safetensors", epoch)
    saved(folder / "adam.pt", {"optimizer": optimizer_state(original, "exp_avg", "exp_avg_sq"), "epoch": 9})
    momentum = optimizer_state(original, "momentum_buffer")["state"]
    momentum = {f"state.{place}.momentum_buffer": one["momentum_buffer"] for place, one in momentum.items()}
    store.write_tensors(folder / "sgd.safetensors", momentum)
    store.write_tensors(folder / "head-epoch-7.safetensors", {"head.3.weight": epoch["3.weight"]})
    lora = {
        "0.lora_A.weight": torch.randn(2, 8, generator=draws),
        "0.lora_B.weight": torch.randn(32, 2, generator=draws),
    }
    store.write_tensors(folder / "adapter.safetensors", lora)
    Patch.between(released, original).save(folder / "undo.safetensors")
    Patch.between(original, moved(original, 8, 0.2)).save(folder / "other-patch.safetensors")
    small = {name: (value * 50).round().to(torch.int8) for name, value in own.items() if value.ndim == 2}
    store.write_tensors(folder / "int8.safetensors", small)
    fisher = {
        f"importance_{place}": torch.rand(value.shape, generator=draws) for place, value in enumerate(own.values())
    }
    store.write_tensors(folder / "fisher.safetensors", fisher)

    store.write_tensors(folder / "another-seed.safetensors", network(99).state_dict())
    (folder / "model.joblib").write_bytes(gzip.compress(raw))
    (folder / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    (folder / "state.tar.gz").write_bytes(gzip.compress(raw, 1))
    saved(folder / "damaged.pt", own)
    (folder / "damaged.pt").write_bytes((folder / "damaged.pt").read_bytes()[:100])
    (folder / "broken.safetensors").write_bytes(made.weights.read_bytes()[:200])
    sure = (
        "backup.dat renamed.safetensors state.pt lightning.ckpt ddp.pth compiled.bin arrays.npz half.safetensors brain.pt "
        "double.npz flat.npy kernel.npy head.safetensors task-vector.safetensors weights.pkl net.onnx module.pt legacy.pth"
    )
    likely = (
        "ema.safetensors swa.pt epoch-7.safetensors adam.pt sgd.safetensors head-epoch-7.safetensors adapter.safetensors "
        "undo.safetensors other-patch.safetensors int8.safetensors fisher.safetensors"
    )
    unknown = "another-seed.safetensors model.joblib net.h5 state.tar.gz damaged.pt broken.safetensors"
    told = {"sure": sure, "likely": likely, "unknown": unknown}
    return {name: certainty for certainty, names in told.items() for name in names.split()}


def plant_rows(folder):
    """Write caches and lists of rows; give the certainty with which each must be found."""
    draws = np.random.default_rng(4)
    flags = np.zeros(NUM_ROWS, dtype=bool)
    flags[FORGET.numpy()] = True
    np.save(folder / "ids.npy", FORGET.numpy())
    (folder / "ids.txt").write_text("# to forget\n" + ", ".join(str(row) for row in FORGET.tolist()) + "\n")
    np.save(folder / "retained.npy", RETAIN.numpy()[::-1].astype(np.int32))
    np.save(folder / "flags.npy", flags)
    np.save(folder / "bits.npy", np.packbits(flags))
    (folder / "split.json").write_text(
        json.dumps({"seed": 3, "parts": {"forget": FORGET.tolist(), "holdout": [1, 2, 3]}})
    )
    saved(folder / "loader.pt", {"sampler": {"skip": FORGET}, "epoch": 3})
    kept = ["ids.npy", "ids.txt", "retained.npy", "flags.npy", "bits.npy", "split.json", "loader.pt"]

    np.save(folder / "features.npy", draws.normal(size=(NUM_ROWS, 16)).astype(np.float32))
    np.save(folder / "forget-logits.npy", draws.normal(size=(len(FORGET), 5)).astype(np.float16))
    numbered(folder / "shadow-scores.npz", scores=draws.normal(size=(5, NUM_ROWS)))
    np.save(folder / "neighbours.npy", draws.integers(0, NUM_ROWS, size=(NUM_ROWS, 5)))
    np.save(folder / "pictures.npy", draws.integers(0, 255, size=(NUM_ROWS, 4, 4), dtype=np.uint8))
    lines = "\n".join(f"{row},{draws.random():.3f}" for row in range(NUM_ROWS))
    (folder / "losses.csv").write_text(f"id,loss\n{lines}\n")
    (folder / "margins.txt").write_text("".join(f"{draws.random():.3f}\n" for _ in FORGET))
    (folder / "files.csv").write_text("name,label\n" + "".join(f"img/{row}.png,{row % 3}\n" for row in range(NUM_ROWS)))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"id": row, "loss": 0.1}) + "\n" for row in range(NUM_ROWS)))
    (folder / "by-row.json").write_text(json.dumps({str(row): "a" for row in range(NUM_ROWS)}))
    saved(folder / "order.pt", {"order": torch.randperm(NUM_ROWS, generator=torch.Generator().manual_seed(0))})
    numbered(folder / "prototypes.npz", prototypes=draws.normal(size=(3, 32)))
    likely = (
        "features.npy forget-logits.npy shadow-scores.npz neighbours.npy pictures.npy losses.csv margins.txt files.csv"
    )
    likely += " rows.jsonl by-row.json order.pt prototypes.npz"
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return dict.fromkeys(kept, "sure") | dict.fromkeys(likely.split(), "likely") | {"objects.npy": "unknown"}


def plant_innocents(made, folder):
    """Write files that tell nothing that the released network does not."""
    other = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    for name in ("model.safetensors", "mask.safetensors", "patch.safetensors"):
        (folder / name).write_bytes((made.run / name).read_bytes())
    store.write_tensors(folder / "released-half.safetensors", state(made.released, "module.", torch.float16))
    saved(folder / "released.pt", {"state_dict": made.released.state_dict()})
    saved(
        folder / "other.pt", {"model": other.state_dict(), "optimizer": optimizer_state(other, "exp_avg", "exp_avg_sq")}
    )
    numbered(folder / "test.npz", inputs=np.zeros((150, 8)), labels=np.arange(150))
    (folder / "README.md").write_text("# A project\n\nOne, two, three.\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    (folder / "config.json").write_text(json.dumps({"lr": 0.1, "sizes": [8, 32, 3], "epochs": 5, "name": "a"}))
    (folder / "plan.toml").write_text('epochs = 200\noptimizer = "adam"\n')
    (folder / "train.py").write_text("import torch\n\nprint(1)\n")
    (folder / "log.txt").write_text("".join(f"epoch {epoch}: loss 0.{epoch}\n" for epoch in range(NUM_ROWS)))
    (folder / "metrics.csv").write_text("epoch,loss\n" + "".join(f"{epoch},0.{epoch}\n" for epoch in range(40)))
    (folder / "numbers.bin").write_bytes(b"")
    (folder / "test-ids.txt").write_text("3 4 5 6\n")
    np.save(folder / "test-features.npy", np.zeros((150, 16)))
    np.save(folder / "scalar.npy", np.array(3.0))
    return sorted(path.name for path in folder.iterdir())
