"""Commands that run a model as a line does: they know its engines and ``ilcs_model``, and import torch only when called."""
