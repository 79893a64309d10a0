"""Values of other libraries, and the scripts that wrote them."""

from pathlib import Path

FOLDER = Path(__file__).parent
