import torch
from hypothesis import settings

# Tiny networks: a second thread costs more than it gives, and on a busy machine many times that.
torch.set_num_threads(1)

# The same examples in every run, no timing, and nothing kept on disk between runs.
settings.register_profile("house", derandomize=True, deadline=None, database=None)
settings.load_profile("house")
