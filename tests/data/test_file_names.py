"""Who is who: what names of files say of patient, phase, scan and slice."""

import pytest

from cvae_utils.data.file_names import Name, by_pattern, understand
from cvae_utils.files import DataError
from cvae_utils.labels import UNKNOWN


def read(*names, single=False):
    return list(understand(names, lambda name: single).values())


@pytest.mark.parametrize(("name", "patient", "phase"), [
    ("patient7_ED_gt.nii.gz", "patient7", "ED"),
    ("patient7_ES_gt.nii", "patient7", "ES"),
    ("A0S9V9_sa_es.nii.gz", "A0S9V9", "ES"),
    ("A0S9V9-Ed.nii.gz", "A0S9V9", "ED"),
    ("a.ED.seg.nii.gz", "a", "ED"),
    ("case 3 es.nii.gz", "case 3", "ES"),
    ("ED_case3.nii.gz", "case3", "ED"),
    ("A/ES.nii.gz", "A", "ES"),
    ("ES/A.mgz", "A", "ES"),
    ("A/ED/seg.nii.gz", "A", "ED"),
    ("A/seg_ED_ED.nii.gz", "A", "ED"),
    ("001/001_SA_ED_gt.nii.gz", "001", "ED"),
    ("sub-01/ses-1/sub-01_ses-1_ED.nii.gz", "sub-01", "ED"),
    ("ED.nii.gz", "", "ED"),
    ("AED.nii.gz", "AED", UNKNOWN),  # no part of its own
    ("RESEARCH_edema.nii.gz", "RESEARCH_edema", UNKNOWN),
    ("007.nii.gz", "007", UNKNOWN),
    ("a_ED_ES.nii.gz", "a_ED_ES", UNKNOWN),  # both: neither
    ("seg.nii.gz", "seg", UNKNOWN),
    ("frame12_ED.nii.gz", "frame12", "ED"),  # nothing else says who it is
    ("SC-HF-I-01.nii", "SC-HF-I-01", UNKNOWN),
])
def test_patient_and_phase_of_one_name(name, patient, phase):
    found, = read(name)
    assert (found.patient, found.phase, found.slice) == (patient, phase, None)


@pytest.mark.parametrize("names", [
    ["patient001_frame01.nii.gz", "patient001_frame12.nii.gz"],
    ["patient001_ED.nii.gz", "patient001_ES.nii.gz"],
    ["patient001/patient001_frame01_gt.nii.gz", "patient001/patient001_frame12_gt.nii.gz"],
    ["patient001-1-ED.nii.gz", "patient001-2-ED.nii.gz", "patient001-1-ES.nii.gz"],
    ["patient001_1_ED-label.nii.gz", "patient001_2_ED-label.nii.gz"],
    ["patient001/ses-1/ED.nii", "patient001/ses-2/ED.nii"],
    ["patient001_visit2_ED.nii", "patient001_visit1_ED.nii"],
    ["patient001_scan1_ED.nii", "patient001_scan2_ED.nii"],
    ["patient001 run 1 ED.nii", "patient001 run 2 ED.nii"],
    ["patient001_time_03.nii", "patient001_time_17.nii"],
    ["patient001_t00.nii", "patient001_t09.nii"],
    ["patient001_V1_ED.nii", "patient001_V2_ED.nii"],
    ["patient001_baseline_ED.nii", "patient001/follow-up_ED.nii", "patient001_pre_ED.nii"],
    ["patient001_20190301.nii", "patient001_2019-03-02.nii"],
    ["observer1/patient001_ED.nii", "observer2/patient001_ED.nii"],
    ["patient001_2_0.nii", "patient001_2_1.nii", "patient001_3_0.nii"],
    ["patient001_2_0.nii", "patient001_3_0.nii"],
    ["ED/patient001.nii", "ES/patient001.nii"],
])
def test_files_of_one_person_are_one_patient_and_each_is_told_apart(names):
    others = [name.replace("patient001", "patient002") for name in names]
    found = read(*names, *others)
    assert [said.patient for said in found] == (
        ["patient001"] * len(names) + ["patient002"] * len(names))
    assert len(set(found)) == 2 * len(names)


def test_entities_of_bids_say_who_it_is():
    names = [f"sub-{who}/ses-{when}/anat/sub-{who}_ses-{when}_acq-cine_{phase}.nii.gz"
             for who in ("01", "A2") for when in ("baseline", "M12") for phase in ("ED", "ES")]
    found = read(*names)
    assert [said.patient for said in found] == ["sub-01"] * 4 + ["sub-A2"] * 4
    assert len(set(found)) == 8 and found[0].scan == found[1].scan != found[2].scan


