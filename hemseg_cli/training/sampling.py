"""Cut training patches from the cache.

What item `index` of an epoch is depends on (seed, epoch, index) alone, whatever process makes it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hemseg_cli.core.errors import HemsegError
from hemseg_cli.training.augmentation import augmented_patch
from hemseg_cli.training.cache import PreparedCase, preprocess_of

if TYPE_CHECKING:
    from hemseg_cli.config.schema import TrainConfig

Size = tuple[int, int, int]
_VOXELS_A_DRAW = 64
_MOST_DRAWS = 50
_BACKGROUND = -1  # in place of a class: the patch is centred on background
_SMALLEST_ML = 0.1  # of the weights: below lie single voxels, which no training is about
_ORDER_STREAM = 2**31  # an index that no patch has: the stream of the epoch's order


class PatchDataset(Dataset[dict[str, Any]]):
    """The patches of one epoch.

    An item is {"image": float32 [c, i, j, k], "label": float32 [classes, i, j, k], "scan": str}.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        train: "TrainConfig",
        patch: Sequence[int],
        *,
        seed: int,
        epoch: int,
    ) -> None:
        if not cases:
            raise HemsegError(
                "the train split is empty", hint="hemseg doctor --data   says what each split holds"
            )
        if not any(case.foreground_voxels for case in cases):
            raise HemsegError(
                f"none of the {len(cases)} training labels has any hemorrhage",
                hint="hemseg doctor --data   checks the labels",
            )
        i, j, k = (int(n) for n in patch)
        self.cases, self.train, self.patch, self.seed, self.epoch = (
            list(cases),
            train,
            (i, j, k),
            seed,
            epoch,
        )
        self._padding = (
            preprocess_of(train).air() if train.padding == "air" else (0.0,) * len(train.windows)
        )
        self._hu_per_unit = [window.std for window in preprocess_of(train).windows]
        self._order = self._draw_order()

    def __len__(self) -> int:
        return len(self._order)

    def scan(self, index: int) -> str:
        """The scan that patch `index` is cut from."""
        return self.cases[self._order[index][0]].scan

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Patch `index` of the epoch."""
        random = np.random.default_rng((self.seed, self.epoch, index))
        scan, centre = self._order[index]
        case = self.cases[scan]
        start = _patch_start(case, self.train, self.patch, random, centre)
        image, label = augmented_patch(
            case,
            start,
            self.patch,
            self.train.augment,
            padding=self._padding,
            hu_per_unit=self._hu_per_unit,
            random=random,
        )
        return {"image": image, "label": label, "scan": case.scan}

    def _draw_order(self) -> list[tuple[int, int | None]]:
        """The scan of each patch, and the class that it is centred on (None: drawn per patch)."""
        random = np.random.default_rng((self.seed, self.epoch, _ORDER_STREAM))
        if len(self.cases[0].channels.values) > 1:
            return self._draw_by_class(random)

        counts = self._patches_of_scans(random)
        if self.train.patch_order == "by_scan":
            scans = random.permutation(len(self.cases))
            order = np.repeat(scans, counts[scans])
        else:
            order = random.permutation(np.repeat(np.arange(len(self.cases)), counts))
        return [(int(scan), None) for scan in order]

    def _patches_of_scans(self, random: np.random.Generator) -> NDArray[np.int64]:
        """How many patches of this epoch each scan gives; as many in all whatever the weights."""
        each = self.train.patches_per_scan
        if self.train.small_lesion_power == 0:
            return np.full(len(self.cases), each)

        # Systematic sampling: a scan's number is its share of the epoch, rounded up or down.
        total = each * len(self.cases)
        ends = np.cumsum(_weights(self.cases, self.train.small_lesion_power))
        places = (np.arange(total) + random.random()) / total
        chosen = np.searchsorted(ends / ends[-1], places, side="right")
        return np.bincount(chosen, minlength=len(self.cases))

    def _draw_by_class(self, random: np.random.Generator) -> list[tuple[int, int | None]]:
        """Centre as many patches on each class, however rare, and the others on background."""
        count = len(self.cases) * self.train.patches_per_scan
        classes = range(len(self.cases[0].channels.values))
        scans_with = [
            [n for n, case in enumerate(self.cases) if case.class_voxels(channel)]
            for channel in classes
        ]
        there = [channel for channel in classes if scans_with[channel]]

        # The classes take turns, from a place that changes with the epoch.
        first = int(random.integers(len(there)))
        order: list[tuple[int, int | None]] = []
        for number in range(round(count * self.train.foreground_share)):
            channel = there[(first + number) % len(there)]
            scans = scans_with[channel]
            if self.train.small_lesion_power == 0:
                scan = int(random.integers(len(scans)))
            else:
                weights = _weights([self.cases[n] for n in scans], self.train.small_lesion_power)
                scan = int(random.choice(len(scans), p=weights / weights.sum()))
            order.append((scans[scan], channel))

        rest = count - len(order)
        scans = np.resize(random.permutation(len(self.cases)), rest).tolist()
        order += [(int(scan), _BACKGROUND) for scan in scans]
        return [order[int(n)] for n in random.permutation(count)]


def _weights(cases: Sequence[PreparedCase], power: float) -> NDArray[np.float64]:
    """How often each scan is drawn, relative to the others: 1 / volume^power.

    A scan without hemorrhage is drawn as often as the middle one of those that have some.
    """
    volumes = np.array([case.truth_ml for case in cases], dtype=np.float64)
    bled = volumes > 0
    if not bled.any():
        return np.ones(len(cases))
    volumes[~bled] = np.median(volumes[bled])
    return np.asarray(np.maximum(volumes, _SMALLEST_ML) ** -power)


def _patch_start(
    case: PreparedCase,
    train: "TrainConfig",
    patch: Size,
    random: np.random.Generator,
    channel: int | None = None,
) -> Size:
    """The first voxel of a patch; negative where it begins in the padding."""
    room = [
        _room(shape, size, pad)
        for shape, size, pad in zip(case.shape, patch, train.pad_to, strict=True)
    ]
    centre = _centre(case, train, patch, room, random, channel)
    i, j, k = (
        int(np.clip(c - size // 2, low, high))
        for c, size, (low, high) in zip(centre, patch, room, strict=True)
    )
    return i, j, k


def _room(shape: int, size: int, pad_to: int) -> tuple[int, int]:
    """First and last place where a patch may begin.

    Inside the scan after it was padded on both sides to `pad_to`, or to the patch.
    """
    padding = max(pad_to, size) - shape
    before = max(0, padding) // 2
    return -before, max(shape, pad_to, size) - before - size


def _centre(
    case: PreparedCase,
    train: "TrainConfig",
    patch: Size,
    room: Sequence[tuple[int, int]],
    random: np.random.Generator,
    channel: int | None,
) -> NDArray[np.int64]:
    """Draw the voxel about which a patch is cut, before it is moved inside its `room`.

    `channel`: the class that it lies on; None: any, or background, as their share wants.
    """
    on_class = channel is not None and channel != _BACKGROUND
    if on_class or (
        channel is None and case.foreground_voxels and random.random() < train.foreground_share
    ):
        if channel is None:
            voxel = int(case.foreground[random.integers(case.foreground_voxels)])
        else:
            voxel = case.class_voxel(channel, int(random.integers(case.class_voxels(channel))))
        reach = (train.jitter * np.array(patch) / 2).astype(int)
        return np.array(np.unravel_index(voxel, case.shape)) + random.integers(-reach, reach + 1)

    if train.background_centres == "tissue":
        return _tissue_voxel(case, random)

    low = np.array([first for first, _ in room])
    high = np.array([last + size for (_, last), size in zip(room, patch, strict=True)])
    label = case.label
    while True:
        centre = random.integers(low, high)
        inside = bool((centre >= 0).all() and (centre < case.shape).all())
        # A label that fills the scan has no background at all: `anywhere` then serves.
        if (
            train.background_centres == "anywhere"
            or case.foreground_voxels >= label.size
            or not (inside and label[tuple(centre)])
        ):
            return np.asarray(centre)


def _tissue_voxel(case: PreparedCase, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw a voxel without hemorrhage whose normalised value is above 0 in some channel.

    The background of MONAI's `RandCropByPosNegLabeld` with `image_threshold = 0`: uniform over
    those voxels, and over those of the hemorrhage where there is none of them.
    """
    image, label = case.image, case.label
    # Drawing until one is found is uniform, and reads a few pages of the map instead of all.
    for _ in range(_MOST_DRAWS):
        draws = tuple(random.integers(0, n, _VOXELS_A_DRAW) for n in case.shape)
        i, j, k = draws
        found = np.flatnonzero((image[:, i, j, k] > 0).any(0) & (label[i, j, k] == 0))
        if len(found):
            return np.array([axis[found[0]] for axis in draws])

    candidates: NDArray[Any] = np.flatnonzero(
        (np.asarray(image) > 0).any(0) & (np.asarray(label) == 0)
    )
    if not len(candidates):
        candidates = case.foreground if case.foreground_voxels else np.arange(label.size)
    voxel = int(candidates[random.integers(len(candidates))])
    return np.array(np.unravel_index(voxel, case.shape))
