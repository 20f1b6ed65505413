"""Preprocess: frames to tiles. On a CPU by OpenCV, with JPEGs decoded strictly by libjpeg-turbo."""
