"""Errors of data and model files. Each message names the file and says what to do."""


class DataError(ValueError):
    """The image folder cannot be trained on or evaluated as it is."""


class ModelFileError(ValueError):
    """A model file is missing, damaged, or not one of ours."""
