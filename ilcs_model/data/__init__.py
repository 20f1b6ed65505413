"""Labelled images: folders of them, augmentation, corruption, and the batches a network learns from."""
