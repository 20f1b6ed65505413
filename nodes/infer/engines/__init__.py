"""What executes the model: with ``commands``, the only place among the nodes that knows ``ilcs_model``. One file an engine."""
