"""Engines, which execute the model; one file for each. Of the nodes, only this folder and ``nodes/offline`` import ``ilcs_model``."""
