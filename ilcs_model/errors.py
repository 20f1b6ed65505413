"""Errors that a user can mend. Each message names the file or the option, and says what to do."""


class DataError(ValueError):
    """Training or evaluation cannot go on, because of the data, the settings, the run folder, the disk or a missing library."""


class ModelFileError(ValueError):
    """A model file is missing, damaged, or not one of linepipe."""
