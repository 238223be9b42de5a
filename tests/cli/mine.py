"""A user's own module: copied into an empty directory, and named on the command line as `mine:...`."""

import sys

import torch
from torch import nn


def make():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


def blobs(seed, num_rows):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_rows) % 3
    return torch.randn(num_rows, 8, generator=draws) + 2 * torch.eye(3, 8)[labels], labels


def train():
    """200 rows; every twentieth has a wrong label."""
    inputs, labels = blobs(0, 200)
    labels[::20] = (labels[::20] + 1) % 3
    return inputs, labels


def test():
    return blobs(1, 150)


def many():
    return blobs(2, 30_000)


class Listed(torch.utils.data.Dataset):
    def __init__(self):
        self.inputs, self.labels = train()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.inputs[index], int(self.labels[index])


class Loses(Listed):
    """A row that cannot be read."""

    def __getitem__(self, index):
        if index == 77:
            raise OSError(2, "No such file or directory", "img/77.png")
        return super().__getitem__(index)


def chats():
    print("hello from make")
    return make()


# what goes wrong


def unlike():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), nn.LayerNorm(3))


def frozen():
    return make().requires_grad_(False)


def raises():
    raise ValueError("the disk is on fire")


def needs(width):
    return nn.Linear(width, 3)


def bottomless():
    raise MemoryError


class Vast(nn.Module):
    """Fits the weights, and asks for more memory than there is."""

    def __init__(self):
        super().__init__()
        self.layers = make()

    def forward(self, inputs):
        return self.layers(inputs) + torch.zeros(1 << 50)[:3]


def quits():
    sys.exit(0)


def text():
    return "a network"


number = 3
barren = nn.Flatten()
uneven = (torch.zeros(200, 8), torch.zeros(199, dtype=torch.int64))
wide = (torch.zeros(200, 9), torch.zeros(200, dtype=torch.int64))
high = (torch.zeros(200, 8), torch.full((200,), 7))
real = (torch.zeros(200, 8), torch.zeros(200))
empty = (torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64))
endless = iter(())
