"""Write the measures of a mask as a DICOM structured report (PS3.16 TID 1500).

A group of measurements for each class and for each lesion (TID 1411) refers to the segment of the
DICOM SEG that they were taken from, a lesion to its frames; where there are several classes, a
group of its own (TID 1501) has the measures of all hemorrhage together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset

from hemseg_cli.core.classes import LabelClass
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.quantities import VOLUME_CONFIDENCE
from hemseg_cli.imaging.dicom.derived import (
    DESCRIPTION,
    MANUFACTURER,
    code_of,
    equipment,
    label_of,
    save,
    software,
    uid_of,
)
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.origin import Algorithm

SERIES_NUMBER = 901
MOST_LESIONS = 50
"""Lesions of a class with groups of their own: nobody reads more, and each takes 15 ms to write."""

_PRIVATE = "99HEMSEG"  # the scheme of codes that no dictionary has (PS3.3 8.2)
_SEGMENT, _DERIVATION = "SegmentIdentificationSequence", "DerivationImageSequence"
_DIGITS_ML, _DIGITS_HU = 4, 2
# Code and meaning of the two ends of a volume's interval. DICOM's dictionary has no such codes.
_BOUNDS = (
    ("VOLLOW", f"Lower bound of the true volume, {VOLUME_CONFIDENCE:.0%} confidence"),
    ("VOLHIGH", f"Upper bound of the true volume, {VOLUME_CONFIDENCE:.0%} confidence"),
)


@dataclass(frozen=True)
class Measures:
    """Volume, ABC/2 (Kothari et al., Stroke 1996;27:1304) and mean HU of a region.

    `mean_hu` is None of an empty one. `slices`: the first and the last k of a lesion, counted from
    0 in the order of the source's slices; None: all of them. `lesions`: how many there are, of a
    region that is none itself. `interval_ml`: of the true volume, with the confidence
    `VOLUME_CONFIDENCE`.
    """

    volume_ml: float
    abc2_ml: float
    mean_hu: float | None
    slices: tuple[int, int] | None = None
    lesions: int | None = None
    interval_ml: tuple[float, float] | None = None


@dataclass(frozen=True)
class ClassMeasures:
    """The measures of one class, and of each of its lesions, largest first."""

    label_class: LabelClass
    whole: Measures
    lesions: tuple[Measures, ...]


def write_sr(
    path: Path,
    segmentation: Dataset,
    headers: Sequence[Dataset],
    found: Sequence[ClassMeasures],
    *,
    algorithm: Algorithm,
    union: Measures | None = None,
) -> None:
    """Write the report of the classes `found`, in the order of the SEG's segments.

    `segmentation`: the SEG, its pixels left out. `headers`: of `derived.source_headers`. `union`:
    all hemorrhage together, where there are several classes. Of more than `MOST_LESIONS` lesions of
    a class the largest have groups of their own, and all are counted. FileFormatError where the SEG
    is of other classes or slices.
    """
    frames = len(found) * len(headers)
    if len(segmentation.SegmentSequence) != len(found) or segmentation.NumberOfFrames != frames:
        raise FileFormatError("the DICOM SEG is not of these classes and slices")

    with quiet_pydicom():
        report = _report(segmentation, headers, found, algorithm, union)
    save(path, report)


def _report(
    segmentation: Dataset,
    headers: Sequence[Dataset],
    found: Sequence[ClassMeasures],
    algorithm: Algorithm,
    union: Measures | None,
) -> Any:
    import highdicom.sr as hd  # slow to import
    from pydicom.sr.codedict import codes

    # The whole first, then each class with its lesions.
    groups = [] if union is None else [_union_group(union, found, segmentation, algorithm)]
    for number, one in enumerate(found, start=1):
        groups += _class_groups(number, one, found, segmentation, headers, algorithm)

    content = hd.MeasurementReport(
        observation_context=hd.ObservationContext(observer_device_context=_device(algorithm)),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )

    # The numbers belong to the SEG's content, so that its identifiers are theirs.
    seed = (str(segmentation.SOPInstanceUID), algorithm.version)
    report = hd.ComprehensiveSR(
        evidence=[segmentation, *headers],
        content=content[0],
        series_instance_uid=uid_of("report series", *seed),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid_of("report", *seed),
        instance_number=1,
        is_complete=True,
        series_description=DESCRIPTION,
        **equipment(),
    )
    report.CodingSchemeIdentificationSequence = [_private_scheme()]
    return report


def _private_scheme() -> Dataset:
    """Say whose the codes are that no dictionary has."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = _PRIVATE
    scheme.CodingSchemeName = "hemseg: methods of measurement"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    return scheme


def _device(algorithm: Algorithm) -> Any:
    """What took the measures: a program, no person."""
    import highdicom.sr as hd
    from pydicom.sr.codedict import codes

    return hd.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.DeviceObserverIdentifyingAttributes(
            uid=uid_of("device", algorithm.name, algorithm.version, algorithm.settings_hash),
            name=software(algorithm),
            manufacturer_name=MANUFACTURER,
            model_name=f"{MANUFACTURER} {algorithm.version}",
        ),
    )


