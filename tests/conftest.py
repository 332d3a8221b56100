import torch

# The tests' tensors are small: a second thread costs more than it helps, most of all on shared machines.
torch.set_num_threads(1)
