"""The first line of every notebook: find the package beside this folder, complete Colab, begin.

    from start import begin
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cvae_utils.colab import install_missing

install_missing()  # in Colab only, and only what Colab lacks

from cvae_utils.study import begin, check, finding, stamp_of
