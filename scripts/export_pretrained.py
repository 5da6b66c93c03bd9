"""Write what comes with the repository: data/pretrained, and figures/explorer.html made of it.

    ACDC_ROOT=/path/to/acdc CVAE_PROFILE=quick python scripts/export_pretrained.py

Runs that notebooks 02, 03 and 06 have left in data/runs are taken from there, others are trained.
Each goes there with the priors fitted to it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cvae_utils import profiles
from cvae_utils.explorer import atlas, page
from cvae_utils.files import REPOSITORY
from cvae_utils.study import begin

BETAS = (1.0, 10.0, 1000.0)

if __name__ == "__main__":
    study = begin("pretrained")
    if study.source.name != "ACDC":
        raise SystemExit("expected ACDC labels, found only the phantom: set ACDC_ROOT")
    for beta in BETAS:
        atlas.export(study.atlas(study.run(beta)), f"{study.profile.name}-beta{beta:g}")
    sharp = study.official.at(profile=study.profile.sharp)
    atlas.export(sharp.atlas(sharp.run(profiles.SHARP_BETA)),
                 f"{sharp.profile.name}-beta{profiles.SHARP_BETA:g}")
    page.write(page.runs_of_repository(), REPOSITORY / "figures" / "explorer.html")
