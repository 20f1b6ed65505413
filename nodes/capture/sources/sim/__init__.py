"""The simulated strip: texture, harmless marks, planted defects and their truth, all from one seed.

``VERSION`` names what is drawn. A model trained on it names it in its metadata, so whoever changes a picture here
changes the version too.
"""

VERSION = "strip-1"
