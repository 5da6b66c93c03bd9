"""Helpers of the notebooks: a convolutional VAE of cardiac shape on ACDC label maps.

Each line may use what stands above it, and no other room:

    rounding       processors with and without AVX512 come to the same numbers
    files          where things lie; files and folders that appear only when complete
    cache          what is made once and kept, under a key that notices edits
    labels         the four classes of a label map, groups, what values in files mean
    profiles       every size and setting
    shape_metrics  Dice, areas, anatomical validity, ten descriptors of shape
    results_file   the numbers of a study as JSON
    data/          files to aligned slices: headers, names of files, ACDC, download, phantom, splits
    model/         network, losses, augmentation, training, runs; label maps to latents and back
    analysis/      results of a run, priors, baselines, what dimensions do, projections, samples
    explorer/      what the sliders show: atlas, front, patients, widget, page
    sweep          several runs, trained side by side
    study          what the first cell of a notebook makes

    figures/       arrays in, Figure out; knows labels alone
    colab          installs what Google Colab lacks
"""

from cvae_utils.rounding import as_everywhere

__version__ = "0.1.0"
#: The variables that say how numbers are rounded, set before a module here imports NumPy.
ROUNDING = as_everywhere()
