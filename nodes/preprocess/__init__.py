"""Preprocess: frames to tiles, by OpenCV on a CPU or by DALI on a GPU. Encoded frames are decoded strictly, on the host."""
