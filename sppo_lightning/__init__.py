"""Self-play preference optimisation on Lightning."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout `callbacks/` stands beside the package; the wheel ships it inside. Either way it is
# `sppo_lightning.callbacks`, whatever other package named `callbacks` is on the path.
if not (Path(__file__).parent / "callbacks").is_dir():
    __path__.append(str(Path(__file__).parents[1]))