@pytest.mark.parametrize("moment", ["_frame01", "_t00", "-time 3", "_phase_2"])
def test_a_moment_that_has_a_phase_is_no_scan_of_its_own(moment):
    assert read(f"p1_ED{moment}.nii", f"p1{moment}_ES.nii") == [Name("p1", "ED"), Name("p1", "ES")]


@pytest.mark.parametrize("name", ["001/001_LA_ED_gt.nii", "p1_4ch_ED.nii", "p1_2CH.nii",
                                  "patient001_4d.nii.gz"])
def test_planes_that_are_no_short_axis_are_refused(name):
    with pytest.raises(DataError, match="expected short-axis volumes, found a name of another"):
        read("001/001_SA_ED_gt.nii", name)


@pytest.mark.parametrize("names", [
    ["center1/007_ED.nii", "center2/007_ED.nii"],
    ["training/patient001_ED.nii", "testing/patient001_ED.nii"],
    [f"site1_{k:03d}_ED.nii" for k in range(1, 15)],
    [f"ACDC_{k:03d}.nii.gz" for k in range(1, 15)],
    [f"case {k}.nii.gz" for k in range(1, 15)],
    ["P1a.nii", "P1b.nii"],
    ["site_T01.nii", "site_T02.nii"],  # not scans: nothing else says who it is
    ["Z01_ED.nii", "Z02_ED.nii"],
])
def test_two_persons_are_two_patients(names):
    assert len({said.patient for said in read(*names)}) == len(names)


def test_folders_in_which_all_lie_say_nothing():
    names = ["labelsTr/a/p1_ED.nii", "labelsTr/a/p2_ED.nii", "labelsTr/b/p1_ED.nii"]
    assert [said.patient for said in read(*names)] == ["a/p1", "a/p2", "b/p1"]
    assert [said.patient for said in read(*names[:2])] == ["p1", "p2"]


@pytest.mark.parametrize(("names", "slices"), [
    (["p1_ED_slice3.nii", "p1_ED_slice_12.nii"], [3, 12]),
    (["p1_ED_3.nii", "p1_ED_12.nii"], [3, 12]),
    (["p1_ED_z3.nii", "p1_ED_z12.nii"], [3, 12]),
    (["p1/ED/003.nii", "p1/ED/012.nii"], [3, 12]),
])
def test_slices_are_numbered(names, slices):
    found = read(*names, single=True)
    assert [said.slice for said in found] == slices
    assert {(said.patient, said.phase) for said in found} == {("p1", "ED")}


def test_a_pattern_with_groups_says_it_for_any_name():
    names = ["X9-dia-s2.nii", "X9-sys-s2.nii", "readme.txt", "Y1-dia-s10.nii"]
    found = by_pattern(r"(?P<patient>[XY]\d)-(?P<scan>\w+)-s(?P<slice>\d+)", names)
    assert list(found.values()) == [Name("X9", UNKNOWN, "dia", 2), Name("X9", UNKNOWN, "sys", 2),
                                    Name("Y1", UNKNOWN, "dia", 10)]
    found = by_pattern(r"(?P<phase>e[ds])(?P<patient>\d+)", ["ed12", "ES12", "es12"])
    assert list(found.values()) == [Name("12", "ED"), Name("12", "ES")]
    found = by_pattern(r"(?P<patient>[XY]\d)-((?P<ED>dia)|(?P<ES>sys))", names)
    assert [said.phase for said in found.values()] == ["ED", "ES", "ED"]


@pytest.mark.parametrize(("pattern", "message"), [
    (r"(?P<patient>", "expected a regular expression"),
    (r"(?P<phase>ED)", r"a group \(\?P<patient>...\).*found \['phase'\]"),
    (r"(?P<patient>\w)(?P<age>\d)", "found .'age', 'patient'"),
    (r"(?P<patient>.+)_(?P<phase>\w+)\.", "p1_dia.nii: expected .* a phase ED or ES.*P<ED>"),
    (r"(?P<patient>p)(?P<slice>\w+)", "expected .* a slice that is a number"),
    (r"(?P<patient>z*)", "p1_dia.nii: expected a patient"),
])
def test_a_pattern_that_does_not_say_who_is_who_is_refused(pattern, message):
    with pytest.raises(DataError, match=message):
        by_pattern(pattern, ["p1_dia.nii"])
