"""Write what comes with the repository: data/pretrained, and figures/explorer.html made of it.

    ACDC_ROOT=/path/to/acdc CVAE_PROFILE=quick python scripts/export_pretrained.py

Runs that notebooks 02 and 03 have left in data/runs are taken from there, others are trained. Each
goes there with the priors fitted to it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cvae_utils import profiles
from cvae_utils.explorer import atlas, page
from cvae_utils.files import REPOSITORY
from cvae_utils.study import begin

BETAS = (1.0, 10.0, 1000.0)  # of the page, which has to be small, too

if __name__ == "__main__":
    study = begin("pretrained")
    if study.source.name != "ACDC":
        raise SystemExit("expected ACDC labels, found only the phantom: set ACDC_ROOT")
    for beta in BETAS:
        atlas.export(study.atlas(study.run(beta)), f"{study.profile.name}-beta{beta:g}")
    sharp = study.at(profile=study.profile.sharp)
    for beta in profiles.SHARP_BETAS:
        atlas.export(sharp.atlas(sharp.run(beta)), f"{sharp.profile.name}-beta{beta:g}")
    page.write(page.runs_of_repository(), REPOSITORY / "figures" / "explorer.html")
