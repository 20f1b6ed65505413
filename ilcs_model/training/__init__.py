"""From labelled images to a run folder with a model, its curves and its card."""