def _class_groups(
    number: int,
    one: ClassMeasures,
    found: Sequence[ClassMeasures],
    segmentation: Dataset,
    headers: Sequence[Dataset],
    algorithm: Algorithm,
) -> list[Any]:
    """The groups of a class as a whole and of each of its lesions, largest first."""
    import highdicom.sr as hd
    from pydicom.sr.codedict import codes

    classes = [each.label_class for each in found]
    label = label_of(one.label_class, classes)
    segment = segmentation.SegmentSequence[number - 1]
    whole_uid = str(segment.TrackingUID)
    # A class is tracked by the identifier of its segment, a lesion by one made from it.
    regions = [(label, whole_uid, one.whole)]
    regions += [
        (f"{label}, lesion {n}", uid_of("lesion", str(n), whole_uid), lesion)
        for n, lesion in enumerate(one.lesions[:MOST_LESIONS], start=1)
    ]

    # Read once: which frame shows which slice of this segment.
    frame_of = _frames(segmentation, number, headers)
    groups: list[Any] = []
    for name, uid, measures in regions:
        group = hd.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.TrackingIdentifier(uid=uid, identifier=name),
            referenced_segment=_reference(segmentation, number, frame_of, measures, headers),
            finding_type=code_of(one.label_class, classes),
            finding_category=codes.SCT.MorphologicallyAbnormalStructure,
            algorithm_id=_algorithm(algorithm),
            measurements=_measurements(measures),
        )
        groups.append(group)
    return groups


def _union_group(
    union: Measures,
    found: Sequence[ClassMeasures],
    segmentation: Dataset,
    algorithm: Algorithm,
) -> Any:
    """The group of all hemorrhage together, which no single segment shows."""
    import highdicom.sr as hd
    from pydicom.sr.codedict import codes

    # Tracked by what it unites, so that a later report of the same SEG means the same.
    uids = [str(segment.TrackingUID) for segment in segmentation.SegmentSequence]
    return hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(
            uid=uid_of("union", *uids[: len(found)]), identifier="All hemorrhage"
        ),
        finding_type=codes.SCT.Hemorrhage,
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        algorithm_id=_algorithm(algorithm),
        measurements=_measurements(union),
    )


def _measurements(measures: Measures) -> list[Any]:
    """Volume in mL and its interval, ABC/2 by its own method, mean HU unless empty, and lesions."""
    import highdicom.sr as hd
    from pydicom.sr.codedict import codes

    millilitre = hd.CodedConcept("ml", "UCUM", "milliliter")
    abc2 = hd.CodedConcept("ABC2", _PRIVATE, "ABC/2 (Kothari 1996)")
    rows = [
        hd.Measurement(codes.SCT.Volume, round(measures.volume_ml, _DIGITS_ML), millilitre),
        hd.Measurement(
            codes.SCT.Volume, round(measures.abc2_ml, _DIGITS_ML), millilitre, method=abc2
        ),
    ]
    for (code, meaning), bound_ml in zip(_BOUNDS, measures.interval_ml or (), strict=False):
        bound = hd.CodedConcept(code, _PRIVATE, meaning)
        volume = round(bound_ml, _DIGITS_ML)
        rows.append(hd.Measurement(codes.SCT.Volume, volume, millilitre, derivation=bound))
    if measures.mean_hu is not None:
        rows.append(
            hd.Measurement(
                codes.DCM.AttenuationCoefficient,
                round(measures.mean_hu, _DIGITS_HU),
                codes.UCUM.HounsfieldUnit,
                derivation=codes.SCT.Mean,
            )
        )
    if measures.lesions is not None:
        rows.append(hd.Measurement(codes.SCT.NumberOfLesions, measures.lesions, codes.UCUM.NoUnits))
    return rows


def _algorithm(algorithm: Algorithm) -> Any:
    import highdicom.sr as hd
    from pydicom.sr.codedict import codes

    return hd.AlgorithmIdentification(
        name=software(algorithm),
        version=algorithm.version,
        parameters=[f"model_and_settings_sha256={algorithm.settings_hash}"],
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
    )


def _frames(segmentation: Dataset, number: int, headers: Sequence[Dataset]) -> list[int]:
    """The number, from 1, of the frame of a segment that shows each slice k."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    by_slice: dict[str, int] = {}
    for frame, own in enumerate(segmentation.PerFrameFunctionalGroupsSequence, start=1):
        # What all frames have in common is stated once, for all of them.
        segment = (own if _SEGMENT in own else shared)[_SEGMENT][0]
        source = (own if _DERIVATION in own else shared)[_DERIVATION][0]
        if segment.ReferencedSegmentNumber == number:
            slice_uid = source.SourceImageSequence[0].ReferencedSOPInstanceUID
            by_slice[str(slice_uid)] = frame
    return [by_slice[str(header.SOPInstanceUID)] for header in headers]


def _reference(
    segmentation: Dataset,
    number: int,
    frame_of: Sequence[int],
    measures: Measures,
    headers: Sequence[Dataset],
) -> Any:
    """Refer to a segment; to a lesion by the frames that show it."""
    import highdicom.sr as hd

    frames = None
    if measures.slices is not None:
        first, last = measures.slices
        frames = sorted(frame_of[first : last + 1])
    reference = hd.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=number,
        frame_numbers=frames,
        source_series=hd.SourceSeriesForSegmentation(str(headers[0].SeriesInstanceUID)),
    )

    # PS3.3 table 10-3: frames and segment exclude each other; a frame is of one segment.
    if frames is not None:
        del reference[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
    return reference
