"""Where the package under test lies, for the processes that tests start."""

from __future__ import annotations

from pathlib import Path

import eagleray

# The installed wheel's folder, or that of a source tree with a native module in it: what this process uses.
PYTHON = Path(eagleray.__file__).resolve().parents[1]
