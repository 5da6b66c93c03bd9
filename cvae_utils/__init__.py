"""Helpers of the notebooks: a convolutional VAE of cardiac shape on ACDC label maps.

Modules import only upward in this list, so a reader can go through it from top to bottom:

    storage      folders, complete or not at all; cache keys
    labels       the four classes, their names and the one palette
    profiles     smoke, quick, report: every size and hyper-parameter
    metrics      Dice, anatomical validity, shape descriptors, active units
    girder       fetch files from a Girder server
    download     ACDC from its public server
    volumes      one file to labels and millimetres; the one place that interprets a header
    naming       who is who: patient, phase, scan and slice from the name of a file
    acdc         find and read a data set in the ACDC layout, or a plain folder
    phantom      synthetic hearts written in the same layout
    align        centre, rotate, crop and resample a slice
    dataset      slice table, aligned slices on disk, splits
    protocol     slices, split and Dice of published numbers
    model        ConvVAE
    losses       soft Dice, cross-entropy, KL divergence, beta schedules
    pca          principal components of label maps: the baseline
    latents      encode, sample, traverse, rank, name, project
    hardware     device, precision, memory
    checkpoint   the state of a training that is not finished
    runs         run folders: save, load
    augment      deform label maps and keep their anatomy
    prior        densities fitted to the encoded training slices; principal axes
    judge        drawn slices beside real ones: fidelity, variety, copying, anatomy
    disentanglement  how far single dimensions stand for single factors
    evaluation   what a trained VAE is worth, and how it was learnt
    train        fit, load_or_train; one run from the shell
    figures      one function per figure of the report: arrays in, Figure out
    atlas        what the explorer shows of a run; the runs that come with the repository
    exploration  a walk through a latent space: start, moves, what is there
    panels       the explorer's pictures
    explorer     the dashboard of ipywidgets
    page         the explorer as one HTML file
    results      the numbers of a study as JSON, and the tables of the README
    colab        install what Google Colab lacks
    notebook     what the first cell of every notebook does
"""

__version__ = "0.1.0"
