"""The simulated strip: texture, harmless marks, planted defects and their truth, all from one seed.

``VERSION`` names what is drawn, and models trained on it store it in their metadata. So a change to any picture here needs a
new version.
"""

VERSION = "strip-1"
