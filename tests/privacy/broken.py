"""Data that cannot be used, each with secrets in it: in pixels, labels, texts, names, ids."""

import numpy as np
import torch
from torch.utils.data import Dataset

from tests.privacy.photos import NUM_ROWS, train

TEXT = "canary-5f3e9a71c2d84b06"
LABEL = 7318052
PIXEL = 31415.9265
SECRETS = (TEXT, TEXT[7:], str(LABEL), "31415.9", "31415", "3.14159265e+04", "3.1415926e+04", "3.142e+04")

INPUTS, LABELS = train()


def secret_pixels():
    found = INPUTS.clone()
    found[5] = PIXEL
    return found


class Rows(Dataset):
    """Rows one by one, of which `row(index, input, label)` spoils some."""

    def __init__(self, row):
        self.row = row

    def __len__(self):
        return NUM_ROWS

    def __getitem__(self, index):
        return self.row(index, secret_pixels()[index] if index == 5 else INPUTS[index], int(LABELS[index]))


def labelled(index, value):
    found = LABELS.clone()
    found[index] = value
    return secret_pixels(), found


def at_five(change):
    """Give rows of which the sixth is another."""
    return Rows(lambda index, image, label: change(image, label) if index == 5 else (image, label))


too_high = labelled(5, LABEL)
negative = labelled(5, -LABEL)
real = (secret_pixels(), LABELS.float() + LABEL)
several = (secret_pixels(), torch.full((NUM_ROWS, 2), LABEL))
short = (secret_pixels(), torch.full((NUM_ROWS - 1,), LABEL))
flat = (secret_pixels().flatten(1), LABELS)
wide = (torch.full((NUM_ROWS, 3, 8, 8), PIXEL), LABELS)
large = (torch.full((NUM_ROWS, 1, 9, 9), PIXEL), LABELS)
whole = ((torch.full((NUM_ROWS, 1, 8, 8), LABEL)).long(), LABELS)
double = (secret_pixels().double(), LABELS)
texts = ([TEXT] * NUM_ROWS, LABELS)
objects = (np.asarray([{TEXT: 1}] * NUM_ROWS, dtype=object), np.asarray(LABELS))
words = Rows(lambda index, image, label: (image, TEXT))
text_inputs = Rows(lambda index, image, label: (TEXT, label))
one_word = at_five(lambda image, label: (image, TEXT))
one_high = at_five(lambda image, label: (image, LABEL))
one_real = at_five(lambda image, label: (image, float(LABEL)))
one_wide = at_five(lambda image, label: (image.expand(3, 8, 8) * PIXEL, label))
one_kind = at_five(lambda image, label: (image.double() * PIXEL, label))
one_none = at_five(lambda image, label: (None, TEXT))
single = Rows(lambda index, image, label: image + PIXEL)
triple = Rows(lambda index, image, label: (image, label, TEXT))
mapping = Rows(lambda index, image, label: {TEXT: image, "label": label})
nothing = Rows(lambda index, image, label: None)
strange = Rows(lambda index, image, label: (image, object()))
no_rows = (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
not_finite = (secret_pixels().index_fill(0, torch.tensor([3]), torch.nan), LABELS)
endless = (secret_pixels().index_fill(0, torch.tensor([3]), torch.inf), LABELS)
everything = {TEXT: PIXEL}
alone = TEXT
generator = (one for one in (TEXT,))
