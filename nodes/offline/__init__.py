"""Commands that run a model as a line does. They use its engines and ``ilcs_model``, and import torch only when called."""
