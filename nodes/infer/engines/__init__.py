"""What executes the model: the only place among the nodes that knows ``ilcs_model``. One file an engine."""
